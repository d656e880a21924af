//! Products by instructions that multiply several neighbours and add them to a sum: two in bfloat16 (twice what a fused multiply-add
//! does, on half the bytes), four in eight bits (twice as much again).
#![expect(
    unsafe_code,
    reason = "the instructions are only there if the processor says so, and their types have no safe conversions; the tests compare with plain arithmetic"
)]

use std::arch::x86_64::{
    __cpuid, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_dpbf16_ps,
    _mm512_dpbusd_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use pulp::core_arch::x86::{Avx512bf16, Avx512f, Avx512vnni};

use super::octets::{ABOVE, OctetRow, OctetRows, Scale};
use super::pairs::{HalfRow, HalfRows};
use super::tile::{HIGHEST, tiles};
use super::{Row, WIDTH};

/// Values of a register.
const LANES: usize = 16;
/// Registers of a row of a panel.
const VECTORS: usize = WIDTH / LANES;

/// Calls a tile's function for a height that the compiler knows.
macro_rules! by_height {
    ($tile:ident, $height:expr, $arguments:tt) => {
        by_height!($tile, $height, $arguments, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    ($tile:ident, $height:expr, $arguments:tt, $($known:literal)*) => {
        match $height {
            $($known => $tile::<_, $known>$arguments,)*
            _ => {}
        }
    };
}

/// Says that this processor multiplies pairs of bfloat16 (AVX-512 BF16): Intel's since Cooper Lake, AMD's since Zen 4.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dot {
    /// Rows up to which that is faster than widening both sides.
    rows: usize,
}

impl Dot {
    /// `None` where there is none.
    pub(super) fn detect() -> Option<Self> {
        // Intel's takes as long as four fused multiply-adds: it pays while widening the weights takes longer than that, up to three rows.
        // There it adds up as they do, so that a row is the same by either.
        let rows = if is_amd() { usize::MAX } else { 3 };
        (Avx512f::is_available() && Avx512bf16::is_available()).then_some(Self { rows })
    }

    /// The same, faster or not.
    #[cfg(test)]
    pub(super) fn for_any_rows(self) -> Self {
        Self { rows: usize::MAX }
    }

    /// The same where it is faster for so many rows.
    pub(super) fn for_rows(self, rows: usize) -> Option<Self> {
        (rows <= self.rows).then_some(self)
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
    for (start, height) in tiles(out.len(), HIGHEST) {
        let (left, out) = (&left[start..], &mut out[start..start + height]);
        by_height!(tile, height, (left, rows, right, out, ahead));
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

pub(super) fn is_amd() -> bool {
    let maker = __cpuid(0);
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Says that this processor multiplies eight bits, four at a time (AVX-512 VNNI: Intel since Cascade Lake, AMD since Zen 4).
#[derive(Debug, Clone, Copy)]
pub(super) struct DotOctets(());

impl DotOctets {
    /// `None` where there is none.
    pub(super) fn detect() -> Option<Self> {
        (Avx512f::is_available() && Avx512vnni::is_available()).then_some(Self(()))
    }

    /// `out += left right` for one group of inputs, tile after tile.
    ///
    /// left: `[panel][row]` with `rows` rows a panel; scales: `[row]`; right: `[inputs / 4][WIDTH]`, the inputs a multiple of [`WIDTH`];
    /// by: the weights' steps; out: `[row][WIDTH]`. `ahead` is called now and then.
    pub(super) fn strips(
        self,
        (left, rows, scales): (&[OctetRow], usize, &[Scale]),
        (right, by): (&[OctetRows], &Row),
        out: &mut [Row],
        ahead: &mut impl FnMut(),
    ) {
        // SAFETY: a `DotOctets` is only made where the processor has both.
        unsafe { octet_strips((left, rows, scales), (right, by), out, ahead) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn octet_strips(
    (left, rows, scales): (&[OctetRow], usize, &[Scale]),
    (right, by): (&[OctetRows], &Row),
    out: &mut [Row],
    ahead: &mut impl FnMut(),
) {
    for (start, height) in tiles(out.len(), HIGHEST) {
        let left = (&left[start..], rows, &scales[start..]);
        let out = &mut out[start..start + height];
        by_height!(octet_tile, height, (left, (right, by), out, ahead));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn octet_tile<F: FnMut(), const HEIGHT: usize>(
    (left, rows, scales): (&[OctetRow], usize, &[Scale]),
    (right, by): (&[OctetRows], &Row),
    out: &mut [Row],
    ahead: &mut F,
) {
    let Some(out) = out.first_chunk_mut::<HEIGHT>() else { return };
    let Some(scales) = scales.first_chunk::<HEIGHT>() else { return };
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; HEIGHT];
    for (sums, scale) in sums.iter_mut().zip(scales) {
        // What the weights are above their values, for the whole group.
        *sums = [_mm512_set1_epi32(-ABOVE * scale.sum); VECTORS];
    }
    for (panel, right) in right.as_chunks::<{ WIDTH / 4 }>().0.iter().enumerate() {
        let Some(left) = left[panel * rows..].first_chunk::<HEIGHT>() else { return };
        ahead();
        for (quad, right) in right.iter().enumerate() {
            let mut weights = [_mm512_setzero_si512(); VECTORS];
            for (to, from) in weights.iter_mut().zip(right.0.as_chunks::<LANES>().0) {
                // SAFETY: it reads sixteen values that are there.
                *to = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
            }
            for row in 0..HEIGHT {
                let value = _mm512_set1_epi32(left[row].0[quad].cast_signed());
                for vector in 0..VECTORS {
                    sums[row][vector] =
                        _mm512_dpbusd_epi32(sums[row][vector], weights[vector], value);
                }
            }
        }
    }
    for row in 0..HEIGHT {
        let step = _mm512_set1_ps(scales[row].step);
        let lines = out[row].0.as_chunks_mut::<LANES>().0.iter_mut();
        for ((sum, values), by) in sums[row].iter().zip(lines).zip(by.0.as_chunks::<LANES>().0) {
            // SAFETY: they read and write sixteen values that are there.
            unsafe {
                let by = _mm512_mul_ps(step, _mm512_loadu_ps(by.as_ptr()));
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(*sum), by);
                let to = _mm512_add_ps(_mm512_loadu_ps(values.as_ptr()), product);
                _mm512_storeu_ps(values.as_mut_ptr(), to);
            }
        }
    }
}
