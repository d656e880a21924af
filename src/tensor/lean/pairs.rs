//! Values rounded to bfloat16, two neighbours in 32 bits: what processors multiply two at a time.

use pulp::{Simd, WithSimd};

use super::rounding::Rounds;
use super::{Row, WIDTH};
use crate::tensor::simd::{dispatch, vectorised};

/// A row's part in a panel: each value holds inputs `2 i` (low bits) and `2 i + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct HalfRow(pub(super) [u32; WIDTH / 2]);

impl HalfRow {
    pub(super) const ZERO: Self = Self([0; WIDTH / 2]);
}

/// Two rows of weights: of each of [`WIDTH`] outputs, inputs `2 i` (low bits) and `2 i + 1`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct HalfRows(pub(super) [u32; WIDTH]);

impl HalfRows {
    pub(super) const ZERO: Self = Self([0; WIDTH]);
}

/// To the nearest bfloat16, ties to even; what is no number stays none.
#[inline(always)]
pub(super) fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { rounded }
}

/// Two neighbours, rounded.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> u32 {
    round(first) | round(second) << 16
}

/// The first of a pair.
#[inline(always)]
pub(super) fn low(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// The second of a pair.
#[inline(always)]
pub(super) fn high(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

/// Rounds rows.
pub(super) fn halve(rows: &[Row], out: &mut [HalfRow]) {
    match Rounds::detect() {
        Some(rounds) => rounds.halve(rows, out),
        None => vectorised(
            #[inline(always)]
            || halve_portably(rows, out),
        ),
    }
}

#[inline(always)]
fn halve_portably(rows: &[Row], out: &mut [HalfRow]) {
    for (to, from) in out.iter_mut().zip(rows) {
        for (to, from) in to.0.iter_mut().zip(from.0.as_chunks::<2>().0) {
            *to = pair(from[0], from[1]);
        }
    }
}

/// Pairs each row's values with those of the next, lane by lane; the last one's without a next with nothing.
#[inline(always)]
pub(super) fn weave(rows: &[HalfRow], out: &mut [HalfRows]) {
    for (to, two) in out.iter_mut().zip(rows.chunks(2)) {
        let second = two.get(1).unwrap_or(&HalfRow::ZERO);
        for (to, (first, second)) in
            to.0.as_chunks_mut().0.iter_mut().zip(two[0].0.iter().zip(second.0))
        {
            *to = [first & 0xffff | second << 16, first >> 16 | second & 0xffff_0000];
        }
    }
}

/// Rows rounded and as wide as they were, the second of each pair first: that is how the instruction for pairs adds them up.
pub(super) fn round_swapped(rows: &[Row], out: &mut [Row]) {
    dispatch(RoundSwapped { rows, out });
}

/// What [`round_swapped`] does.
struct RoundSwapped<'a> {
    rows: &'a [Row],
    out: &'a mut [Row],
}

impl WithSimd for RoundSwapped<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [upper, half, one, shift, none] =
            [0xffff_0000, 0x7fff, 1, 16, 0x7fc0_0000].map(|value| simd.splat_u32s(value));
        for (to, from) in self.out.iter_mut().zip(self.rows) {
            let mut rounded = [0; WIDTH];
            let values = S::as_simd_f32s(&from.0).0.iter();
            for (value, rounded) in values.zip(S::as_mut_simd_u32s(&mut rounded).0) {
                let bits = simd.transmute_u32s_f32s(*value);
                let odd = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, shift), one);
                let near = simd.add_u32s(bits, simd.add_u32s(half, odd));
                let is_number = simd.equal_f32s(*value, *value);
                *rounded = simd.select_u32s(is_number, simd.and_u32s(near, upper), none);
            }
            let mut pairs: [u64; WIDTH / 2] = pulp::cast(rounded);
            for pair in &mut pairs {
                *pair = pair.rotate_left(32);
            }
            to.0 = pulp::cast(pairs);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_that_of_the_format_and_comes_back() {
        let mut values: Vec<f32> =
            (0..4096).map(|i| ((i * 37) as f32).sin() * 3.0_f32.powi(i % 40 - 20)).collect();
        values.extend([0.0, -0.0, 1.0, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY]);
        // Halfway between two, both ways.
        values.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(f32::from_bits));
        for value in &values {
            assert_eq!(round(*value), u32::from(bf16::from_f32(*value).to_bits()), "{value}");
        }
        assert!(low(round(f32::NAN)).is_nan());
        let (mut row, mut halved, mut swapped) = (Row::ZERO, [HalfRow::ZERO], [Row::ZERO]);
        for values in values.chunks(WIDTH) {
            row.0[..values.len()].copy_from_slice(values);
            halve_portably(&[row], &mut halved);
            let portably = halved;
            halve(&[row], &mut halved);
            assert_eq!(halved, portably);
            let rounded = row.0.map(|value| bf16::from_f32(value).to_f32());
            for (pair, two) in halved[0].0.into_iter().zip(rounded.as_chunks::<2>().0) {
                assert_eq!([low(pair), high(pair)], *two);
            }
            round_swapped(&[row], &mut swapped);
            let mut pairs = rounded;
            pairs.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.reverse());
            assert_eq!(swapped[0].0, pairs);
        }
        let (one, other) =
            (Row(std::array::from_fn(|i| values[i])), Row(std::array::from_fn(|i| values[99 + i])));
        let (mut halves, mut paired) = ([HalfRow::ZERO; 3], [HalfRows::ZERO; 2]);
        halve(&[one, other, one], &mut halves);
        weave(&halves, &mut paired);
        for lane in 0..WIDTH {
            let want = [one, other].map(|row| bf16::from_f32(row.0[lane]).to_f32());
            assert_eq!([low(paired[0].0[lane]), high(paired[0].0[lane])], want);
            assert_eq!([low(paired[1].0[lane]), high(paired[1].0[lane])], [want[0], 0.0]);
        }
        row.0[3] = f32::NAN;
        halve(&[row], &mut halved);
        assert!(high(halved[0].0[1]).is_nan());
        round_swapped(&[row], &mut swapped);
        assert!(swapped[0].0[2].is_nan() && !swapped[0].0[3].is_nan());
    }
}
