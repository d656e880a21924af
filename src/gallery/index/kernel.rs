//! Dot products in safe code that compiles to vector instructions.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::layout::{GROUP, Nibbles};

/// Lanes summed independently: enough to keep the adders of any processor busy.
const LANES: usize = 16;

/// Nibbles of a group, and as many tables to look them up in.
pub(super) type LookUps<'a> = (&'a [Nibbles], &'a [[u8; 32]]);

/// Highest entry of a table.
pub(super) const HIGHEST: u8 = 63;
/// Look-ups that fit a byte together.
const TOGETHER: usize = u8::MAX as usize / HIGHEST as usize;

/// What a group's rows are estimated by: `base + alpha * (step * sum + offset)` of each, where its sum is that of tables at its nibbles.
/// No entry of a table exceeds [`HIGHEST`], and no sum 16 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    pub(super) parts: [LookUps<'a>; 2],
    pub(super) step: f32,
    pub(super) offset: f32,
    pub(super) alphas: &'a [f32; GROUP],
    pub(super) bases: &'a [f32; GROUP],
}

/// Estimates of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimates {
    pub(super) values: [f32; GROUP],
    /// The highest.
    pub(super) peak: f32,
}

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

    /// Sum of products of a vector with a template in 24 bits a value, in parts of its step. All slices are of the same length.
    pub(in crate::gallery) fn dot_parts(self, a: &[f32], codes: &[i8], parts: &[i16]) -> f32 {
        self.widest(
            #[inline(always)]
            || dot_parts(a, codes, parts),
        )
    }

    /// Multiplies `values` by `signs`, both of one length, and turns those in `part`, whose length is a power of two, by
    /// Walsh and Hadamard's matrix.
    pub(super) fn mix(self, values: &mut [f32], signs: &[f32], part: Range<usize>) {
        self.widest(
            #[inline(always)]
            || {
                values.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
                walsh_hadamard(&mut values[part]);
            },
        );
    }

    /// What a group's rows are estimated at.
    #[inline]
    pub(super) fn estimate(self, group: &Group<'_>) -> Estimates {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.wide {
            return Simd::vectorize(
                simd,
                Work(
                    #[inline(always)]
                    || estimate_avx2(simd, group),
                ),
            );
        }
        estimate(group)
    }

    /// The same for many groups, behind one another: what their rows are estimated at, and the highest of each.
    #[inline]
    pub(super) fn estimate_all<'a>(
        self,
        groups: impl Iterator<Item = Group<'a>>,
        values: &mut Vec<[f32; GROUP]>,
        peaks: &mut Vec<f32>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.wide {
            return Simd::vectorize(
                simd,
                Work(
                    #[inline(always)]
                    || {
                        for group in groups {
                            let estimates = estimate_avx2(simd, &group);
                            values.push(estimates.values);
                            peaks.push(estimates.peak);
                        }
                    },
                ),
            );
        }
        for group in groups {
            let estimates = estimate(&group);
            values.push(estimates.values);
            peaks.push(estimates.peak);
        }
    }

    /// Which values are not below `bar`.
    #[inline]
    pub(super) fn reaching(self, values: &[f32; GROUP], bar: f32) -> Marked {
        Marked(self.widest(
            #[inline(always)]
            || {
                let mut bits = [0; GROUP];
                for (at, (bit, value)) in bits.iter_mut().zip(values).enumerate() {
                    *bit = u32::from(*value >= bar) << at;
                }
                bits.iter().sum()
            },
        ))
    }

    /// Runs a loop compiled for the widest vectors of this machine. It must be inlined into `work`.
    #[inline(always)]
    pub(super) fn widest<R>(self, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.wide {
            return Simd::vectorize(simd, Work(work));
        }
        work()
    }
}

/// Some rows of a group, a bit each; gives their places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked(u32);

impl Marked {
    pub(super) fn many(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Marked {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let at = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (at < GROUP).then_some(at)
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
    joined(sums) + a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum::<f32>()
}

#[inline(always)]
fn dot_parts(a: &[f32], codes: &[i8], parts: &[i16]) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (codes, codes_tail) = codes.as_chunks::<LANES>();
    let (parts, parts_tail) = parts.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for ((x, code), part) in a.iter().zip(codes).zip(parts) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * whole(code[lane], part[lane]);
        }
    }
    let tail = a_tail.iter().zip(codes_tail).zip(parts_tail);
    joined(sums) + tail.map(|((x, code), part)| x * whole(*code, *part)).sum::<f32>()
}

/// A value in parts of a step; single precision holds all that there can be.
#[inline(always)]
pub(super) fn whole(code: i8, part: i16) -> f32 {
    ((i32::from(code) << 16) + i32::from(part)) as f32
}

