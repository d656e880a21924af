//! Sums of samples, each times a weight: all the work of a resize.

use crate::simd::{Closure, Vectors, vectorised};

/// Fixed-point precision of the weights: 8 bits of sample, 2 of headroom, the rest of 32.
pub(super) const PRECISION: u32 = 32 - 8 - 2;
/// One half, so that cutting off the fraction rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// Samples that are summed side by side.
pub(super) const LANES: usize = 64;

/// An instruction set that sums are written for: the compiler kept them in memory, and fetched and stored each for every weight. All give the
/// same.
pub(super) trait Weigh: Copy {
    /// Sums of the first samples of rows that begin `stride` bytes apart, each row's times its weight, as samples. Sums fit 32 bits.
    fn weigh(self, rows: &[u8], stride: usize, weights: &[i32]) -> [u8; LANES];
}

/// Work that weighs samples, whatever by.
pub(super) trait Weighing {
    type Output;

    /// Must be inlined.
    fn by(self, weigh: impl Weigh) -> Self::Output;
}

/// Any processor's instructions.
#[derive(Debug, Clone, Copy)]
struct Portable;

impl Weigh for Portable {
    #[inline(always)]
    fn weigh(self, rows: &[u8], stride: usize, weights: &[i32]) -> [u8; LANES] {
        let mut sums = [HALF; LANES];
        for (row, weight) in first_samples(rows, stride).zip(weights) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        sums.map(sample)
    }
}

/// A rounded sum of products as a sample.
#[inline(always)]
fn sample(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// What rows begin with.
#[inline(always)]
fn first_samples(rows: &[u8], stride: usize) -> impl Iterator<Item = &[u8; LANES]> {
    (0..).step_by(stride).map_while(|at| rows.get(at..)?.first_chunk())
}

/// Does work with the widest vectors of this machine.
pub(super) fn widest<W: Weighing>(work: W) -> W::Output {
    match Vectors::widest() {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(simd) => simd.vectorize(Closure(
            #[inline(always)]
            || work.by(simd),
        )),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(simd) => simd.vectorize(Closure(
            #[inline(always)]
            || work.by(simd),
        )),
        Vectors::Others => vectorised(
            #[inline(always)]
            || work.by(Portable),
        ),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::x86::{V3, V4};

    use super::{HALF, LANES, PRECISION, Weigh, first_samples, sample};

    /// AVX-512.
    impl Weigh for V4 {
        #[inline(always)]
        fn weigh(self, rows: &[u8], stride: usize, weights: &[i32]) -> [u8; LANES] {
            let f = self.avx512f;
            let mut sums = [f._mm512_set1_epi32(HALF); LANES / 16];
            for (row, weight) in first_samples(rows, stride).zip(weights) {
                let weight = f._mm512_set1_epi32(*weight);
                let row: [__m128i; LANES / 16] = pulp::cast(*row);
                for (sum, samples) in sums.iter_mut().zip(row) {
                    let samples = f._mm512_cvtepu8_epi32(samples);
                    *sum = f._mm512_add_epi32(*sum, f._mm512_mullo_epi32(samples, weight));
                }
            }
            let mut samples = [[0_u8; 16]; LANES / 16];
            for (samples, sum) in samples.iter_mut().zip(sums) {
                let whole = f._mm512_srai_epi32::<PRECISION>(sum);
                let positive = f._mm512_max_epi32(whole, f._mm512_setzero_si512());
                *samples = pulp::cast(f._mm512_cvtusepi32_epi8(positive));
            }
            pulp::cast(samples)
        }
    }

    /// AVX2.
    impl Weigh for V3 {
        #[inline(always)]
        fn weigh(self, rows: &[u8], stride: usize, weights: &[i32]) -> [u8; LANES] {
            let (avx, avx2) = (self.avx, self.avx2);
            let mut sums = [avx._mm256_set1_epi32(HALF); LANES / 8];
            for (row, weight) in first_samples(rows, stride).zip(weights) {
                let weight = avx._mm256_set1_epi32(*weight);
                let row: [u64; LANES / 8] = pulp::cast(*row);
                for (sum, samples) in sums.iter_mut().zip(row) {
                    let samples = avx2._mm256_cvtepu8_epi32(pulp::cast([samples, 0]));
                    *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_mullo_epi32(samples, weight));
                }
            }
            let mut samples = [0; LANES];
            for (samples, sum) in samples.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                let sums: [i32; 8] = pulp::cast::<__m256i, _>(sum);
                *samples = sums.map(sample);
            }
            samples
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct One<'a>(&'a [u8], usize, &'a [i32]);

    impl Weighing for One<'_> {
        type Output = [u8; LANES];

        fn by(self, weigh: impl Weigh) -> [u8; LANES] {
            weigh.weigh(self.0, self.1, self.2)
        }
    }

    proptest! {
        #[test]
        fn all_instructions_give_the_rounded_sums(
            samples in prop::collection::vec(any::<u8>(), 40 * 70),
            weights in prop::collection::vec(-30_000..50_000_i32, 0..40),
            stride in 1_usize..70,
        ) {
            let sum = |at: usize| {
                let products = weights.iter().enumerate().map(|(row, weight)| {
                    i64::from(*weight) * i64::from(samples[row * stride + at])
                });
                ((products.sum::<i64>() + i64::from(HALF)) >> PRECISION).clamp(0, 255) as u8
            };
            let expected: [u8; LANES] = std::array::from_fn(sum);
            let one = || One(&samples, stride, &weights);
            prop_assert_eq!(widest(one()), expected);
            prop_assert_eq!(one().by(Portable), expected);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    prop_assert_eq!(simd.vectorize(Closure(|| one().by(simd))), expected);
                }
                if let Some(simd) = pulp::x86::V4::try_new() {
                    prop_assert_eq!(simd.vectorize(Closure(|| one().by(simd))), expected);
                }
            }
        }
    }
}
