//! Values in eight bits, four neighbours in 32 bits: what processors multiply four at a time.
//!
//! Every [`GROUP`] inputs of a row, and of an output's weights, have a scale of their own, so that one large value costs no more than its
//! neighbours their last bits. Sums within a group are whole numbers and therefore the same by any instructions.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::product::DEPTH;
use super::{Row, WIDTH, WORTH_SHARING};
use crate::tensor::simd::dispatch;

/// Inputs that share a scale: as many as a product takes at a time.
pub(super) const GROUP: usize = DEPTH * WIDTH;

/// What weights are stored above their value: the instruction takes one side without a sign.
pub(super) const ABOVE: i32 = 128;

/// A row's part in a panel: each value holds inputs `4 i` (lowest bits) to `4 i + 3`, -127 to 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
pub(super) struct OctetRow(pub(super) [u32; WIDTH / 4]);

impl OctetRow {
    pub(super) const ZERO: Self = Self([0; WIDTH / 4]);

    #[inline(always)]
    fn codes(self) -> [i8; WIDTH] {
        let mut codes = [0; WIDTH];
        for (four, value) in codes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *four = value.to_le_bytes().map(u8::cast_signed);
        }
        codes
    }
}

/// Four rows of weights: of each of [`WIDTH`] outputs, inputs `4 i` (lowest bits) to `4 i + 3`, each [`ABOVE`] its value.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct OctetRows(pub(super) [u32; WIDTH]);

impl OctetRows {
    pub(super) const ZERO: Self = Self([u32::from_le_bytes([ABOVE as u8; 4]); WIDTH]);

    /// The value of one of the four inputs for each output.
    #[inline(always)]
    pub(super) fn values(self, input: usize) -> [f32; WIDTH] {
        self.0.map(|four| ((four >> (8 * input) & 0xff) as i32 - ABOVE) as f32)
    }
}

/// What the codes of a row's group are multiplied by, and their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) step: f32,
    pub(super) sum: i32,
}

impl Scale {
    pub(super) const ZERO: Self = Self { step: 0.0, sum: 0 };
}

/// Codes of -127 to 127 and what to multiply them by, for values whose largest is known.
#[inline(always)]
fn steps(largest: f32) -> (f32, f32) {
    let steps = 127.0 / largest;
    if steps.is_normal() { (largest / 127.0, steps) } else { (0.0, 0.0) }
}

/// Added to a number, it leaves the nearest whole one in the low bits, halves to even. A cast would be made one value at a time, to be
/// right where a value is too large.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn code(value: f32, steps: f32) -> i8 {
    (value * steps + ROUND).to_bits() as i8
}

/// Puts `[panel][row]` of `rows` rows in code, on at most so many threads; scales: `[group][row]`.
pub(super) fn encode(
    left: &[Row],
    rows: usize,
    codes: &mut [OctetRow],
    scales: &mut [Scale],
    threads: usize,
) {
    let groups = scales.len() / rows;
    let each = groups.div_ceil(threads.max(1)) * rows;
    if threads < 2 || rows < WORTH_SHARING || each == 0 {
        return encode_alone(left, rows, codes, scales);
    }
    let parts = left.par_chunks(DEPTH * each).zip(codes.par_chunks_mut(DEPTH * each));
    let parts = parts.zip(scales.par_chunks_mut(each));
    parts.for_each(|((left, codes), scales)| encode_alone(left, rows, codes, scales));
}

fn encode_alone(left: &[Row], rows: usize, codes: &mut [OctetRow], scales: &mut [Scale]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        use std::arch::x86_64::__m512i;
        // Left to the compiler, bytes are taken out and put in one by one, which takes longer than all else.
        let lowest = |values: [u32; WIDTH]| {
            let [low, high]: [__m512i; 2] = pulp::cast(values);
            let f = simd.avx512f;
            pulp::cast([f._mm512_cvtepi32_epi8(low), f._mm512_cvtepi32_epi8(high)])
        };
        return Simd::vectorize(simd, Encode { left, rows, codes, scales, lowest });
    }
    let lowest = |values: [u32; WIDTH]| values.map(|value| value as u8);
    dispatch(Encode { left, rows, codes, scales, lowest });
}

/// What [`encode`] does. `lowest` gives the lowest byte of each value.
struct Encode<'a, L> {
    left: &'a [Row],
    rows: usize,
    codes: &'a mut [OctetRow],
    scales: &'a mut [Scale],
    lowest: L,
}

impl<L: Fn([u32; WIDTH]) -> [u8; WIDTH]> WithSimd for Encode<'_, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, rows, codes, scales, lowest } = self;
        let groups = left.chunks(DEPTH * rows).zip(codes.chunks_mut(DEPTH * rows));
        for ((left, codes), scales) in groups.zip(scales.chunks_exact_mut(rows)) {
            for (row, scale) in scales.iter_mut().enumerate() {
                let panels = left[row..].iter().step_by(rows);
                let codes = codes[row..].iter_mut().step_by(rows);
                *scale = encode_row(simd, panels, codes, &lowest);
            }
        }
    }
}

