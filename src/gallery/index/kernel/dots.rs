//! Products of vectors, summed in lanes, in one order whatever the width of the machine's vectors.

use super::Portable;

/// Lanes summed independently: enough to keep the adders of any processor busy.
pub(super) const LANES: usize = 16;

/// An instruction set that products are written for: left to the compiler, some were summed two lanes at a time. All give the same bits.
pub(super) trait Dots: Copy {
    /// Sums of products, lane by lane.
    fn dot(self, a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES];

    /// The same of int8 codes. Exact: 127² · 4096 fits an i32.
    fn dot_codes(self, a: &[[i8; LANES]], b: &[[i8; LANES]]) -> i32;

    /// The same of a vector with [`whole`] values.
    fn dot_parts(
        self,
        a: &[[f32; LANES]],
        codes: &[[i8; LANES]],
        parts: &[[i16; LANES]],
    ) -> [f32; LANES];
}

/// Sum of products of two slices of the same length.
#[inline(always)]
pub(super) fn dot(dots: impl Dots, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks(), b.as_chunks());
    joined(dots.dot(a, b)) + a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum::<f32>()
}

/// The same of int8 codes.
#[inline(always)]
pub(super) fn dot_codes(dots: impl Dots, a: &[i8], b: &[i8]) -> i32 {
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks(), b.as_chunks());
    let product = |(x, y): (&i8, &i8)| i32::from(*x) * i32::from(*y);
    dots.dot_codes(a, b) + a_tail.iter().zip(b_tail).map(product).sum::<i32>()
}

/// The same of a vector with [`whole`] values.
#[inline(always)]
pub(super) fn dot_parts(dots: impl Dots, a: &[f32], codes: &[i8], parts: &[i16]) -> f32 {
    let (a, a_tail) = a.as_chunks();
    let ((codes, codes_tail), (parts, parts_tail)) = (codes.as_chunks(), parts.as_chunks());
    let tail = a_tail.iter().zip(codes_tail).zip(parts_tail);
    let tail = tail.map(|((x, code), part)| x * whole(*code, *part));
    joined(dots.dot_parts(a, codes, parts)) + tail.sum::<f32>()
}

/// A value in parts of a step; single precision holds all that there can be.
#[inline(always)]
pub(in crate::gallery::index) fn whole(code: i8, part: i16) -> f32 {
    ((i32::from(code) << 16) + i32::from(part)) as f32
}

/// The largest magnitude.
#[inline(always)]
pub(in crate::gallery::index) fn largest(values: &[f32]) -> f32 {
    let larger = |largest: f32, value: f32| if value > largest { value } else { largest };
    let (values, tail) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for values in values {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], values[lane].abs());
        }
    }
    lanes.into_iter().chain(tail.iter().map(|value| value.abs())).fold(0.0, larger)
}

#[inline(always)]
fn joined(sums: [f32; LANES]) -> f32 {
    let (low, high) = sums.split_at(LANES / 2);
    low.iter().zip(high).map(|(x, y)| x + y).sum()
}

impl Dots for Portable {
    #[inline]
    fn dot(self, a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for (x, y) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
        sums
    }

    #[inline]
    fn dot_codes(self, a: &[[i8; LANES]], b: &[[i8; LANES]]) -> i32 {
        let (a, b) = (a.as_flattened(), b.as_flattened());
        a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
    }

    #[inline]
    fn dot_parts(
        self,
        a: &[[f32; LANES]],
        codes: &[[i8; LANES]],
        parts: &[[i16; LANES]],
    ) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for ((x, code), part) in a.iter().zip(codes).zip(parts) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * whole(code[lane], part[lane]);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kernel;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_equal_the_plain_sum(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0, any::<i8>(), any::<i16>()), 0..600),
        ) {
            let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
            let b: Vec<f32> = pairs.iter().map(|p| p.1).collect();
            let codes: Vec<i8> = pairs.iter().map(|p| p.2).collect();
            let others: Vec<i8> = pairs.iter().map(|p| p.3 as i8).collect();
            let parts: Vec<i16> = pairs.iter().map(|p| p.3).collect();
            let product: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let of_codes: i32 = codes.iter().zip(&others).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum();
            let value = |(code, part): (&i8, &i16)| 65536.0 * f64::from(*code) + f64::from(*part);
            let of_parts: f64 = a.iter().zip(codes.iter().zip(&parts)).map(|(x, both)| f64::from(*x) * value(both)).sum();
            for kernel in Kernel::every() {
                let got = kernel.dot(&a, &b);
                prop_assert!((f64::from(got) - product).abs() < 1e-3, "{:?}", kernel);
                prop_assert_eq!(got.to_bits(), dot(Portable, &a, &b).to_bits(), "{:?}", kernel);
                prop_assert_eq!(kernel.dot_codes(&codes, &others), of_codes, "{:?}", kernel);
                let got = kernel.dot_parts(&a, &codes, &parts);
                prop_assert!((f64::from(got) - of_parts).abs() < 1e-3 * 8_388_608.0, "{got} {of_parts}");
                prop_assert_eq!(got.to_bits(), dot_parts(Portable, &a, &codes, &parts).to_bits(), "{:?}", kernel);
            }
        }
    }
}
