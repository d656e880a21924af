//! Dot products in safe code that compiles to vector instructions.

use std::collections::BinaryHeap;

use pulp::{Simd, WithSimd};

/// Lanes summed independently: enough to keep the adders of any processor busy.
const LANES: usize = 16;

/// The one way that templates are compared, so that an exact scan and a re-ranked walk give the same
/// bits: lanes are summed in one order, whatever the width of the machine's vectors.
#[derive(Debug, Clone, Copy)]
pub(in crate::gallery) struct Kernel {
    /// AVX2, where the machine has it; the binary itself is built for any x86-64.
    #[cfg(target_arch = "x86_64")]
    wide: Option<pulp::x86::V3>,
}

impl Kernel {
    pub(in crate::gallery) fn new() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            wide: pulp::x86::V3::try_new(),
        }
    }

    /// Sum of products of two slices of the same length.
    pub(in crate::gallery) fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        self.widest(
            #[inline(always)]
            || dot(a, b),
        )
    }

    /// Dot product of two int8 codes of the same length. Exact: 127² · 4096 fits an i32.
    pub(in crate::gallery) fn dot_codes(self, a: &[i8], b: &[i8]) -> i32 {
        self.widest(
            #[inline(always)]
            || dot_codes(a, b),
        )
    }

    /// The `count` rows that differ from `query` in the fewest bits, closest first, the earlier of equals.
    /// rows: `[rows, query.len()]`.
    pub(in crate::gallery) fn closest_bits(
        self,
        rows: &[u64],
        query: &[u64],
        count: usize,
    ) -> Vec<usize> {
        self.widest(
            #[inline(always)]
            || closest_bits(rows, query, count),
        )
    }

    /// Runs a loop compiled for the widest vectors of this machine.
    #[inline(always)]
    fn widest<R>(self, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.wide {
            return Simd::vectorize(simd, Work(work));
        }
        work()
    }
}

struct Work<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Work<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> R {
        (self.0)()
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (x, y) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum();
    let (low, high) = sums.split_at(LANES / 2);
    low.iter().zip(high).map(|(x, y)| x + y).sum::<f32>() + tail
}

#[inline(always)]
fn dot_codes(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

#[inline(always)]
fn closest_bits(rows: &[u64], query: &[u64], count: usize) -> Vec<usize> {
    let mut closest = BinaryHeap::with_capacity(count + 1);
    let mut worst = u32::MAX;
    for (at, row) in rows.chunks_exact(query.len().max(1)).enumerate() {
        let differ: u32 = row.iter().zip(query).map(|(x, y)| (x ^ y).count_ones()).sum();
        if differ < worst {
            closest.push((differ, at));
            if closest.len() > count {
                closest.pop();
            }
            if closest.len() == count {
                worst = closest.peek().map_or(u32::MAX, |(differ, _)| *differ);
            }
        }
    }
    closest.into_sorted_vec().into_iter().map(|(_, at)| at).collect()
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
            prop_assert_eq!(kernel.dot(&a, &b).to_bits(), dot(&a, &b).to_bits());
            let a: Vec<i8> = pairs.iter().map(|p| p.2).collect();
            let b: Vec<i8> = pairs.iter().map(|p| p.3).collect();
            let plain: i32 = pairs.iter().map(|p| i32::from(p.2) * i32::from(p.3)).sum();
            prop_assert_eq!(kernel.dot_codes(&a, &b), plain);
        }

        #[test]
        fn the_closest_bits_are_those_that_sorting_all_gives(
            rows in prop::collection::vec(any::<u64>(), 0..300),
            query in prop::collection::vec(any::<u64>(), 1..9),
            count in 1_usize..40,
        ) {
            let differ = |(at, row): (usize, &[u64])| {
                (row.iter().zip(&query).map(|(x, y)| (x ^ y).count_ones()).sum::<u32>(), at)
            };
            let mut all: Vec<_> = rows.chunks_exact(query.len()).enumerate().map(differ).collect();
            all.sort_unstable();
            let expected: Vec<usize> = all.into_iter().take(count).map(|(_, at)| at).collect();
            prop_assert_eq!(Kernel::new().closest_bits(&rows, &query, count), expected);
        }
    }
}
