//! Rounding to bfloat16 by instruction, 32 values at a time.
#![expect(
    unsafe_code,
    reason = "the instructions are only there if the processor says so, and their types have no safe conversions; the tests compare with plain arithmetic"
)]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_permutexvar_epi16, _mm512_storeu_si512,
};

use pulp::core_arch::x86::{Avx512bf16, Avx512bw, Avx512f};

use super::pairs::{HalfRow, HalfRows};
use super::prefetch::prefetch;
use super::{Row, WIDTH};

/// Values of a register.
const LANES: usize = 16;
/// Pairs that a panel's inputs make.
const PAIRS: usize = WIDTH / 2;

/// Says that this processor rounds to bfloat16 by instruction (AVX-512 BF16): as [`super::pairs::round`], but that numbers below the
/// smallest normal one become zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds(());

impl Rounds {
    /// `None` where it does not.
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        let all = Avx512f::is_available() && Avx512bw::is_available() && Avx512bf16::is_available();
        all.then_some(Self(()))
    }

    /// Neighbours in pairs.
    pub(super) fn halve(self, rows: &[Row], out: &mut [HalfRow]) {
        // SAFETY: a `Rounds` is only made where the processor has all of them.
        unsafe { halve(rows, out) }
    }

    /// Each row in pairs with the next, lane by lane: 32 rows of a matrix that lie `stride` values apart, 32 columns of each. Panics where they are not there.
    pub(super) fn pair_up_apart(self, values: &[f32], stride: usize, out: &mut [HalfRows; PAIRS]) {
        // SAFETY: likewise.
        unsafe { pair_up_apart(values, stride, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn halve(rows: &[Row], out: &mut [HalfRow]) {
    for (to, from) in out.iter_mut().zip(rows) {
        store(neighbours(from), &mut to.0);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair_up_apart(values: &[f32], stride: usize, out: &mut [HalfRows; PAIRS]) {
    for (pair, to) in out.iter_mut().enumerate() {
        let [first, second] = [2 * pair, 2 * pair + 1].map(|row| {
            let row = &values[row * stride..];
            // As far below as the next panel: rows lie far from each other, which no processor foresees for so many.
            let below = row.get(WIDTH * stride..).unwrap_or(&[]);
            below.iter().take(WIDTH).step_by(LANES).for_each(prefetch);
            row[..WIDTH].as_array()
        });
        let (Some(first), Some(second)) = (first, second) else { return };
        couple(first, second, to);
    }
}

/// Two rows lane by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn couple(first: &[f32; WIDTH], second: &[f32; WIDTH], to: &mut HalfRows) {
    let parts = first.as_chunks::<LANES>().0.iter().zip(second.as_chunks::<LANES>().0);
    for (to, (first, second)) in to.0.as_chunks_mut::<LANES>().0.iter_mut().zip(parts) {
        store(counterparts(load(first), load(second)), to);
    }
}

/// Each value of the first with its counterpart of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn counterparts(first: __m512, second: __m512) -> __m512i {
    /// Of two times sixteen values, one after the other.
    const LANES_OF_BOTH: [i16; WIDTH] = {
        let mut lanes = [0; WIDTH];
        let mut at = 0;
        while at < WIDTH {
            lanes[at] = (at / 2 + at % 2 * LANES) as i16;
            at += 1;
        }
        lanes
    };
    // SAFETY: it reads 64 bytes that are there.
    let lanes = unsafe { _mm512_loadu_si512(LANES_OF_BOTH.as_ptr().cast()) };
    _mm512_permutexvar_epi16(lanes, round(first, second))
}

/// Neighbours in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn neighbours(values: &Row) -> __m512i {
    let parts = values.0.as_chunks::<LANES>().0;
    round(load(&parts[0]), load(&parts[1]))
}

/// Of both, one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(first: __m512, second: __m512) -> __m512i {
    let halves = _mm512_cvtne2ps_pbh(second, first);
    // SAFETY: as many bytes, and any of them are values of the one as of the other.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(halves) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: it reads sixteen values that are there.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(pairs: __m512i, to: &mut [u32; LANES]) {
    // SAFETY: it writes the sixteen values.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs) };
}