/// A row's part in the panels of a group.
#[inline(always)]
fn encode_row<'a, S: Simd>(
    simd: S,
    left: impl Iterator<Item = &'a Row> + Clone,
    codes: impl Iterator<Item = &'a mut OctetRow>,
    lowest: impl Fn([u32; WIDTH]) -> [u8; WIDTH],
) -> Scale {
    let zero = simd.splat_f32s(0.0);
    let (mut most, mut none) = (zero, zero);
    for from in left.clone() {
        for value in S::as_simd_f32s(&from.0).0 {
            most = simd.max_f32s(simd.abs_f32s(*value), most);
            none = simd.add_f32s(none, simd.mul_f32s(zero, *value));
        }
    }
    let (step, steps) = steps(simd.reduce_max_f32s(most));
    // What is no number makes none, as in other precisions: it must not pass for a zero.
    let step = step + simd.reduce_sum_f32s(none);
    let (steps, round) = (simd.splat_f32s(steps), simd.splat_f32s(ROUND));
    // Whole numbers far below what single precision holds.
    let mut sum = zero;
    for (from, to) in left.zip(codes) {
        let mut rounded = [0; WIDTH];
        let values = S::as_simd_f32s(&from.0).0.iter();
        for (value, bits) in values.zip(S::as_mut_simd_u32s(&mut rounded).0) {
            let whole = simd.add_f32s(simd.mul_f32s(*value, steps), round);
            *bits = simd.transmute_u32s_f32s(whole);
            sum = simd.add_f32s(sum, simd.sub_f32s(whole, round));
        }
        to.0 = pulp::cast::<[u8; WIDTH], [u32; WIDTH / 4]>(lowest(rounded)).map(u32::from_le);
    }
    Scale { step, sum: simd.reduce_sum_f32s(sum) as i32 }
}

/// Codes as they are, for products without instructions of their own.
#[inline(always)]
pub(super) fn widen(codes: &[OctetRow], out: &mut [Row]) {
    for (to, from) in out.iter_mut().zip(codes) {
        to.0 = from.codes().map(f32::from);
    }
}

/// An output's weights, `[inputs]`, put in code into lane `lane` of `[input / 4]` and `[group]`.
pub(super) fn pack(weights: &[f32], lane: usize, rows: &mut [OctetRows], steps_of: &mut [Row]) {
    let groups = weights.chunks(GROUP).zip(rows.chunks_mut(GROUP / 4));
    for ((weights, rows), step_of) in groups.zip(steps_of) {
        let (step, steps) = steps(weights.iter().fold(0.0, |most, weight| most.max(weight.abs())));
        step_of.0[lane] = step;
        for (four, row) in weights.chunks(4).zip(rows) {
            let mut bytes = [ABOVE as u8; 4];
            for (byte, weight) in bytes.iter_mut().zip(four) {
                *byte = (i32::from(code(*weight, steps)) + ABOVE) as u8;
            }
            row.0[lane] = u32::from_le_bytes(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::lean::panels;

    #[test]
    fn codes_are_the_nearest_and_scales_those_of_their_group() {
        // Few by one thread, many by several.
        [(3, 1), (WORTH_SHARING + 5, 2), (WORTH_SHARING, 7)]
            .into_iter()
            .for_each(|(rows, threads)| check_codes(rows, threads));
    }

    fn check_codes(rows: usize, threads: usize) {
        let columns = 300;
        let mut left = vec![Row::ZERO; panels(columns) * rows];
        let value = |row: usize, column: usize| {
            // One value in the first group that dwarfs all others.
            if (row, column) == (1, 5) { 900.0 } else { ((row * 31 + column * 7) as f32).sin() }
        };
        for row in 0..rows {
            for column in 0..columns {
                left[column / WIDTH * rows + row].0[column % WIDTH] = value(row, column);
            }
        }
        let groups = columns.div_ceil(GROUP);
        let mut codes = vec![OctetRow::ZERO; left.len()];
        let mut scales = vec![Scale::ZERO; groups * rows];
        encode(&left, rows, &mut codes, &mut scales, threads);
        let mut wide = vec![Row::ZERO; left.len()];
        widen(&codes, &mut wide);
        for row in 0..rows {
            for group in 0..groups {
                let columns = group * GROUP..((group + 1) * GROUP).min(columns);
                let Scale { step, sum } = scales[group * rows + row];
                let largest = columns.clone().map(|c| value(row, c).abs()).fold(0.0, f32::max);
                assert!((step * 127.0 - largest).abs() < 1e-5 * largest);
                let code = |c: usize| wide[c / WIDTH * rows + row].0[c % WIDTH];
                for column in columns.clone() {
                    let off = (code(column) * step - value(row, column)).abs();
                    assert!(off <= 0.5001 * step, "{row} {column}: {off} of {step}");
                }
                assert_eq!(sum as f32, columns.map(code).sum::<f32>());
            }
        }
    }

    #[test]
    fn zeros_have_codes_and_what_is_no_number_makes_none() {
        let of = |value: f32| {
            let mut row = Row([0.0; WIDTH]);
            row.0[7] = value;
            let (mut codes, mut scales) = ([OctetRow([7; WIDTH / 4])], [Scale::ZERO]);
            encode(&[row], 1, &mut codes, &mut scales, 1);
            (codes[0], scales[0])
        };
        for zero in [0.0, -0.0, 1e-42] {
            assert_eq!(of(zero), (OctetRow::ZERO, Scale::ZERO), "{zero}");
        }
        for none in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(of(none).1.step.is_nan(), "{none}");
        }
    }
}
