use std::cell::Cell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::dot::Dot;
use super::pairs::{HalfRow, HalfRows, halve, high, low, round, widen};
use super::product::{DEPTH, Exact, Pairs, Part, Product, Widened};
use super::tile::HIGHEST;
use super::{Row, WIDTH, panels};
use crate::tensor::activation::{gelu_at, quick_gelu_at};
use crate::tensor::simd::{dispatch, vectorised};

/// Bytes of the left side that stay in the second-level cache while the weights pass by.
const BLOCK_BYTES: usize = 3 << 19;

/// How weights are kept. Sums are always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16, and so is what they are multiplied with: half the memory, half of what passes by for every picture, and
    /// twice the speed where the processor multiplies such pairs.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// What follows a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// The exact GELU.
    Gelu,
    /// It is added to what was there.
    Add,
}

#[derive(Debug)]
enum Kept {
    /// `[panel of outputs][input][WIDTH]`, inputs filled up to whole panels.
    F32(Vec<Row>),
    /// `[panel of outputs][input / 2][WIDTH]`, likewise.
    Bf16(Vec<HalfRows>, Option<Dot>),
}

thread_local! {
    /// A left side that was rounded; kept for the next product of the thread.
    static HALVED: Cell<Vec<HalfRow>> = const { Cell::new(Vec::new()) };
    static WIDENED: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
}

/// `x W^T + b`, packed for inference.
#[derive(Debug)]
pub struct Lean {
    outputs: usize,
    inputs: usize,
    weights: Kept,
    /// `[panel of outputs][WIDTH]`
    bias: Vec<Row>,
}

impl Lean {
    /// weights: `[outputs, inputs]` as PyTorch stores them, row after row in one or more pieces; bias: `[outputs]`, likewise. Panics
    /// where a piece is no whole number of rows.
    #[must_use]
    pub fn pack(inputs: usize, weights: &[&[f32]], bias: &[&[f32]], precision: Precision) -> Self {
        let outputs: usize = weights.iter().map(|piece| piece.len() / inputs).sum();
        let deep = panels(inputs) * WIDTH;
        let rows = || weights.iter().flat_map(|piece| piece.chunks_exact(inputs)).enumerate();
        let size = panels(outputs) * deep;
        let weights = match precision {
            Precision::F32 => {
                let mut packed = vec![Row::ZERO; size];
                for (output, row) in rows() {
                    let panel = &mut packed[output / WIDTH * deep..];
                    for (to, value) in panel.iter_mut().zip(row) {
                        to.0[output % WIDTH] = *value;
                    }
                }
                Kept::F32(packed)
            }
            Precision::Bf16 => {
                let mut packed = vec![HalfRows::ZERO; size / 2];
                for (output, row) in rows() {
                    let panel = &mut packed[output / WIDTH * deep / 2..];
                    for (to, pair) in panel.iter_mut().zip(row.chunks(2)) {
                        let second = pair.get(1).map_or(0, |value| round(*value));
                        to.0[output % WIDTH] = round(pair[0]) | second << 16;
                    }
                }
                Kept::Bf16(packed, Dot::detect())
            }
        };
        let mut packed = vec![Row::ZERO; panels(outputs)];
        for (output, value) in bias.iter().flat_map(|piece| piece.iter()).enumerate() {
            packed[output / WIDTH].0[output % WIDTH] = *value;
        }
        Self { outputs, inputs, weights, bias: packed }
    }

    /// Columns that come out.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns that go in.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weights as they are used, `[outputs, inputs]`.
    #[must_use]
    pub fn weights(&self) -> Vec<f32> {
        let deep = panels(self.inputs) * WIDTH;
        let value = |row: usize, lane: usize| match &self.weights {
            Kept::F32(rows) => rows[row].0[lane],
            Kept::Bf16(rows, _) => {
                let pair = rows[row / 2].0[lane];
                if row.is_multiple_of(2) { low(pair) } else { high(pair) }
            }
        };
        (0..self.outputs)
            .flat_map(|output| {
                (0..self.inputs).map(move |input| (output / WIDTH * deep + input, output % WIDTH))
            })
            .map(|(row, lane)| value(row, lane))
            .collect()
    }

    /// The bias, `[outputs]`.
    #[must_use]
    pub fn bias(&self) -> Vec<f32> {
        self.bias.iter().flat_map(|row| row.0).take(self.outputs).collect()
    }

