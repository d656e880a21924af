//! Products of bfloat16 by the instruction that multiplies two pairs and adds both to a sum in f32 (AVX-512 BF16: Intel since
//! Cooper Lake, AMD since Zen 4): twice what a fused multiply-add does, on half the bytes.
#![expect(
    unsafe_code,
    reason = "the instruction is only there if the processor says so, and its types have no safe conversions; the tests compare with plain arithmetic"
)]

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use pulp::core_arch::x86::{Avx512bf16, Avx512f};

use super::pairs::{HalfRow, HalfRows};
use super::tile::{HIGHEST, tiles};
use super::{Row, WIDTH};

/// Values of a register.
const LANES: usize = 16;
/// Registers of a row of a panel.
const VECTORS: usize = WIDTH / LANES;

/// Says that this processor has the instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dot(());

impl Dot {
    /// `None` where there is none.
    pub(super) fn detect() -> Option<Self> {
        (Avx512f::is_available() && Avx512bf16::is_available()).then_some(Self(()))
    }

    /// `out += left right`, tile after tile.
    ///
    /// left: `[panel][row]` with `rows` rows a panel; right: `[inputs / 2][WIDTH]`, the inputs a multiple of [`WIDTH`]; out: `[row][WIDTH]`.
    /// `ahead` is called now and then.
    pub(super) fn strips(
        self,
        left: &[HalfRow],
        rows: usize,
        right: &[HalfRows],
        out: &mut [Row],
        ahead: &mut impl FnMut(),
    ) {
        // SAFETY: a `Dot` is only made where the processor has both.
        unsafe { strips(left, rows, right, out, ahead) }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn strips(
    left: &[HalfRow],
    rows: usize,
    right: &[HalfRows],
    out: &mut [Row],
    ahead: &mut impl FnMut(),
) {
    macro_rules! by_height {
        ($height:expr, $left:expr, $out:expr; $($known:literal)*) => {
            match $height {
                $($known => tile::<_, $known>($left, rows, right, $out, ahead),)*
                _ => {}
            }
        };
    }
    for (start, height) in tiles(out.len(), HIGHEST) {
        let (left, out) = (&left[start..], &mut out[start..start + height]);
        by_height!(height, left, out; 1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<F: FnMut(), const HEIGHT: usize>(
    left: &[HalfRow],
    rows: usize,
    right: &[HalfRows],
    out: &mut [Row],
    ahead: &mut F,
) {
    let Some(out) = out.first_chunk_mut::<HEIGHT>() else { return };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; HEIGHT];
    for row in 0..HEIGHT {
        for (sum, values) in sums[row].iter_mut().zip(out[row].0.as_chunks::<LANES>().0) {
            // SAFETY: it reads sixteen values that are there.
            *sum = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        }
    }
    for (panel, right) in right.as_chunks::<{ WIDTH / 2 }>().0.iter().enumerate() {
        let Some(left) = left[panel * rows..].first_chunk::<HEIGHT>() else { return };
        ahead();
        for (pair, right) in right.iter().enumerate() {
            let mut weights = [halves(_mm512_setzero_si512()); VECTORS];
            for (to, from) in weights.iter_mut().zip(right.0.as_chunks::<LANES>().0) {
                // SAFETY: it reads sixteen values that are there.
                *to = halves(unsafe { _mm512_loadu_si512(from.as_ptr().cast()) });
            }
            for row in 0..HEIGHT {
                let value = halves(_mm512_set1_epi32(left[row].0[pair].cast_signed()));
                for vector in 0..VECTORS {
                    sums[row][vector] = _mm512_dpbf16_ps(sums[row][vector], value, weights[vector]);
                }
            }
        }
    }
    for row in 0..HEIGHT {
        for (sum, values) in sums[row].iter().zip(out[row].0.as_chunks_mut::<LANES>().0) {
            // SAFETY: it writes sixteen values that are there.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), *sum) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves(pairs: __m512i) -> __m512bh {
    // SAFETY: as many bytes, and any of them are values of the one as of the other.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) }
}
