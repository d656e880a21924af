//! Dot products, in the widest vectors that the processor has.

use pulp::{Arch, Simd, WithSimd};

/// Chosen once by what the processor can do; every comparison of a process goes through one, so an
/// exact scan and a re-ranked walk give the same bits.
#[derive(Debug, Clone, Copy)]
pub(in crate::gallery) struct Kernel(Arch);

impl Kernel {
    pub(in crate::gallery) fn new() -> Self {
        Self(Arch::new())
    }

    /// Sum of products of two slices of the same length.
    pub(in crate::gallery) fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        self.0.dispatch(Dot { a, b })
    }

    /// Dot product of two int8 codes of the same length. Exact: 127² · 4096 fits an i32.
    pub(in crate::gallery) fn dot_codes(self, a: &[i8], b: &[i8]) -> i32 {
        self.0.dispatch(
            #[inline(always)]
            || a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum(),
        )
    }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (a, a_tail) = S::as_simd_f32s(self.a);
        let (b, b_tail) = S::as_simd_f32s(self.b);
        // Four sums, so that one addition does not wait for the one before.
        let mut sums = [simd.splat_f32s(0.0); 4];
        let (a4, a_rest) = a.as_chunks::<4>();
        let (b4, b_rest) = b.as_chunks::<4>();
        for (x, y) in a4.iter().zip(b4) {
            for lane in 0..4 {
                sums[lane] = simd.mul_add_f32s(x[lane], y[lane], sums[lane]);
            }
        }
        for (x, y) in a_rest.iter().zip(b_rest) {
            sums[0] = simd.mul_add_f32s(*x, *y, sums[0]);
        }
        let pairs = [simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3])];
        let mut sum = simd.reduce_sum_f32s(simd.add_f32s(pairs[0], pairs[1]));
        for (x, y) in a_tail.iter().zip(b_tail) {
            sum += x * y;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dot_products_equal_the_plain_sum(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0, any::<i8>(), any::<i8>()), 0..600),
        ) {
            let kernel = Kernel::new();
            let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
            let b: Vec<f32> = pairs.iter().map(|p| p.1).collect();
            let plain: f64 = pairs.iter().map(|p| f64::from(p.0) * f64::from(p.1)).sum();
            prop_assert!((f64::from(kernel.dot(&a, &b)) - plain).abs() < 1e-3);
            let a: Vec<i8> = pairs.iter().map(|p| p.2).collect();
            let b: Vec<i8> = pairs.iter().map(|p| p.3).collect();
            let plain: i32 = pairs.iter().map(|p| i32::from(p.2) * i32::from(p.3)).sum();
            prop_assert_eq!(kernel.dot_codes(&a, &b), plain);
        }
    }
}