    /// left: `[rows, inputs]` and out: `[rows, outputs]`, both in panels, on at most `threads` threads of the pool that it is
    /// called in. Panics where sizes do not fit.
    pub fn forward(
        &self,
        left: &[Row],
        rows: usize,
        out: &mut [Row],
        after: After,
        threads: usize,
    ) {
        assert_eq!(left.len(), panels(self.inputs) * rows, "the left side has other columns");
        assert_eq!(out.len(), panels(self.outputs) * rows, "the result has other columns");
        if rows == 0 {
            return;
        }
        match &self.weights {
            Kept::F32(weights) => {
                self.share_out(Exact { left, weights }, rows, out, after, threads)
            }
            Kept::Bf16(weights, dot) => {
                let mut halved = HALVED.take();
                halved.resize(left.len(), HalfRow::ZERO);
                vectorised(|| halve(left, &mut halved));
                match dot {
                    Some(dot) => {
                        let by = Pairs { left: &halved, weights, dot: *dot };
                        self.share_out(by, rows, out, after, threads);
                    }
                    None => {
                        let mut widened = WIDENED.take();
                        widened.resize(left.len(), Row::ZERO);
                        vectorised(|| widen(&halved, &mut widened));
                        let by = Widened { left: &widened, weights };
                        self.share_out(by, rows, out, after, threads);
                        WIDENED.set(widened);
                    }
                }
                HALVED.set(halved);
            }
        }
    }

    fn share_out<P: Product>(
        &self,
        product: P,
        rows: usize,
        out: &mut [Row],
        after: After,
        threads: usize,
    ) {
        let (deep, bias) = (panels(self.inputs), &self.bias);
        let task = |first, out| dispatch(Task { product, deep, bias, first, rows, out, after });
        let each = panels(self.outputs).div_ceil(threads.max(1));
        if each == panels(self.outputs) {
            return task(0, out);
        }
        out.par_chunks_mut(each * rows).enumerate().for_each(|(at, out)| task(at * each, out));
    }
}

/// Some panels of a product.
struct Task<'a, P> {
    product: P,
    /// Panels of the inputs.
    deep: usize,
    bias: &'a [Row],
    /// The first of the panels.
    first: usize,
    rows: usize,
    /// `[panel][row][WIDTH]`
    out: &'a mut [Row],
    after: After,
}

impl<P: Product> WithSimd for Task<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, deep, bias, first, rows, out, after } = self;
        let block = (BLOCK_BYTES / (deep * P::BYTES)).clamp(4 * HIGHEST, 40 * HIGHEST);
        let block = block / HIGHEST * HIGHEST;
        for start in (0..rows).step_by(block) {
            let here = block.min(rows - start);
            for (panel, out) in out.chunks_exact_mut(rows).enumerate() {
                let panel = first + panel;
                let out = &mut out[start..start + here];
                begin(out, &bias[panel], after);
                for deepest in (0..deep).step_by(DEPTH) {
                    let inputs = DEPTH.min(deep - deepest) * WIDTH;
                    let first = (panel * deep + deepest) * WIDTH;
                    let part = Part { first, inputs, left: deepest * rows + start, rows };
                    product.add(simd, part, out);
                }
                finish(out, after);
            }
        }
    }
}

#[inline(always)]
fn begin(out: &mut [Row], bias: &Row, after: After) {
    if after != After::Add {
        return out.fill(*bias);
    }
    for row in out {
        for (value, bias) in row.0.iter_mut().zip(&bias.0) {
            *value += bias;
        }
    }
}

