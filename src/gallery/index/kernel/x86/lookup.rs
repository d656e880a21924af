//! Look-ups, 32 or 64 an instruction, in tables that fit a register (André et al., "Cache locality is not enough", VLDB 2015, as in
//! faiss's fast scan).

use std::arch::x86_64::{__m256, __m256i, __m512, __m512i, _CMP_GE_OQ};

use pulp::x86::{V3, V4};

use crate::gallery::index::kernel::lookup::{Estimates, Group, LookUp, TOGETHER};
use crate::gallery::index::layout::{GROUP, Nibbles};

/// AVX2.
impl LookUp for V3 {
    #[inline(always)]
    fn estimate(self, group: &Group<'_>) -> Estimates {
        let (sse, sse2, avx, avx2) = (self.sse, self.sse2, self.avx, self.avx2);
        let mut sums = [[avx._mm256_setzero_si256(); 2]; 2];
        for (bits, tables) in group.parts {
            let ((bits, more), (tables, of_more)) = (bits.as_chunks(), tables.as_chunks());
            for (bits, tables) in bits.iter().zip(tables) {
                sums = added(self, sums, bits, tables);
            }
            if !more.is_empty() {
                let (bits, tables) = filled_up(more, of_more);
                sums = added(self, sums, &bits, &tables);
            }
        }
        let [low, high] = sums.map(|[all, odd]| {
            let even = avx2._mm256_sub_epi16(all, avx2._mm256_slli_epi16::<8>(odd));
            // The two halves of a register are the two nibbles.
            let joined = |sum: __m256i| {
                let upper = avx2._mm256_extracti128_si256::<1>(sum);
                sse2._mm_add_epi16(avx._mm256_castsi256_si128(sum), upper)
            };
            let (even, odd) = (joined(even), joined(odd));
            [sse2._mm_unpacklo_epi16(even, odd), sse2._mm_unpackhi_epi16(even, odd)]
        });
        let (step, offset) = (avx._mm256_set1_ps(group.step), avx._mm256_set1_ps(group.offset));
        let (alphas, bases) = (group.alphas.as_chunks::<8>().0, group.bases.as_chunks::<8>().0);
        let mut values = [[0.0_f32; 8]; GROUP / 8];
        let mut peaks = avx._mm256_set1_ps(f32::NEG_INFINITY);
        for (part, sums) in low.into_iter().chain(high).enumerate() {
            let (alpha, base): (__m256, __m256) =
                (pulp::cast(alphas[part]), pulp::cast(bases[part]));
            let sum = avx._mm256_cvtepi32_ps(avx2._mm256_cvtepu16_epi32(sums));
            let sum = avx._mm256_add_ps(avx._mm256_mul_ps(step, sum), offset);
            let estimate = avx._mm256_add_ps(base, avx._mm256_mul_ps(alpha, sum));
            peaks = avx._mm256_max_ps(peaks, estimate);
            values[part] = pulp::cast(estimate);
        }
        let (low, high) =
            (avx._mm256_castps256_ps128(peaks), avx._mm256_extractf128_ps::<1>(peaks));
        let four = sse._mm_max_ps(low, high);
        let two = sse._mm_max_ps(four, sse._mm_movehl_ps(four, four));
        let one = sse._mm_max_ss(two, sse._mm_shuffle_ps::<1>(two, two));
        Estimates { values: pulp::cast(values), peak: sse._mm_cvtss_f32(one) }
    }

    #[inline(always)]
    fn reaching(self, values: &[f32; GROUP], bar: f32) -> u32 {
        let avx = self.avx;
        let bar = avx._mm256_set1_ps(bar);
        let mut bits = 0;
        for (part, values) in values.as_chunks::<8>().0.iter().enumerate() {
            let reach = avx._mm256_cmp_ps::<_CMP_GE_OQ>(pulp::cast(*values), bar);
            bits |= (avx._mm256_movemask_ps(reach) as u32) << (8 * part);
        }
        bits
    }
}

/// Sums of sixteen bits, each with that of the odd bytes apart, and those of some look-ups more.
#[inline(always)]
fn added(
    simd: V3,
    mut sums: [[__m256i; 2]; 2],
    bits: &[Nibbles; TOGETHER],
    tables: &[[u8; 32]; TOGETHER],
) -> [[__m256i; 2]; 2] {
    let (avx, avx2) = (simd.avx, simd.avx2);
    let low_bits = avx._mm256_set1_epi8(15);
    // Bytes, as long as they hold a sum.
    let mut bytes = [avx._mm256_setzero_si256(); 2];
    for (bits, table) in bits.iter().zip(tables) {
        let (bits, table): (__m256i, __m256i) = (pulp::cast(*bits), pulp::cast(*table));
        let below = avx2._mm256_and_si256(bits, low_bits);
        let above = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(bits), low_bits);
        bytes[0] = avx2._mm256_add_epi8(bytes[0], avx2._mm256_shuffle_epi8(table, below));
        bytes[1] = avx2._mm256_add_epi8(bytes[1], avx2._mm256_shuffle_epi8(table, above));
    }
    // Sixteen bits hold an even byte and, times 256, an odd one: the odd ones are summed apart as well, to be taken out.
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        sums[0] = avx2._mm256_add_epi16(sums[0], bytes);
        sums[1] = avx2._mm256_add_epi16(sums[1], avx2._mm256_srli_epi16::<8>(bytes));
    }
    sums
}

