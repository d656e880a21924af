use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::prefetch::Ahead;
use super::tile::{HIGHEST, high, multiply, tiles};
use super::{Row, WIDTH, panels};
use crate::tensor::activation::{gelu_at, quick_gelu_at};
use crate::tensor::simd::dispatch;

/// Panels of inputs taken at a time: their part of a panel of weights stays in the first-level cache.
const DEPTH: usize = 4;
/// Bytes of the left side that stay in the second-level cache while the weights pass by.
const BLOCK_BYTES: usize = 3 << 19;

/// How weights are kept. Sums are always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16: half the memory, and half of what passes by for every picture.
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

/// A row of weights in bfloat16: one line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct HalfRow([u16; WIDTH]);

#[derive(Debug)]
enum Kept {
    F32(Vec<Row>),
    Bf16(Vec<HalfRow>),
}

/// `x W^T + b`, packed for inference.
#[derive(Debug)]
pub struct Lean {
    outputs: usize,
    inputs: usize,
    /// `[panel of outputs][input][WIDTH]`, inputs filled up to whole panels.
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
                let mut packed = vec![HalfRow([0; WIDTH]); size];
                for (output, row) in rows() {
                    let panel = &mut packed[output / WIDTH * deep..];
                    for (to, value) in panel.iter_mut().zip(row) {
                        to.0[output % WIDTH] = bf16::from_f32(*value).to_bits();
                    }
                }
                Kept::Bf16(packed)
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
            Kept::Bf16(rows) => bf16::from_bits(rows[row].0[lane]).to_f32(),
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
        let task = |first, out| dispatch(Task { linear: self, first, left, rows, out, after });
        let each = panels(self.outputs).div_ceil(threads.max(1));
        if each == panels(self.outputs) {
            return task(0, out);
        }
        out.par_chunks_mut(each * rows).enumerate().for_each(|(at, out)| task(at * each, out));
    }
}

/// Some panels of a product.
struct Task<'a> {
    linear: &'a Lean,
    /// The first of the panels.
    first: usize,
    left: &'a [Row],
    rows: usize,
    /// `[panel][row][WIDTH]`
    out: &'a mut [Row],
    after: After,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { linear, first, left, rows, out, after } = self;
        let deep = panels(linear.inputs);
        let block = (BLOCK_BYTES / (deep * size_of::<Row>())).clamp(4 * HIGHEST, 40 * HIGHEST);
        let block = block / HIGHEST * HIGHEST;
        let mut widened = [Row::ZERO; DEPTH * WIDTH];
        for start in (0..rows).step_by(block) {
            let here = block.min(rows - start);
            for (panel, out) in out.chunks_exact_mut(rows).enumerate() {
                let panel = first + panel;
                let out = &mut out[start..start + here];
                begin(out, &linear.bias[panel], after);
                for deepest in (0..deep).step_by(DEPTH) {
                    let depth = DEPTH.min(deep - deepest);
                    let at = (panel * deep + deepest) * WIDTH;
                    let steps = tiles(here, high::<S>()).count() * depth;
                    let (next, count) = (at + depth * WIDTH, DEPTH * WIDTH);
                    let left = &left[deepest * rows + start..];
                    match &linear.weights {
                        Kept::F32(weights) => {
                            let mut ahead = Ahead::new(weights, next, count, steps);
                            let right = &weights[at..next];
                            strips(simd, left, rows, right, out, &mut || ahead.step());
                        }
                        Kept::Bf16(weights) => {
                            let mut ahead = Ahead::new(weights, next, count, steps);
                            for (to, from) in widened.iter_mut().zip(&weights[at..next]) {
                                for (to, from) in to.0.iter_mut().zip(from.0) {
                                    *to = f32::from_bits(u32::from(from) << 16);
                                }
                            }
                            let right = &widened[..depth * WIDTH];
                            strips(simd, left, rows, right, out, &mut || ahead.step());
                        }
                    }
                }
                finish(out, after);
            }
        }
    }
}

/// `out += left right`, tile after tile.
#[inline(always)]
fn strips<S: Simd>(
    simd: S,
    left: &[Row],
    rows: usize,
    right: &[Row],
    out: &mut [Row],
    ahead: &mut impl FnMut(),
) {
    for (start, height) in tiles(out.len(), high::<S>()) {
        multiply(simd, &left[start..], rows, right, &mut out[start..start + height], ahead);
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
