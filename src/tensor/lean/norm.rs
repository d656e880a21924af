use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::held::Held;
use super::{Row, WIDTH, WORTH_SHARING, lay_out, panels};
use crate::tensor::simd::dispatch;

/// Layer normalisation over the columns.
#[derive(Debug)]
pub struct LeanNorm {
    columns: usize,
    weight: Vec<Row>,
    bias: Vec<Row>,
    eps: f32,
}

impl LeanNorm {
    /// weight, bias: `[columns]`.
    #[must_use]
    pub fn new(weight: &[f32], bias: &[f32], eps: f64) -> Self {
        Self {
            columns: weight.len(),
            weight: lay_out(weight),
            bias: lay_out(bias),
            eps: eps as f32,
        }
    }

    /// The weight, `[columns]`, and the bias.
    #[must_use]
    pub fn values(&self) -> [Vec<f32>; 2] {
        [&self.weight, &self.bias]
            .map(|rows| rows.iter().flat_map(|row| row.0).take(self.columns).collect())
    }

    /// From `xs` to `out`, both `[rows, columns]` in panels, on at most `threads` threads of the pool that it is called in. Panics where sizes
    /// do not fit.
    pub fn forward<T: Held>(&self, xs: &[Row], rows: usize, out: &mut [T], threads: usize) {
        assert_eq!(xs.len(), panels(self.columns) * rows, "a norm of other columns");
        assert_eq!(out.len(), xs.len(), "a norm gives as much as it takes");
        if rows == 0 {
            return;
        }
        let each = rows.div_ceil(threads.max(1)).next_multiple_of(BLOCK).max(WORTH_SHARING);
        let mut parts: Vec<Forward<'_, T>> = (0..rows)
            .step_by(each)
            .map(|first| {
                let out = Vec::with_capacity(panels(self.columns));
                Forward { norm: self, xs, rows, first, out }
            })
            .collect();
        for panel in out.chunks_exact_mut(rows) {
            parts.iter_mut().zip(panel.chunks_mut(each)).for_each(|(part, out)| part.out.push(out));
        }
        match parts.len() {
            1 => parts.into_iter().for_each(dispatch),
            _ => parts.into_par_iter().for_each(dispatch),
        }
    }
}

/// Rows that are normalised at a time: of a row alone, lines of the cache lie far from each other.
const BLOCK: usize = 8;

/// Some rows of what [`LeanNorm::forward`] does. Left to the compiler, adding up lanes took as long as all else.
struct Forward<'a, T> {
    norm: &'a LeanNorm,
    xs: &'a [Row],
    rows: usize,
    /// The first of them.
    first: usize,
    /// Their place in each panel.
    out: Vec<&'a mut [T]>,
}

impl<T: Held> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { norm, xs, rows, first, mut out } = self;
        let here = out.first().map_or(0, |panel| panel.len());
        let mut row = 0;
        while row + BLOCK <= here {
            norm.block::<S, T, BLOCK>(simd, xs, rows, first + row, &mut out, row);
            row += BLOCK;
        }
        for row in row..here {
            norm.block::<S, T, 1>(simd, xs, rows, first + row, &mut out, row);
        }
    }
}