#[inline(always)]
fn finish(out: &mut [Row], after: After) {
    match after {
        After::Nothing | After::Add => {}
        After::QuickGelu => {
            for row in out {
                for value in &mut row.0 {
                    *value = quick_gelu_at(*value);
                }
            }
        }
        After::Gelu => {
            for row in out {
                for value in &mut row.0 {
                    *value = gelu_at(*value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[rows, columns]` in panels.
    fn in_panels(values: &[f32], columns: usize) -> Vec<Row> {
        let rows = values.len() / columns;
        let mut out = vec![Row::ZERO; panels(columns) * rows];
        for (at, value) in values.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            out[column / WIDTH * rows + row].0[column % WIDTH] = *value;
        }
        out
    }

    fn whole(count: usize, salt: usize) -> Vec<f32> {
        // Small whole numbers: exact in any order, and in bfloat16.
        (0..count).map(|i| ((i * 7 + salt) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn a_product_is_exact_whatever_the_sizes_the_threads_and_the_precision() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (3, 33, 5),
            (13, 64, 130),
            (25, 300, 95),
            (50, 160, 64),
            (197, 70, 33),
            (600, 40, 40),
        ] {
            let (left, weights, bias) =
                (whole(rows * inputs, 1), whole(outputs * inputs, 4), whole(outputs, 2));
            let mut want = vec![0.0; rows * outputs];
            for (at, want) in want.iter_mut().enumerate() {
                let (row, output) = (at / outputs, at % outputs);
                let pairs = left[row * inputs..][..inputs].iter().zip(&weights[output * inputs..]);
                *want = bias[output] + pairs.map(|(x, y)| x * y).sum::<f32>();
            }
            for precision in [Precision::F32, Precision::Bf16] {
                let cut = outputs / 2 * inputs;
                let pieces = [&weights[..cut], &weights[cut..]];
                let linear = Lean::pack(inputs, &pieces, &[&bias], precision);
                assert_eq!(linear.weights(), weights);
                assert_eq!(linear.bias(), bias);
                let left = in_panels(&left, inputs);
                for threads in [1, 2, 7] {
                    let mut out = vec![Row([f32::NAN; WIDTH]); panels(outputs) * rows];
                    linear.forward(&left, rows, &mut out, After::Nothing, threads);
                    assert_eq!(
                        out,
                        in_panels(&want, outputs),
                        "{rows} {inputs} {outputs} {threads}"
                    );
                    linear.forward(&left, rows, &mut out, After::Add, threads);
                    let twice: Vec<f32> = want.iter().map(|v| 2.0 * v).collect();
                    assert_eq!(out, in_panels(&twice, outputs));
                }
            }
        }
    }

    /// Both products of rounded values: by pairs, where this processor has that, and by widening.
    #[test]
    fn pairs_and_widened_values_give_the_same() {
        let Some(dot) = Dot::detect() else {
            println!("skipped: this processor does not multiply pairs");
            return;
        };
        let value = |at: usize| (at as f32 * 0.37).sin();
        for (rows, inputs, outputs) in [(1, 768, 64), (7, 33, 70), (50, 515, 95), (500, 64, 33)] {
            let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
            let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
            let left = in_panels(&left, inputs);
            let mut linear = Lean::pack(inputs, &[&weights], &[], Precision::Bf16);
            let mut by = |dot| {
                if let Kept::Bf16(_, kept) = &mut linear.weights {
                    *kept = dot;
                }
                let mut out = vec![Row::ZERO; panels(outputs) * rows];
                linear.forward(&left, rows, &mut out, After::Nothing, 2);
                out
            };
            let (pairs, widened) = (by(Some(dot)), by(None));
            assert_ne!(pairs, vec![Row::ZERO; pairs.len()]);
            // The same products; sums of them in another order.
            let most = (inputs as f32).sqrt() * 1e-6 * inputs as f32;
            for (one, other) in pairs.iter().zip(&widened) {
                for (one, other) in one.0.iter().zip(other.0) {
                    assert!((one - other).abs() < most, "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_alone_and_among_others_to_the_last_bit() {
        let (inputs, outputs, rows) = (515, 70, 29);
        let value = |at: usize| (at as f32 * 0.37).sin();
        let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
        let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
        for precision in [Precision::F32, Precision::Bf16] {
            let linear = Lean::pack(inputs, &[&weights], &[], precision);
            let mut all = vec![Row::ZERO; panels(outputs) * rows];
            linear.forward(&in_panels(&left, inputs), rows, &mut all, After::QuickGelu, 3);
            for row in [0, 11, 28] {
                let mut one = vec![Row::ZERO; panels(outputs)];
                let alone = in_panels(&left[row * inputs..][..inputs], inputs);
                linear.forward(&alone, 1, &mut one, After::QuickGelu, 1);
                let bits =
                    |values: Vec<f32>| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
                assert_eq!(
                    bits(super::super::row_of(&all, rows, row, outputs)),
                    bits(super::super::row_of(&one, 1, 0, outputs))
                );
            }
        }
    }
}
