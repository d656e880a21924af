use super::{Row, WIDTH, lay_out, panels};
use crate::tensor::simd::vectorised;

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

    /// From `xs` to `out`, both `[rows, columns]` in panels. Panics where sizes do not fit.
    pub fn forward(&self, xs: &[Row], rows: usize, out: &mut [Row]) {
        assert_eq!(xs.len(), panels(self.columns) * rows, "a norm of other columns");
        assert_eq!(out.len(), xs.len(), "a norm gives as much as it takes");
        vectorised(
            #[inline(always)]
            || (0..rows).for_each(|row| self.row(xs, rows, row, out)),
        );
    }

    #[inline(always)]
    fn row(&self, xs: &[Row], rows: usize, row: usize, out: &mut [Row]) {
        let n = self.columns as f32;
        // One running sum a lane.
        let mut lanes = [0.0_f32; WIDTH];
        for x in xs[row..].iter().step_by(rows) {
            lanes.iter_mut().zip(&x.0).for_each(|(lane, x)| *lane += x);
        }
        let mean = lanes.iter().sum::<f32>() / n;
        let mut lanes = [0.0_f32; WIDTH];
        for x in xs[row..].iter().step_by(rows) {
            lanes.iter_mut().zip(&x.0).for_each(|(lane, x)| *lane += (x - mean) * (x - mean));
        }
        // The filling is zero, and no column.
        let filling = (panels(self.columns) * WIDTH - self.columns) as f32;
        let variance = (lanes.iter().sum::<f32>() - filling * mean * mean) / n;
        let scale = 1.0 / (variance + self.eps).sqrt();
        let affine = self.weight.iter().zip(&self.bias);
        let places = xs[row..].iter().step_by(rows).zip(out[row..].iter_mut().step_by(rows));
        for ((x, out), (weight, bias)) in places.zip(affine) {
            for lane in 0..WIDTH {
                out.0[lane] = (x.0[lane] - mean) * scale * weight.0[lane] + bias.0[lane];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::lean::row_of;

    #[test]
    fn a_norm_equals_the_definition_and_leaves_the_filling_zero() {
        for columns in [1, 31, 32, 70, 768] {
            let value = |at: usize| (at as f32 * 0.7).sin() + 3.0;
            let weight: Vec<f32> = (0..columns).map(|c| value(c + 1)).collect();
            let bias: Vec<f32> = (0..columns).map(|c| value(c + 2)).collect();
            let norm = LeanNorm::new(&weight, &bias, 1e-5);
            assert_eq!(norm.values(), [weight.clone(), bias.clone()]);
            let rows = 3;
            let mut xs = vec![Row::ZERO; panels(columns) * rows];
            for row in 0..rows {
                for c in 0..columns {
                    xs[c / WIDTH * rows + row].0[c % WIDTH] = value(row * columns + c);
                }
            }
            let mut out = vec![Row([f32::NAN; WIDTH]); xs.len()];
            norm.forward(&xs, rows, &mut out);
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
