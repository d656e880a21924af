//! Bits counted by instructions that count bits, where the processor has these, or by tables of what four bits count.

use std::arch::x86_64::{__m256i, __m512i};

use pulp::x86::{V3, V4};

use crate::gallery::index::kernel::hamming::{Hamming, Planes, Words, long_words};
use crate::gallery::index::layout::GROUP;

pulp::simd_type! {
    /// AVX-512 with an instruction that counts the bits of many words.
    pub(in crate::gallery::index::kernel) struct Counting {
        popcnt: "popcnt",
        lzcnt: "lzcnt",
        bmi1: "bmi1",
        bmi2: "bmi2",
        fma: "fma",
        avx: "avx",
        avx2: "avx2",
        avx512f: "avx512f",
        avx512bw: "avx512bw",
        avx512dq: "avx512dq",
        avx512vl: "avx512vl",
        avx512vpopcntdq: "avx512vpopcntdq",
    }
}

impl Hamming for Counting {
    #[inline(always)]
    fn distances(self, group: &[Words], probe: &[u32]) -> [u32; GROUP] {
        let f = self.avx512f;
        let mut sums = [f._mm512_setzero_si512(); 2];
        for (words, probe) in group.iter().zip(probe) {
            let probe = f._mm512_set1_epi32(probe.cast_signed());
            let words: [__m512i; 2] = pulp::cast(*words);
            for (sum, words) in sums.iter_mut().zip(words) {
                // pulp has no name for the instruction, which the compiler knows from this.
                let mut differing: [u32; 16] = pulp::cast(f._mm512_xor_si512(words, probe));
                for differing in &mut differing {
                    *differing = differing.count_ones();
                }
                *sum = f._mm512_add_epi32(*sum, pulp::cast(differing));
            }
        }
        pulp::cast(sums)
    }

    #[inline(always)]
    fn within(self, distances: &[u32; GROUP], bar: u32) -> u32 {
        let f = self.avx512f;
        let [low, high]: [__m512i; 2] = pulp::cast(*distances);
        let bar = f._mm512_set1_epi32(bar.cast_signed());
        let within = |distances| u32::from(f._mm512_cmple_epu32_mask(distances, bar));
        within(low) | within(high) << 16
    }

    #[inline(always)]
    fn shared(self, group: &[Words], at: usize, planes: &[Planes]) -> Planes {
        let (avx, avx2) = (self.avx, self.avx2);
        let mut sums = avx._mm256_setzero_si256();
        for (word, planes) in long_words(group, at).zip(planes) {
            let word = avx._mm256_set1_epi64x(word.cast_signed());
            let mut shared: Planes = pulp::cast(avx2._mm256_and_si256(word, pulp::cast(*planes)));
            for shared in &mut shared {
                *shared = u64::from(shared.count_ones());
            }
            sums = avx2._mm256_add_epi64(sums, pulp::cast(shared));
        }
        pulp::cast(sums)
    }
}

/// Words whose bytes' counts fit a byte together.
const TOGETHER: usize = u8::MAX as usize / u8::BITS as usize;

/// AVX2.
impl Hamming for V3 {
    #[inline(always)]
    fn distances(self, group: &[Words], probe: &[u32]) -> [u32; GROUP] {
        let (avx, avx2) = (self.avx, self.avx2);
        let mut sums = [avx._mm256_setzero_si256(); 4];
        for (group, probe) in group.chunks(TOGETHER).zip(probe.chunks(TOGETHER)) {
            let mut bytes = [avx._mm256_setzero_si256(); 4];
            for (words, probe) in group.iter().zip(probe) {
                let probe = avx._mm256_set1_epi32(probe.cast_signed());
                let words: [__m256i; 4] = pulp::cast(*words);
                for (bytes, words) in bytes.iter_mut().zip(words) {
                    let counted = counted(self, avx2._mm256_xor_si256(words, probe));
                    *bytes = avx2._mm256_add_epi8(*bytes, counted);
                }
            }
            for (sum, bytes) in sums.iter_mut().zip(bytes) {
                let twos = avx2._mm256_maddubs_epi16(bytes, avx._mm256_set1_epi8(1));
                let fours = avx2._mm256_madd_epi16(twos, avx._mm256_set1_epi16(1));
                *sum = avx2._mm256_add_epi32(*sum, fours);
            }
        }
        pulp::cast(sums)
    }

    #[inline(always)]
    fn within(self, distances: &[u32; GROUP], bar: u32) -> u32 {
        let (avx, avx2) = (self.avx, self.avx2);
        let bar = avx._mm256_set1_epi32(bar.cast_signed());
        let mut bits = 0;
        for (part, distances) in distances.as_chunks::<8>().0.iter().enumerate() {
            let over = avx2._mm256_cmpgt_epi32(pulp::cast(*distances), bar);
            let over = avx._mm256_movemask_ps(avx._mm256_castsi256_ps(over)).cast_unsigned();
            bits |= over << (8 * part);
        }
        !bits
    }

    #[inline(always)]
    fn shared(self, group: &[Words], at: usize, planes: &[Planes]) -> Planes {
        let (avx, avx2) = (self.avx, self.avx2);
        let mut sums = avx._mm256_setzero_si256();
        for (word, planes) in long_words(group, at).zip(planes) {
            let word = avx._mm256_set1_epi64x(word.cast_signed());
            let counted = counted(self, avx2._mm256_and_si256(word, pulp::cast(*planes)));
            let counted = avx2._mm256_sad_epu8(counted, avx._mm256_setzero_si256());
            sums = avx2._mm256_add_epi64(sums, counted);
        }
        pulp::cast(sums)
    }
}

/// The bits of each byte (Mula, Kurz and Lemire, "Faster population counts using AVX2 instructions", 2018).
#[inline(always)]
fn counted(simd: V3, words: __m256i) -> __m256i {
    /// Of each nibble.
    const BITS: [[u8; 16]; 2] = [[0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4]; 2];
    let (avx, avx2) = (simd.avx, simd.avx2);
    let (bits, low) = (pulp::cast(BITS), avx._mm256_set1_epi8(15));
    let below = avx2._mm256_and_si256(words, low);
    let above = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(words), low);
    avx2._mm256_add_epi8(
        avx2._mm256_shuffle_epi8(bits, below),
        avx2._mm256_shuffle_epi8(bits, above),
    )
}

/// AVX-512 without that instruction.
impl Hamming for V4 {
    #[inline(always)]
    fn distances(self, group: &[Words], probe: &[u32]) -> [u32; GROUP] {
        Hamming::distances(*self, group, probe)
    }

    #[inline(always)]
    fn within(self, distances: &[u32; GROUP], bar: u32) -> u32 {
        Hamming::within(*self, distances, bar)
    }

    #[inline(always)]
    fn shared(self, group: &[Words], at: usize, planes: &[Planes]) -> Planes {
        Hamming::shared(*self, group, at, planes)
    }
}
