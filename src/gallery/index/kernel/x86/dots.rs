//! Products, eight or sixteen values an instruction.

use std::arch::x86_64::{__m128i, __m256, __m256i, __m512};

use pulp::x86::{V3, V4};

use crate::gallery::index::kernel::dots::{Dots, LANES};

/// AVX2.
impl Dots for V3 {
    #[inline(always)]
    fn dot(self, a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
        let avx = self.avx;
        let mut sums = [avx._mm256_setzero_ps(); 2];
        for (x, y) in a.iter().zip(b) {
            let (x, y): ([__m256; 2], [__m256; 2]) = (pulp::cast(*x), pulp::cast(*y));
            for half in 0..2 {
                sums[half] = avx._mm256_add_ps(sums[half], avx._mm256_mul_ps(x[half], y[half]));
            }
        }
        pulp::cast(sums)
    }

    #[inline(always)]
    fn dot_codes(self, a: &[[i8; LANES]], b: &[[i8; LANES]]) -> i32 {
        let (avx, avx2) = (self.avx, self.avx2);
        let mut sums = avx._mm256_setzero_si256();
        for (x, y) in a.iter().zip(b) {
            let (x, y): (__m128i, __m128i) = (pulp::cast(*x), pulp::cast(*y));
            let (x, y) = (avx2._mm256_cvtepi8_epi16(x), avx2._mm256_cvtepi8_epi16(y));
            sums = avx2._mm256_add_epi32(sums, avx2._mm256_madd_epi16(x, y));
        }
        let sums: [i32; 8] = pulp::cast(sums);
        sums.iter().sum()
    }

    #[inline(always)]
    fn dot_parts(
        self,
        a: &[[f32; LANES]],
        codes: &[[i8; LANES]],
        parts: &[[i16; LANES]],
    ) -> [f32; LANES] {
        let (sse2, avx, avx2) = (self.sse2, self.avx, self.avx2);
        let mut sums = [avx._mm256_setzero_ps(); 2];
        for ((x, codes), parts) in a.iter().zip(codes).zip(parts) {
            let x: [__m256; 2] = pulp::cast(*x);
            let codes: __m128i = pulp::cast(*codes);
            let parts: [__m128i; 2] = pulp::cast(*parts);
            for (half, codes) in [codes, sse2._mm_srli_si128::<8>(codes)].into_iter().enumerate() {
                let code = avx2._mm256_slli_epi32::<16>(avx2._mm256_cvtepi8_epi32(codes));
                let part = avx2._mm256_cvtepi16_epi32(parts[half]);
                let whole = avx._mm256_cvtepi32_ps(avx2._mm256_add_epi32(code, part));
                sums[half] = avx._mm256_add_ps(sums[half], avx._mm256_mul_ps(x[half], whole));
            }
        }
        pulp::cast(sums)
    }
}

/// AVX-512.
impl Dots for V4 {
    #[inline(always)]
    fn dot(self, a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
        let f = self.avx512f;
        let mut sums = f._mm512_setzero_ps();
        for (x, y) in a.iter().zip(b) {
            let (x, y): (__m512, __m512) = (pulp::cast(*x), pulp::cast(*y));
            sums = f._mm512_add_ps(sums, f._mm512_mul_ps(x, y));
        }
        pulp::cast(sums)
    }

    #[inline(always)]
    fn dot_codes(self, a: &[[i8; LANES]], b: &[[i8; LANES]]) -> i32 {
        let (f, bw) = (self.avx512f, self.avx512bw);
        let mut sums = f._mm512_setzero_si512();
        let ((a, a_left), (b, b_left)) = (a.as_chunks::<2>(), b.as_chunks::<2>());
        for (x, y) in a.iter().zip(b) {
            let (x, y): (__m256i, __m256i) = (pulp::cast(*x), pulp::cast(*y));
            let (x, y) = (bw._mm512_cvtepi8_epi16(x), bw._mm512_cvtepi8_epi16(y));
            sums = f._mm512_add_epi32(sums, bw._mm512_madd_epi16(x, y));
        }
        f._mm512_reduce_add_epi32(sums) + Dots::dot_codes(*self, a_left, b_left)
    }

    #[inline(always)]
    fn dot_parts(
        self,
        a: &[[f32; LANES]],
        codes: &[[i8; LANES]],
        parts: &[[i16; LANES]],
    ) -> [f32; LANES] {
        let f = self.avx512f;
        let mut sums = f._mm512_setzero_ps();
        for ((x, codes), parts) in a.iter().zip(codes).zip(parts) {
            let (x, codes, parts): (__m512, __m128i, __m256i) =
                (pulp::cast(*x), pulp::cast(*codes), pulp::cast(*parts));
            let code = f._mm512_slli_epi32::<16>(f._mm512_cvtepi8_epi32(codes));
            let whole = f._mm512_add_epi32(code, f._mm512_cvtepi16_epi32(parts));
            sums = f._mm512_add_ps(sums, f._mm512_mul_ps(x, f._mm512_cvtepi32_ps(whole)));
        }
        pulp::cast(sums)
    }
}