/// AVX-512.
impl LookUp for V4 {
    #[inline(always)]
    fn estimate(self, group: &Group<'_>) -> Estimates {
        let (f, avx2) = (self.avx512f, self.avx2);
        let mut sums = [[f._mm512_setzero_si512(); 2]; 2];
        for (bits, tables) in group.parts {
            let ((bits, more), (tables, of_more)) =
                (bits.as_chunks::<{ 2 * TOGETHER }>(), tables.as_chunks::<{ 2 * TOGETHER }>());
            for (bits, tables) in bits.iter().zip(tables) {
                sums = twice_added(self, sums, bits, tables);
            }
            let ((bits, more), (tables, of_more)) = (more.as_chunks(), of_more.as_chunks());
            for (bits, tables) in bits.iter().zip(tables) {
                sums = twice_added::<TOGETHER>(self, sums, bits, tables);
            }
            if !more.is_empty() {
                let (bits, tables) = filled_up(more, of_more);
                sums = twice_added(self, sums, &bits, &tables);
            }
        }
        let halved = |sum: __m512i| {
            let upper = f._mm512_extracti64x4_epi64::<1>(sum);
            avx2._mm256_add_epi16(f._mm512_castsi512_si256(sum), upper)
        };
        // What is left in two halves are the two nibbles; the lower rows' beside the upper ones'.
        let joined = |low: __m512i, high: __m512i| {
            let (low, high) = (halved(low), halved(high));
            let first = avx2._mm256_permute2x128_si256::<0x20>(low, high);
            let second = avx2._mm256_permute2x128_si256::<0x31>(low, high);
            avx2._mm256_add_epi16(first, second)
        };
        let [[low, low_odd], [high, high_odd]] = sums;
        let (all, odd) = (joined(low, high), joined(low_odd, high_odd));
        let even = avx2._mm256_sub_epi16(all, avx2._mm256_slli_epi16::<8>(odd));
        let (first, second) =
            (avx2._mm256_unpacklo_epi16(even, odd), avx2._mm256_unpackhi_epi16(even, odd));
        let sums = [
            avx2._mm256_permute2x128_si256::<0x20>(first, second),
            avx2._mm256_permute2x128_si256::<0x31>(first, second),
        ];
        let (step, offset) = (f._mm512_set1_ps(group.step), f._mm512_set1_ps(group.offset));
        let (alphas, bases) = (group.alphas.as_chunks::<16>().0, group.bases.as_chunks::<16>().0);
        let mut estimates = [f._mm512_setzero_ps(); 2];
        for (part, estimate) in estimates.iter_mut().enumerate() {
            let (alpha, base): (__m512, __m512) =
                (pulp::cast(alphas[part]), pulp::cast(bases[part]));
            let sum = f._mm512_cvtepi32_ps(f._mm512_cvtepu16_epi32(sums[part]));
            let sum = f._mm512_add_ps(f._mm512_mul_ps(step, sum), offset);
            *estimate = f._mm512_add_ps(base, f._mm512_mul_ps(alpha, sum));
        }
        let peak = f._mm512_reduce_max_ps(f._mm512_max_ps(estimates[0], estimates[1]));
        Estimates { values: pulp::cast(estimates), peak }
    }

    #[inline(always)]
    fn reaching(self, values: &[f32; GROUP], bar: f32) -> u32 {
        let f = self.avx512f;
        let [low, high]: [__m512; 2] = pulp::cast(*values);
        let bar = f._mm512_set1_ps(bar);
        let reach = |values| u32::from(f._mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, bar));
        reach(low) | reach(high) << 16
    }
}

/// The same as [`added`], two look-ups at a time, each in its half of a register.
#[inline(always)]
fn twice_added<const PAIRS: usize>(
    simd: V4,
    mut sums: [[__m512i; 2]; 2],
    bits: &[Nibbles; PAIRS],
    tables: &[[u8; 32]; PAIRS],
) -> [[__m512i; 2]; 2] {
    let (f, bw) = (simd.avx512f, simd.avx512bw);
    let low_bits = f._mm512_set1_epi8(15);
    let mut bytes = [f._mm512_setzero_si512(); 2];
    for (bits, table) in bits.as_chunks::<2>().0.iter().zip(tables.as_chunks::<2>().0) {
        let (bits, table): (__m512i, __m512i) = (pulp::cast(*bits), pulp::cast(*table));
        let below = f._mm512_and_si512(bits, low_bits);
        let above = f._mm512_and_si512(bw._mm512_srli_epi16::<4>(bits), low_bits);
        bytes[0] = bw._mm512_add_epi8(bytes[0], bw._mm512_shuffle_epi8(table, below));
        bytes[1] = bw._mm512_add_epi8(bytes[1], bw._mm512_shuffle_epi8(table, above));
    }
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        sums[0] = bw._mm512_add_epi16(sums[0], bytes);
        sums[1] = bw._mm512_add_epi16(sums[1], bw._mm512_srli_epi16::<8>(bytes));
    }
    sums
}

/// The last look-ups, and others that add nothing.
#[inline(always)]
fn filled_up(bits: &[Nibbles], tables: &[[u8; 32]]) -> ([Nibbles; TOGETHER], [[u8; 32]; TOGETHER]) {
    let mut last = ([[0; 32]; TOGETHER], [[0; 32]; TOGETHER]);
    last.0[..bits.len()].copy_from_slice(bits);
    last.1[..tables.len()].copy_from_slice(tables);
    last
}
