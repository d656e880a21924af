use std::cell::Cell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::amx::Amx;
use super::dot::{Dot, DotOctets};
use super::held::{Held, Left};
use super::octets::{GROUP, OctetRow, OctetRows, Scale, encode, pack, widen as widen_octets};
use super::pairs::{HalfRow, HalfRows, halve, high, low, pair, round_swapped};
use super::product::{
    DEPTH, Exact, Octets, Pairs, Part, Product, Quads, Tiles, Widened, WidenedOctets,
};
use super::{Row, WIDTH, panels};
use crate::tensor::activation::{gelus, quick_gelus};
use crate::tensor::room;
use crate::tensor::simd::{dispatch, vectorised};

/// How weights are kept. Sums are always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16, and so is what they are multiplied with: half the memory, half of what passes by for every picture, and
    /// twice the speed where the processor multiplies such pairs fast (AMD's since Zen 4), more where it multiplies tiles of them (AMX).
    Bf16,
    /// In eight bits with a scale for every 128 inputs of an output, and so is what they are multiplied with: a quarter of the memory,
    /// and half of the time where the processor multiplies four at a time. A tower's first and last products, its norms and its
    /// attention are those of bfloat16.
    Int8,
}

impl Precision {
    /// That of the first and the last product of a tower: what these leave out, nothing after them makes up for.
    #[must_use]
    pub fn at_the_ends(self) -> Self {
        match self {
            Self::Int8 => Self::Bf16,
            Self::F32 | Self::Bf16 => self,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
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
    Bf16(Vec<HalfRows>, Halves),
    Int8(KeptOctets),
}

/// How values in bfloat16 are multiplied.
#[derive(Debug, Clone, Copy)]
pub(super) enum Halves {
    Tiles(Amx),
    /// By pairs, for few rows or for all.
    Dot(Dot),
    Widened,
}

impl Halves {
    /// The fastest that this processor has.
    pub(super) fn detect() -> Self {
        let tiles = Amx::detect().map(Self::Tiles);
        tiles.or_else(|| Dot::detect().map(Self::Dot)).unwrap_or(Self::Widened)
    }

    /// That for so many rows.
    pub(super) fn for_rows(self, rows: usize) -> Self {
        match self {
            Self::Dot(dot) => dot.for_rows(rows).map_or(Self::Widened, Self::Dot),
            Self::Tiles(_) | Self::Widened => self,
        }
    }
}

#[derive(Debug)]
struct KeptOctets {
    /// `[panel of outputs][input / 4][WIDTH]`, likewise.
    rows: Vec<OctetRows>,
    /// `[panel of outputs][group of inputs][WIDTH]`
    steps: Vec<Row>,
    dot: Option<DotOctets>,
}

thread_local! {
    /// A left side that was rounded; kept for the next product of the thread.
    static HALVED: Cell<Vec<HalfRow>> = const { Cell::new(Vec::new()) };
    /// Sums that are rounded afterwards.
    static SUMS: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
    static WIDENED: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
    static ENCODED: Cell<(Vec<OctetRow>, Vec<Scale>)> = const { Cell::new((Vec::new(), Vec::new())) };
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
                    for (to, two) in panel.iter_mut().zip(row.chunks(2)) {
                        let second = two.get(1).copied().unwrap_or_default();
                        to.0[output % WIDTH] = pair(two[0], second);
                    }
                }
                Kept::Bf16(packed, Halves::detect())
            }
            Precision::Int8 => {
                let groups = deep.div_ceil(GROUP);
                let mut packed = vec![OctetRows::ZERO; size / 4];
                let mut steps = vec![Row::ZERO; panels(outputs) * groups];
                for (output, row) in rows() {
                    let (panel, lane) = (output / WIDTH, output % WIDTH);
                    let to = &mut packed[panel * deep / 4..(panel + 1) * deep / 4];
                    pack(row, lane, to, &mut steps[panel * groups..(panel + 1) * groups]);
                }
                Kept::Int8(KeptOctets { rows: packed, steps, dot: DotOctets::detect() })
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
            Kept::Int8(KeptOctets { rows, steps, .. }) => {
                let (panel, input) = (row / deep, row % deep);
                let step = steps[panel * deep.div_ceil(GROUP) + input / GROUP].0[lane];
                step * rows[row / 4].values(row % 4)[lane]
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

    /// Whether its left side may be rounded already.
    #[must_use]
    pub fn takes_halves(&self) -> bool {
        let any = |halves: Halves| !matches!(halves.for_rows(usize::MAX), Halves::Widened);
        matches!(&self.weights, Kept::Bf16(_, halves) if any(*halves))
    }

    /// left: `[rows, inputs]` and out: `[rows, outputs]`, both in panels, on at most `threads` threads of the pool that it is
    /// called in. Panics where sizes do not fit, where the left side is rounded and [`Self::takes_halves`] says no, and where a result that is
    /// rounded is to be added to what was there.
    pub fn forward<T: Held>(
        &self,
        left: Left<'_>,
        rows: usize,
        out: &mut [T],
        after: After,
        threads: usize,
    ) {
        let size = panels(self.inputs) * rows;
        let (got, expected) = match left {
            Left::Rows(left) => (left.len(), size),
            Left::Halves(left) => (left.len(), size + HalfRow::BEHIND),
        };
        assert_eq!(got, expected, "the left side has other columns");
        assert_eq!(out.len(), panels(self.outputs) * rows, "the result has other columns");
        assert!(after != After::Add || in_place::<T>(), "what was rounded is not added to");
        if rows == 0 {
            return;
        }
        match &self.weights {
            Kept::F32(weights) => {
                let left = as_they_are(left);
                self.share_out(Exact { left, weights }, rows, out, after, threads)
            }
            Kept::Bf16(weights, halves) => match halves.for_rows(rows) {
                Halves::Tiles(amx) => halved(left, |left| {
                    self.share_out(Tiles { left, weights, amx }, rows, out, after, threads);
                }),
                Halves::Dot(dot) => halved(left, |left| {
                    self.share_out(Pairs { left, weights, dot }, rows, out, after, threads);
                }),
                Halves::Widened => widened(
                    size,
                    |to| round_swapped(as_they_are(left), to),
                    |left| self.share_out(Widened { left, weights }, rows, out, after, threads),
                ),
            },
            Kept::Int8(KeptOctets { rows: weights, steps, dot }) => {
                let left = as_they_are(left);
                let (mut codes, mut scales) = ENCODED.take();
                let left_codes = room(&mut codes, size, OctetRow::ZERO);
                let groups = panels(self.inputs).div_ceil(DEPTH);
                let left_scales = room(&mut scales, groups * rows, Scale::ZERO);
                encode(left, rows, left_codes, left_scales, threads);
                let octets = Octets { left: left_codes, scales: left_scales, weights, by: steps };
                match dot {
                    Some(dot) => {
                        self.share_out(Quads { octets, dot: *dot }, rows, out, after, threads);
                    }
                    None => widened(
                        left.len(),
                        |to| {
                            vectorised(
                                #[inline(always)]
                                || widen_octets(octets.left, to),
                            );
                        },
                        |left| {
                            let by = WidenedOctets { octets, left };
                            self.share_out(by, rows, out, after, threads);
                        },
                    ),
                }
                ENCODED.set((codes, scales));
            }
        }
    }

    fn share_out<P: Product, T: Held>(
        &self,
        product: P,
        rows: usize,
        out: &mut [T],
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

fn as_they_are(left: Left<'_>) -> &[Row] {
    match left {
        Left::Rows(left) => left,
        Left::Halves(_) => panic!("a product of other weights takes no rounded side"),
    }
}

/// Gives `multiply` a left side rounded, and as much behind it as fills up the last tiles.
fn halved(left: Left<'_>, multiply: impl FnOnce(&[HalfRow])) {
    let left = match left {
        Left::Rows(left) => left,
        Left::Halves(left) => return multiply(left),
    };
    let mut halved = HALVED.take();
    let place = room(&mut halved, left.len() + HalfRow::BEHIND, HalfRow::ZERO);
    halve(left, place);
    multiply(place);
    HALVED.set(halved);
}

/// Gives `multiply` a left side of `len` rows that `widen` writes.
fn widened(len: usize, widen: impl FnOnce(&mut [Row]), multiply: impl FnOnce(&[Row])) {
    let mut widened = WIDENED.take();
    let place = room(&mut widened, len, Row::ZERO);
    widen(place);
    multiply(place);
    WIDENED.set(widened);
}

/// Some panels of a product.
struct Task<'a, P, T> {
    product: P,
    /// Panels of the inputs.
    deep: usize,
    bias: &'a [Row],
    /// The first of the panels.
    first: usize,
    rows: usize,
    /// `[panel][row][WIDTH]`
    out: &'a mut [T],
    after: After,
}

impl<P: Product, T: Held> WithSimd for Task<'_, P, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, deep, bias, first, rows, out, after } = self;
        let block = (P::BLOCK_BYTES / (deep * P::BYTES)).clamp(4 * P::HEIGHT, 40 * P::HEIGHT);
        let block = block / P::HEIGHT * P::HEIGHT;
        let groups = deep.div_ceil(P::DEPTH);
        let mut ready = product.ready();
        let mut kept = SUMS.take();
        let apart = room(&mut kept, if in_place::<T>() { 0 } else { block.min(rows) }, Row::ZERO);
        for start in (0..rows).step_by(block) {
            let here = block.min(rows - start);
            for (panel, out) in out.chunks_exact_mut(rows).enumerate() {
                let panel = first + panel;
                let out = &mut out[start..start + here];
                let sums = match T::rows(out) {
                    Some(sums) => sums,
                    None => &mut apart[..here],
                };
                begin(simd, sums, &bias[panel], after);
                for deepest in (0..deep).step_by(P::DEPTH) {
                    let inputs = P::DEPTH.min(deep - deepest) * WIDTH;
                    let first = (panel * deep + deepest) * WIDTH;
                    let group = deepest / P::DEPTH;
                    let part = Part {
                        first,
                        inputs,
                        left: deepest * rows + start,
                        rows,
                        group: panel * groups + group,
                        left_group: group * rows + start,
                    };
                    product.add(simd, &mut ready, part, sums);
                }
                finish(simd, sums, after);
                if !in_place::<T>() {
                    T::put(&apart[..here], out);
                }
            }
        }
        SUMS.set(kept);
    }
}

/// Whether sums are made where they are kept.
#[inline(always)]
fn in_place<T: Held>() -> bool {
    T::rows(&mut []).is_some()
}

/// Written by instruction: the compiler made it for sixteen rows at a time, value by value.
#[inline(always)]
fn begin<S: Simd>(simd: S, out: &mut [Row], bias: &Row, after: After) {
    let bias = S::as_simd_f32s(&bias.0).0;
    for row in out {
        for (value, bias) in S::as_mut_simd_f32s(&mut row.0).0.iter_mut().zip(bias) {
            *value = if after == After::Add { simd.add_f32s(*value, *bias) } else { *bias };
        }
    }
}

#[inline(always)]
fn finish<S: Simd>(simd: S, out: &mut [Row], after: After) {
    match after {
        After::Nothing | After::Add => {}
        After::QuickGelu => {
            for row in out {
                for value in S::as_mut_simd_f32s(&mut row.0).0 {
                    *value = quick_gelus(simd, *value);
                }
            }
        }
        After::Gelu => {
            for row in out {
                for value in S::as_mut_simd_f32s(&mut row.0).0 {
                    *value = gelus(simd, *value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