impl LeanNorm {
    /// So many rows from `first` on, to place `to` of each panel.
    #[inline(always)]
    fn block<S: Simd, T: Held, const ROWS: usize>(
        &self,
        simd: S,
        xs: &[Row],
        rows: usize,
        first: usize,
        out: &mut [&mut [T]],
        to: usize,
    ) {
        let n = self.columns as f32;
        let panels_of =
            || xs.chunks_exact(rows).filter_map(|panel| panel[first..].first_chunk::<ROWS>());
        let mut sums = [simd.splat_f32s(0.0); ROWS];
        for panel in panels_of() {
            for row in 0..ROWS {
                for x in S::as_simd_f32s(&panel[row].0).0 {
                    sums[row] = simd.add_f32s(sums[row], *x);
                }
            }
        }
        let (mut mean, mut means) = ([0.0; ROWS], [simd.splat_f32s(0.0); ROWS]);
        for row in 0..ROWS {
            mean[row] = simd.reduce_sum_f32s(sums[row]) / n;
            means[row] = simd.splat_f32s(mean[row]);
            sums[row] = simd.splat_f32s(0.0);
        }
        for panel in panels_of() {
            for row in 0..ROWS {
                for x in S::as_simd_f32s(&panel[row].0).0 {
                    let off = simd.sub_f32s(*x, means[row]);
                    sums[row] = simd.mul_add_e_f32s(off, off, sums[row]);
                }
            }
        }
        // The filling is zero, and no column.
        let filling = (panels(self.columns) * WIDTH - self.columns) as f32;
        let mut scales = [simd.splat_f32s(0.0); ROWS];
        for row in 0..ROWS {
            let spread = simd.reduce_sum_f32s(sums[row]) - filling * mean[row] * mean[row];
            // Never below zero, but for what was rounded.
            let variance = (spread / n).max(0.0);
            scales[row] = simd.splat_f32s(1.0 / (variance + self.eps).sqrt());
        }
        let affine = self.weight.iter().zip(&self.bias);
        let mut normed = [Row::ZERO; ROWS];
        for ((panel, out), (weight, bias)) in panels_of().zip(out).zip(affine) {
            for row in 0..ROWS {
                let affine = S::as_simd_f32s(&weight.0).0.iter().zip(S::as_simd_f32s(&bias.0).0);
                let places = S::as_simd_f32s(&panel[row].0)
                    .0
                    .iter()
                    .zip(S::as_mut_simd_f32s(&mut normed[row].0).0);
                for ((x, normed), (weight, bias)) in places.zip(affine) {
                    let normal = simd.mul_f32s(simd.sub_f32s(*x, means[row]), scales[row]);
                    *normed = simd.mul_add_e_f32s(normal, *weight, *bias);
                }
            }
            T::put(&normed, &mut out[to..to + ROWS]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::lean::pairs::{HalfRow, halve};
    use crate::tensor::lean::row_of;

    #[test]
    fn a_norm_equals_the_definition_and_leaves_the_filling_zero() {
        for columns in [1, 31, 32, 70, 768] {
            let value = |at: usize| (at as f32 * 0.7).sin() + 3.0;
            let weight: Vec<f32> = (0..columns).map(|c| value(c + 1)).collect();
            let bias: Vec<f32> = (0..columns).map(|c| value(c + 2)).collect();
            let norm = LeanNorm::new(&weight, &bias, 1e-5);
            assert_eq!(norm.values(), [weight.clone(), bias.clone()]);
            // Some together, and some alone; some of each thread's.
            let rows = WORTH_SHARING + BLOCK + 3;
            let mut xs = vec![Row::ZERO; panels(columns) * rows];
            for row in 0..rows {
                for c in 0..columns {
                    xs[c / WIDTH * rows + row].0[c % WIDTH] = value(row * columns + c);
                }
            }
            let mut out = vec![Row([f32::NAN; WIDTH]); xs.len()];
            norm.forward(&xs, rows, &mut out, 1);
            for threads in [2, 7] {
                let mut shared = vec![Row([f32::NAN; WIDTH]); xs.len()];
                norm.forward(&xs, rows, &mut shared, threads);
                assert_eq!(shared, out);
                let [mut rounded, mut halves] = [(); 2].map(|()| vec![HalfRow::ZERO; xs.len()]);
                norm.forward(&xs, rows, &mut rounded, threads);
                halve(&out, &mut halves);
                assert_eq!(rounded, halves);
            }
            for row in 0..rows {
                let x: Vec<f64> =
                    (0..columns).map(|c| f64::from(value(row * columns + c))).collect();
                let mean = x.iter().sum::<f64>() / columns as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                let got = row_of(&out, rows, row, panels(columns) * WIDTH);
                for c in 0..columns {
                    let normed = (x[c] - mean) / (variance + 1e-5).sqrt();
                    let want = normed * f64::from(weight[c]) + f64::from(bias[c]);
                    assert!(
                        (f64::from(got[c]) - want).abs() < 2e-5,
                        "{columns}: {} {want}",
                        got[c]
                    );
                }
                assert!(got[columns..].iter().all(|filling| *filling == 0.0));
            }
        }
    }
}
