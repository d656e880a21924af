//! Elementary functions: written so that the compiler vectorises them, and by instruction where time is spent on them. Left to the compiler, an
//! exponential took 38 cycles for sixteen values.

use pulp::Simd;

pub(super) use crate::simd::{dispatch, vectorised};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, so that a reduced argument keeps its low bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Adding it leaves the nearest integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;
/// Arguments below and above which an exponential is what it is there.
const LEAST: f32 = -87.3;
const MOST: f32 = 88.3;
/// Of `(e^x - 1 - x) / x^2`, the highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];

/// `e^x` to 2 units in the last place; 0 below -87 and f32's largest finite power above 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(LEAST, MOST);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2[0]) - n * LN_2[1];
    let p = EXP.iter().skip(1).fold(EXP[0], |p, next| p * r + next);
    let p = p * (r * r) + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LEAST { 0.0 } else { p * power }
}

/// [`exp`] of each, with fused multiplications and additions where there are any.
#[inline(always)]
pub(super) fn exps<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let of = |value: f32| simd.splat_f32s(value);
    let fused = |a, b, c| simd.mul_add_e_f32s(a, b, c);
    let shifted = fused(x, of(LOG2_E), of(ROUND));
    let n = simd.sub_f32s(shifted, of(ROUND));
    let r = fused(n, of(-LN_2[1]), fused(n, of(-LN_2[0]), x));
    let p = EXP.iter().skip(1).fold(of(EXP[0]), |p, next| fused(p, r, of(*next)));
    let p = fused(p, simd.mul_f32s(r, r), simd.add_f32s(r, of(1.0)));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.add_u32s(exponent, simd.splat_u32s(0x3f80_0000));
    let power = simd.mul_f32s(p, simd.transmute_f32s_u32s(power));
    // What is no number is neither, and stays none.
    let power = simd.select_f32s(simd.less_than_f32s(x, of(LEAST)), of(0.0), power);
    simd.select_f32s(simd.greater_than_f32s(x, of(MOST)), of(2.227_999e38), power)
}

/// The logistic function.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Where the error function is as good as 1.
const ERF_MOST: f32 = 3.832_507;
/// A polynomial over another, the highest powers of `x^2` first, times `x`.
const ERF_OVER: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_5e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
const ERF_UNDER: [f32; 5] =
    [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];

/// The error function to 4 units in the last place: the rational approximation of XLA and Eigen.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-ERF_MOST, ERF_MOST);
    let s = x * x;
    let of = |powers: &[f32]| powers.iter().skip(1).fold(powers[0], |sum, next| sum * s + next);
    x * of(&ERF_OVER) / of(&ERF_UNDER)
}

/// [`erf`] of each, likewise.
#[inline(always)]
pub(super) fn erfs<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let [least, most] = [-ERF_MOST, ERF_MOST].map(|bound| simd.splat_f32s(bound));
    let x = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    let x = simd.select_f32s(simd.greater_than_f32s(x, most), most, x);
    let s = simd.mul_f32s(x, x);
    let of = |powers: &[f32]| {
        let first = simd.splat_f32s(powers[0]);
        let add = |sum, next: &f32| simd.mul_add_e_f32s(sum, s, simd.splat_f32s(*next));
        powers.iter().skip(1).fold(first, add)
    };
    simd.div_f32s(simd.mul_f32s(x, of(&ERF_OVER)), of(&ERF_UNDER))
}

const LANES: usize = 16;

/// Sum of `f(i)` over `0..n` in a fixed order of 16 running sums, which vectorises where one
/// running sum cannot.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += LANES;
    }
    let tail: f32 = (whole..n).map(&f).sum();
    lanes.iter().sum::<f32>() + tail
}

/// Largest of the values, or minus infinity for none.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().copied().fold(tail, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_follows_the_library_over_its_whole_range() {
        for i in -88_000..88_000 {
            let x = i as f32 * 1e-3;
            let (got, want) = (exp(x), f64::from(x).exp());
            let error = (f64::from(got) - want).abs();
            assert!(error <= want * 2.5e-7 + 1.3e-38, "exp({x}) = {got:e}, not {want:e}");
        }
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    enum Function {
        Exp,
        Erf,
    }

    /// A function of each value, by instruction.
    struct Each<'a>(Function, &'a mut [f32]);

    impl pulp::WithSimd for Each<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (values, others) = S::as_mut_simd_f32s(self.1);
            assert!(others.is_empty());
            for value in values {
                *value = match self.0 {
                    Function::Exp => exps(simd, *value),
                    Function::Erf => erfs(simd, *value),
                };
            }
        }
    }

    #[test]
    fn functions_by_instruction_are_those_of_the_library() {
        // With the widest vectors that there are, and one by one.
        let ways: [fn(&mut [f32]); 2] = [
            |values| dispatch(Each(Function::Exp, values)),
            |values| pulp::Scalar::new().vectorize(Each(Function::Exp, values)),
        ];
        let far = [-1e30, f32::NEG_INFINITY, -87.4, 88.4, 1e30, f32::INFINITY, f32::NAN, -0.0];
        for way in ways {
            let mut arguments: Vec<f32> = (-87_000..88_000).map(|i| i as f32 * 1e-3).collect();
            arguments.extend(far);
            arguments.resize(arguments.len().next_multiple_of(16), 0.0);
            let mut got = arguments.clone();
            way(&mut got);
            for (x, got) in arguments.iter().zip(got) {
                match x {
                    x if x.is_nan() => assert!(got.is_nan()),
                    x if *x < -87.3 => assert_eq!(got, 0.0),
                    x if *x > 88.3 => assert!(got.is_finite() && got > 2.2e38),
                    x => {
                        let want = f64::from(*x).exp();
                        let error = (f64::from(got) - want).abs();
                        assert!(error <= want * 2.5e-7, "exp({x}) = {got:e}, not {want:e}");
                    }
                }
            }
        }
        let mut arguments: Vec<f32> = (-6_000..6_000).map(|i| i as f32 * 1e-3).collect();
        arguments.extend([f32::NEG_INFINITY, f32::INFINITY, f32::NAN]);
        arguments.resize(arguments.len().next_multiple_of(16), 0.0);
        let mut got = arguments.clone();
        dispatch(Each(Function::Erf, &mut got));
        for (x, got) in arguments.iter().zip(got) {
            let want = candle_core::cpu::erf::erf_f64(f64::from(*x));
            let right =
                if x.is_nan() { got.is_nan() } else { (f64::from(got) - want).abs() < 4e-7 };
            assert!(right, "erf({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn erf_follows_the_double_precision_one() {
        for i in -6_000..6_000 {
            let x = i as f32 * 1e-3;
            let want = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - want).abs() < 4e-7, "erf({x})");
        }
    }

    #[test]
    fn sums_and_maxima_take_the_tail() {
        let values: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(sum(values.len(), |i| values[i]), 666.0);
        assert_eq!(max(&values), 36.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
