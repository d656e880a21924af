//! Products of matrices that are rounded to bfloat16 on their way: what training multiplies by, where the processor has tiles for it, or multiplies
//! pairs fast.

use std::cell::Cell;

use rayon::prelude::*;

use super::amx::{self, Amx, Shaped};
use super::dot::Dot;
use super::linear::Halves;
use super::pairs::{HalfRow, HalfRows, pair};
use super::rounding::Rounds;
use super::{Row, WIDTH, panels};
use crate::tensor::room::{room, zeros};
use crate::tensor::simd::vectorised;

/// Rows of a result that a thread makes at a time: with as many inputs as a tower has, their left side stays in the second-level cache.
const ROWS: usize = 256;
/// Panels of a result that are written at a time: in pieces of a panel, each row's would be in a page of its own.
const PANELS: usize = 4;
/// Columns that are turned at a time.
const BLOCK: usize = 16;

thread_local! {
    // Kept for the next product of the thread.
    static LEFT: Cell<Vec<HalfRow>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<HalfRows>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
}

/// Says that such products are fast here.
#[derive(Debug, Clone, Copy)]
pub struct Rounded(Instructions);

impl Rounded {
    /// Ready for this thread.
    pub(super) fn ready(self) -> Ready {
        match self.0 {
            Instructions::Tiles(amx) => Ready::Tiles(Box::new(amx.shape())),
            Instructions::Pairs(dot) => Ready::Pairs(dot),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Instructions {
    Tiles(Amx),
    Pairs(Dot),
}

/// Multiplies.
pub(super) enum Ready {
    Tiles(Box<Shaped>),
    Pairs(Dot),
}

impl Ready {
    /// `out += left right`, for one panel of outputs. left: `[panel][row]` with `rows` rows a panel, and behind the last [`amx::BLOCK`]
    /// but one more of whatever; right: `[inputs / 2]`; out: `[row]`.
    pub(super) fn product(
        &mut self,
        left: &[HalfRow],
        rows: usize,
        right: &[HalfRows],
        out: &mut [Row],
    ) {
        for (part, right) in right.chunks(amx::DEPTH * WIDTH / 2).enumerate() {
            self.strips(&left[part * amx::DEPTH * rows..], rows, right, out);
        }
    }

    /// `out += left right`, laid out as [`Shaped::strips`] takes them.
    fn strips(&mut self, left: &[HalfRow], rows: usize, right: &[HalfRows], out: &mut [Row]) {
        match self {
            Self::Tiles(shaped) => shaped.strips(left, rows, right, out),
            Self::Pairs(dot) => dot.strips(left, rows, right, out, &mut || {}),
        }
    }
}

/// A matrix as it lies in memory, row after row, or turned: column after column.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// Row after row.
    AsIs(&'a [f32]),
    /// Column after column.
    Turned(&'a [f32]),
}

impl Matrix<'_> {
    fn len(self) -> usize {
        match self {
            Self::AsIs(values) | Self::Turned(values) => values.len(),
        }
    }
}

impl Rounded {
    /// `None` where they are not: there f32 as it is takes no longer.
    #[must_use]
    pub fn detect() -> Option<Self> {
        match Halves::detect().for_rows(usize::MAX) {
            Halves::Tiles(amx) => Some(Self(Instructions::Tiles(amx))),
            Halves::Dot(dot) => Some(Self(Instructions::Pairs(dot))),
            // Where widening both sides is faster for many rows, f32 as it is is faster still.
            Halves::Widened => None,
        }
    }

    /// `left right + bias`, `[rows, columns]`, of values rounded to bfloat16 and summed up in f32. left: `[rows, inputs]`; right:
    /// `[inputs, columns]`; bias: `[columns]`. Panics where sizes do not fit, and without inputs.
    #[must_use]
    pub fn product(
        self,
        [rows, inputs, columns]: [usize; 3],
        left: Matrix<'_>,
        right: Matrix<'_>,
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        assert_ne!(inputs, 0, "a product of nothing");
        assert_eq!(left.len(), rows * inputs, "the left side has another size");
        assert_eq!(right.len(), inputs * columns, "the right side has another size");
        assert!(bias.is_none_or(|bias| bias.len() == columns), "the bias has another size");
        let mut out = zeros(rows * columns);
        if out.is_empty() {
            return out;
        }
        let deep = panels(inputs);
        let mut right_side = RIGHT.take();
        let packed = room(&mut right_side, panels(columns) * deep * WIDTH / 2, HalfRows::ZERO);
        // Several panels side by side, so that whole stretches of a row are read.
        let side_by_side = PANELS.min(panels(columns).div_ceil(rayon::current_num_threads()));
        packed.par_chunks_mut(side_by_side * deep * WIDTH / 2).enumerate().for_each(|(at, to)| {
            vectorised(
                #[inline(always)]
                || pack_right(right, [inputs, columns], at * side_by_side * WIDTH, to),
            );
        });
        let rounds = rows.div_ceil(rayon::current_num_threads() * ROWS);
        let each =
            rows.div_ceil(rayon::current_num_threads() * rounds).next_multiple_of(amx::BLOCK);
        out.par_chunks_mut(each * columns).enumerate().for_each(|(at, out)| {
            let here = out.len() / columns;
            let (mut left_side, mut kept_sums) = (LEFT.take(), SUMS.take());
            let halved = room(&mut left_side, deep * here + amx::BLOCK - 1, HalfRow::ZERO);
            let sums = room(&mut kept_sums, PANELS * here, Row::ZERO);
            vectorised(
                #[inline(always)]
                || pack_left(left, [rows, inputs], at * each, &mut halved[..deep * here]),
            );
            let mut ready = self.ready();
            for (at, right) in packed.chunks(PANELS * deep * WIDTH / 2).enumerate() {
                let first = at * PANELS * WIDTH;
                for (panel, right) in right.chunks_exact(deep * WIDTH / 2).enumerate() {
                    let start = bias.map_or(Row::ZERO, |bias| row_at(bias, first + panel * WIDTH));
                    let sums = &mut sums[panel * here..][..here];
                    sums.fill(start);
                    ready.product(halved, here, right, sums);
                }
                vectorised(
                    #[inline(always)]
                    || write(sums, here, first, out),
                );
            }
            LEFT.set(left_side);
            SUMS.set(kept_sums);
        });
        RIGHT.set(right_side);
        out
    }
}

/// Up to 32 values from column `first` on.
fn row_at(values: &[f32], first: usize) -> Row {
    let mut row = Row::ZERO;
    row.0.iter_mut().zip(&values[first..]).for_each(|(to, from)| *to = *from);
    row
}

/// Up to [`PANELS`] panels of a result, `[panel][row]`, into `[rows, columns]` from column `first` on.
#[inline(always)]
fn write(sums: &[Row], rows: usize, first: usize, out: &mut [f32]) {
    let columns = out.len() / rows;
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        for (out, sums) in out[first..].chunks_mut(WIDTH).zip(sums[row..].iter().step_by(rows)) {
            match out.as_mut_array::<WIDTH>() {
                Some(out) => *out = sums.0,
                None => out.copy_from_slice(&sums.0[..out.len()]),
            }
        }
    }
}

/// Rows of `[rows, inputs]` from `first` on, as many as there is room for, into `[panel][row]`.
#[inline(always)]
fn pack_left(left: Matrix<'_>, [rows, inputs]: [usize; 2], first: usize, to: &mut [HalfRow]) {
    let here = to.len() / panels(inputs);
    match left {
        Matrix::AsIs(values) => {
            for (row, values) in
                values[first * inputs..].chunks_exact(inputs).take(here).enumerate()
            {
                for (panel, values) in values.chunks(WIDTH).enumerate() {
                    to[panel * here + row].0 = pairs_of(values);
                }
            }
        }
        Matrix::Turned(values) => {
            for (panel, to) in to.chunks_exact_mut(here).enumerate() {
                let inputs = panel * WIDTH..inputs.min((panel + 1) * WIDTH);
                for (block, to) in to.chunks_mut(BLOCK).enumerate() {
                    let from = first + block * BLOCK;
                    let pairs = across(values, rows, inputs.clone(), from, to.len());
                    for (lane, to) in to.iter_mut().enumerate() {
                        for (to, pairs) in to.0.iter_mut().zip(&pairs) {
                            *to = pairs[lane];
                        }
                    }
                }
            }
        }
    }
}

/// Columns of `[inputs, columns]` from `first` on, as many as there is room for, into `[panel][input / 2]`.
#[inline(always)]
fn pack_right(right: Matrix<'_>, [inputs, columns]: [usize; 2], first: usize, to: &mut [HalfRows]) {
    let (deep, rounds) = (panels(inputs) * WIDTH / 2, Rounds::detect());
    match right {
        Matrix::AsIs(values) => {
            for from in (0..inputs).step_by(WIDTH) {
                let these = from..inputs.min(from + WIDTH);
                for (panel, to) in to.chunks_exact_mut(deep).enumerate() {
                    let first = first + panel * WIDTH;
                    let wide = WIDTH.min(columns - first);
                    let to = &mut to[from / 2..][..WIDTH / 2];
                    if let Some(rounds) = rounds
                        && let Some(to) = to.as_mut_array()
                        && (wide, these.len()) == (WIDTH, WIDTH)
                    {
                        rounds.pair_up_apart(&values[from * columns + first..], columns, to);
                        continue;
                    }
                    for lane in (0..wide).step_by(BLOCK) {
                        let here = BLOCK.min(wide - lane);
                        let pairs = across(values, columns, these.clone(), first + lane, here);
                        // What fills up the last is nothing.
                        for (to, pairs) in to.iter_mut().zip(&pairs) {
                            to.0.as_chunks_mut::<BLOCK>().0[lane / BLOCK] = *pairs;
                        }
                    }
                }
            }
        }
        Matrix::Turned(values) => {
            for (panel, to) in to.chunks_exact_mut(deep).enumerate() {
                let first = first + panel * WIDTH;
                let wide = WIDTH.min(columns - first);
                let rows = &values[first * inputs..][..wide * inputs];
                // A panel at a time: what it is written to stays at hand.
                for (panel, to) in to.as_chunks_mut::<{ WIDTH / 2 }>().0.iter_mut().enumerate() {
                    let these = panel * WIDTH..inputs.min((panel + 1) * WIDTH);
                    for (lane, values) in rows.chunks_exact(inputs).enumerate() {
                        for (to, pair) in to.iter_mut().zip(pairs_of(&values[these.clone()])) {
                            to.0[lane] = pair;
                        }
                    }
                }
            }
        }
    }
}

/// Up to 32 neighbours in pairs, filled up with zeros.
#[inline(always)]
fn pairs_of(values: &[f32]) -> [u32; WIDTH / 2] {
    let all = |values: &[f32; WIDTH]| {
        let mut pairs = [0; WIDTH / 2];
        for (to, from) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
            *to = pair(from[0], from[1]);
        }
        pairs
    };
    if let Ok(values) = values.try_into() {
        return all(values);
    }
    let mut filled = [0.0; WIDTH];
    filled[..values.len()].copy_from_slice(values);
    all(&filled)
}

/// Up to 32 rows of a matrix in pairs, `[pair][column]`, of so many columns from `first` on; filled up with zeros.
#[inline(always)]
fn across(
    values: &[f32],
    stride: usize,
    rows: std::ops::Range<usize>,
    first: usize,
    columns: usize,
) -> [[u32; BLOCK]; WIDTH / 2] {
    let mut both = [[0.0; BLOCK]; WIDTH];
    for (to, row) in both.iter_mut().zip(rows) {
        let from = &values[row * stride + first..];
        match from.first_chunk::<BLOCK>() {
            Some(from) if columns == BLOCK => *to = *from,
            Some(_) | None => {
                to.iter_mut().zip(&from[..columns]).for_each(|(to, from)| *to = *from)
            }
        }
    }
    let mut pairs = [[0; BLOCK]; WIDTH / 2];
    for (to, [first, second]) in pairs.iter_mut().zip(both.as_chunks::<2>().0) {
        for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
            *to = pair(*first, *second);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(values: &[f32], columns: usize) -> Vec<f32> {
        let rows = values.len() / columns;
        (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
    }

    /// Small whole numbers, exact in bfloat16 and in any order.
    fn whole(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + salt) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn products_are_exact_whatever_the_sizes_and_however_the_sides_lie() {
        let Some(rounded) = Rounded::detect() else {
            println!("skipped: this processor multiplies neither tiles nor pairs fast");
            return;
        };
        for sizes in
            [[1, 1, 1], [3, 33, 5], [40, 64, 130], [50, 300, 95], [600, 40, 40], [1100, 513, 64]]
        {
            let [rows, inputs, columns] = sizes;
            let (left, right) = (whole(rows * inputs, 1), whole(inputs * columns, 4));
            let bias = whole(columns, 2);
            let want: Vec<f32> = (0..rows * columns)
                .map(|at| {
                    let (row, column) = (at / columns, at % columns);
                    let product = |i| left[row * inputs + i] * right[i * columns + column];
                    bias[column] + (0..inputs).map(product).sum::<f32>()
                })
                .collect();
            let (across, down) = (turned(&left, inputs), turned(&right, columns));
            for left in [Matrix::AsIs(&left), Matrix::Turned(&across)] {
                for right in [Matrix::AsIs(&right), Matrix::Turned(&down)] {
                    let got = rounded.product(sizes, left, right, Some(&bias));
                    assert_eq!(got, want, "{sizes:?}");
                }
            }
            let plain = rounded.product(sizes, Matrix::AsIs(&left), Matrix::AsIs(&right), None);
            assert!(
                plain
                    .iter()
                    .zip(&want)
                    .enumerate()
                    .all(|(at, (plain, want))| { plain + bias[at % columns] == *want })
            );
        }
    }

    #[test]
    fn values_are_rounded_to_the_nearest_and_none_is_none() {
        let Some(rounded) = Rounded::detect() else {
            println!("skipped: this processor multiplies neither tiles nor pairs fast");
            return;
        };
        let one = |left: f32, right: f32| {
            rounded.product([1, 1, 1], Matrix::AsIs(&[left]), Matrix::AsIs(&[right]), None)[0]
        };
        // 257 lies between 256 and 258, and goes to the even one.
        assert_eq!([one(257.0, 1.0), one(1.0, 259.0)], [256.0, 260.0]);
        assert!(one(f32::NAN, 1.0).is_nan());
        assert_eq!(one(f32::INFINITY, 2.0), f32::INFINITY);
    }
}