#[inline(always)]
fn joined(sums: [f32; LANES]) -> f32 {
    let (low, high) = sums.split_at(LANES / 2);
    low.iter().zip(high).map(|(x, y)| x + y).sum()
}

#[inline(always)]
fn dot_codes(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

/// Unscaled butterflies, then one scaling that makes them a rotation.
#[inline(always)]
fn walsh_hadamard(values: &mut [f32]) {
    const WITHIN: usize = 8;
    // Those of the closest neighbours on a register at a time.
    let (registers, _) = values.as_chunks_mut::<WITHIN>();
    let mut half = 1;
    if !registers.is_empty() {
        for register in registers {
            within::<1>(register);
            within::<2>(register);
            within::<4>(register);
        }
        half = WITHIN;
    }
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

#[inline(always)]
fn within<const HALF: usize>(values: &mut [f32; 8]) {
    let other: [f32; 8] = std::array::from_fn(|at| values[at ^ HALF]);
    let signed: [f32; 8] =
        std::array::from_fn(|at| if at & HALF == 0 { values[at] } else { -values[at] });
    *values = std::array::from_fn(|at| other[at] + signed[at]);
}

fn estimate(group: &Group<'_>) -> Estimates {
    let mut sums = [0_u16; GROUP];
    for (bits, table) in group.parts.into_iter().flat_map(|(bits, tables)| bits.iter().zip(tables))
    {
        for at in 0..GROUP / 2 {
            for (half, table) in table.as_chunks::<16>().0.iter().enumerate() {
                let both = bits[16 * half + at];
                sums[at] += u16::from(table[usize::from(both & 15)]);
                sums[at + 16] += u16::from(table[usize::from(both >> 4)]);
            }
        }
    }
    let Group { step, offset, alphas, bases, .. } = group;
    let values: [f32; GROUP] =
        std::array::from_fn(|at| bases[at] + alphas[at] * (step * f32::from(sums[at]) + offset));
    Estimates { values, peak: values.into_iter().fold(f32::NEG_INFINITY, f32::max) }
}

/// The same, bit by bit: 32 look-ups an instruction, in tables that fit a register (André et al., "Cache locality is not
/// enough", VLDB 2015, as in faiss's fast scan).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn estimate_avx2(simd: pulp::x86::V3, group: &Group<'_>) -> Estimates {
    use std::arch::x86_64::{__m256, __m256i};
    let (sse2, avx, avx2) = (simd.sse2, simd.avx, simd.avx2);
    let mut sums = [[avx._mm256_setzero_si256(); 2]; 2];
    for (bits, tables) in group.parts {
        let ((bits, more), (tables, of_more)) = (bits.as_chunks(), tables.as_chunks());
        for (bits, tables) in bits.iter().zip(tables) {
            sums = added(simd, sums, bits, tables);
        }
        if !more.is_empty() {
            let mut last = [[[0; 32]; TOGETHER]; 2];
            last[0][..more.len()].copy_from_slice(more);
            last[1][..of_more.len()].copy_from_slice(of_more);
            sums = added(simd, sums, &last[0], &last[1]);
        }
    }
    let [[low, low_odd], [high, high_odd]] = sums;
    // The two halves of a register are the two nibbles.
    let joined = |sum: __m256i| {
        let upper = avx2._mm256_extracti128_si256::<1>(sum);
        sse2._mm_add_epi16(avx._mm256_castsi256_si128(sum), upper)
    };
    let even = |all, odd| joined(avx2._mm256_sub_epi16(all, avx2._mm256_slli_epi16::<8>(odd)));
    let (low, low_odd) = (even(low, low_odd), joined(low_odd));
    let (high, high_odd) = (even(high, high_odd), joined(high_odd));
    let sums = [
        sse2._mm_unpacklo_epi16(low, low_odd),
        sse2._mm_unpackhi_epi16(low, low_odd),
        sse2._mm_unpacklo_epi16(high, high_odd),
        sse2._mm_unpackhi_epi16(high, high_odd),
    ];
    let (step, offset) = (avx._mm256_set1_ps(group.step), avx._mm256_set1_ps(group.offset));
    let (alphas, bases) = (group.alphas.as_chunks::<8>().0, group.bases.as_chunks::<8>().0);
    let mut values = [[0.0_f32; 8]; GROUP / 8];
    let mut peaks = avx._mm256_set1_ps(f32::NEG_INFINITY);
    for part in 0..GROUP / 8 {
        let (alpha, base): (__m256, __m256) = (pulp::cast(alphas[part]), pulp::cast(bases[part]));
        let sum = avx._mm256_cvtepi32_ps(avx2._mm256_cvtepu16_epi32(sums[part]));
        let sum = avx._mm256_add_ps(avx._mm256_mul_ps(step, sum), offset);
        let estimate = avx._mm256_add_ps(base, avx._mm256_mul_ps(alpha, sum));
        peaks = avx._mm256_max_ps(peaks, estimate);
        values[part] = pulp::cast(estimate);
    }
    let sse = simd.sse;
    let four =
        sse._mm_max_ps(avx._mm256_castps256_ps128(peaks), avx._mm256_extractf128_ps::<1>(peaks));
    let two = sse._mm_max_ps(four, sse._mm_movehl_ps(four, four));
    let one = sse._mm_max_ss(two, sse._mm_shuffle_ps::<1>(two, two));
    Estimates { values: pulp::cast(values), peak: sse._mm_cvtss_f32(one) }
}

/// Sums of sixteen bits, each with that of the odd bytes apart, and those of some look-ups more.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn added(
    simd: pulp::x86::V3,
    mut sums: [[std::arch::x86_64::__m256i; 2]; 2],
    bits: &[Nibbles; TOGETHER],
    tables: &[[u8; 32]; TOGETHER],
) -> [[std::arch::x86_64::__m256i; 2]; 2] {
    use std::arch::x86_64::__m256i;
    let (avx, avx2) = (simd.avx, simd.avx2);
    let low_bits = avx._mm256_set1_epi8(15);
    // Bytes, as long as they hold a sum.
    let mut bytes = [avx._mm256_setzero_si256(); 2];
    for at in 0..TOGETHER {
        let (bits, table): (__m256i, __m256i) = (pulp::cast(bits[at]), pulp::cast(tables[at]));
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
            let codes: Vec<i8> = pairs.iter().map(|p| p.2).collect();
            let parts: Vec<i16> = pairs.iter().map(|p| i16::from(p.3) * 256).collect();
            let got = kernel.dot_parts(&a, &codes, &parts);
            let whole = |(code, part): (&i8, &i16)| 65536.0 * f64::from(*code) + f64::from(*part);
            let plain: f64 = a.iter().zip(codes.iter().zip(&parts)).map(|(a, both)| f64::from(*a) * whole(both)).sum();
            prop_assert!((f64::from(got) - plain).abs() < 1e-3 * 8_388_608.0, "{got} {plain}");
            prop_assert_eq!(got.to_bits(), dot_parts(&a, &codes, &parts).to_bits());
            let a: Vec<i8> = pairs.iter().map(|p| p.2).collect();
            let b: Vec<i8> = pairs.iter().map(|p| p.3).collect();
            let plain: i32 = pairs.iter().map(|p| i32::from(p.2) * i32::from(p.3)).sum();
            prop_assert_eq!(kernel.dot_codes(&a, &b), plain);
        }

        #[test]
        fn what_reaches_a_bar_is_marked(values in prop::array::uniform32(-1.0_f32..1.0), bar in -1.0_f32..1.0) {
            let marked = Kernel::new().reaching(&values, bar);
            let expected: Vec<usize> = (0..GROUP).filter(|at| values[*at] >= bar).collect();
            prop_assert_eq!(marked.many(), expected.len());
            prop_assert_eq!(marked.collect::<Vec<_>>(), expected);
            prop_assert_eq!(Kernel::new().reaching(&values, f32::NEG_INFINITY).many(), GROUP);
        }

        #[test]
        fn looking_up_many_at_once_gives_what_one_by_one_gives(
            pairs in prop::collection::vec((any::<[u8; 32]>(), prop::array::uniform32(0..=HIGHEST)), 0..129),
        ) {
            let (bits, tables): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let group = |parts| Group {
                parts,
                step: 0.5,
                offset: -9.0,
                alphas: &[0.7; GROUP],
                bases: &[0.1; GROUP],
            };
            let whole = group([(&*bits, &*tables), (&[], &[])]);
            let slowly = estimate(&whole);
            prop_assert_eq!(Kernel::new().estimate(&whole), slowly);
            let (head, rest) = (bits.split_at(bits.len() / 3), tables.split_at(bits.len() / 3));
            let halves = group([(head.0, rest.0), (head.1, rest.1)]);
            prop_assert_eq!(Kernel::new().estimate(&halves), slowly);
            let (mut values, mut peaks) = (Vec::new(), Vec::new());
            Kernel::new().estimate_all([whole, halves].into_iter(), &mut values, &mut peaks);
            prop_assert_eq!((values, peaks), (vec![slowly.values; 2], vec![slowly.peak; 2]));
        }
    }
}
