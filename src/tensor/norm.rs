use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, D, DType, Error, Layout, Result, Shape, Tensor,
};
use rayon::prelude::*;

use super::backward::hand_over;
use super::buffer::{ROWS_PER_TASK, f32s, fusible, with_f32s};
use super::card;
use super::room::zeros;
use super::simd::{sum, vectorised};
use super::update::update;

/// Layer normalisation over the last axis. xs: `[.., dim]`; weight, bias: `[dim]`. The result is of the type of
/// xs, whatever the others are.
/// candle_nn's fused norm has no backward (candle#3011).
///
/// # Errors
/// When weight or bias are not of the last axis' size.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if fusible(xs, &[weight, bias]) {
        let op = LayerNorm { eps: eps as f32 };
        return xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    // Half precision cannot hold the squares.
    let half = matches!(xs.dtype(), DType::F16 | DType::BF16);
    let wide = if half { DType::F32 } else { xs.dtype() };
    let x = xs.to_dtype(wide)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(xs.dtype())?;
    let (weight, bias) = (weight.to_dtype(xs.dtype())?, bias.to_dtype(xs.dtype())?);
    normed.broadcast_mul(&weight)?.broadcast_add(&bias)
}

/// Divides each row of `[.., dim]` by its length, so that it is of unit length. A zero row stays
/// zero and its gradient finite.
///
/// # Errors
/// candle's, for a type it cannot compute with.
pub fn normalise(features: &Tensor) -> Result<Tensor> {
    let length = (features.sqr()?.sum_keepdim(D::Minus1)? + 1e-24)?.sqrt()?;
    features.broadcast_div(&length)
}

pub(super) struct LayerNorm {
    pub(super) eps: f32,
}

impl LayerNorm {
    /// Mean and reciprocal standard deviation of a row.
    #[inline(always)]
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = sum(row.len(), |i| row[i]) / n;
        let variance = sum(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    fn forward(&self, xs: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let dim = weight.len();
        let mut ys = zeros(xs.len());
        let task = ROWS_PER_TASK * dim;
        ys.par_chunks_mut(task).zip(xs.par_chunks(task)).for_each(|(ys, xs)| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, x) in ys.chunks_exact_mut(dim).zip(xs.chunks_exact(dim)) {
                        let (mean, scale) = self.moments(x);
                        let affine = weight.iter().zip(bias);
                        for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(affine) {
                            *y = (x - mean) * scale * w + b;
                        }
                    }
                },
            );
        });
        ys
    }

    /// Makes gradients of what comes out gradients of `xs`, and gives those of weight and bias.
    fn backward(&self, xs: &[f32], weight: &[f32], grads: &mut [f32]) -> [Vec<f32>; 2] {
        let dim = weight.len();
        let task = ROWS_PER_TASK * dim;
        let partial: Vec<(Vec<f32>, Vec<f32>)> = grads
            .par_chunks_mut(task)
            .zip(xs.par_chunks(task))
            .map(|(grads, xs)| {
                let (mut dw, mut db) = (vec![0.0; dim], vec![0.0; dim]);
                vectorised(
                    #[inline(always)]
                    || {
                        for (g, x) in grads.chunks_exact_mut(dim).zip(xs.chunks_exact(dim)) {
                            self.row_backward(x, weight, g, (&mut dw, &mut db));
                        }
                    },
                );
                (dw, db)
            })
            .collect();
        // Added in order, so that a run repeats to the bit.
        let (mut dw, mut db) = (vec![0.0; dim], vec![0.0; dim]);
        for (w, b) in &partial {
            dw.iter_mut().zip(w).for_each(|(sum, v)| *sum += v);
            db.iter_mut().zip(b).for_each(|(sum, v)| *sum += v);
        }
        [dw, db]
    }

    /// The same of tensors on a CPU. `grads` changes where it lies.
    pub(super) fn gradients(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        grads: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let mut found = [Vec::new(), Vec::new()];
        with_f32s(weight, |weight| {
            update(grads, xs, |grads, xs| found = self.backward(xs, weight, grads))
        })?;
        let [dw, db] = found.map(|values| Tensor::from_vec(values, weight.shape(), xs.device()));
        Ok([dw?, db?])
    }

    #[inline(always)]
    fn row_backward(
        &self,
        x: &[f32],
        weight: &[f32],
        g: &mut [f32],
        (dw, db): (&mut [f32], &mut [f32]),
    ) {
        let n = x.len();
        let (weight, g) = (&weight[..n], &mut g[..n]);
        let (mean, scale) = self.moments(x);
        let along_bias = sum(n, |i| g[i] * weight[i]) / n as f32;
        let along_row = sum(n, |i| g[i] * weight[i] * (x[i] - mean) * scale) / n as f32;
        let (dw, db) = (&mut dw[..n], &mut db[..n]);
        for i in 0..n {
            let normed = (x[i] - mean) * scale;
            dw[i] += g[i] * normed;
            db[i] += g[i];
            g[i] = scale * (g[i] * weight[i] - along_bias - normed * along_row);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = f32s(xs, xs_layout)?;
        let (weight, bias) = (f32s(weight, weight_layout)?, f32s(bias, bias_layout)?);
        let dim = xs_layout.dims().last().copied().unwrap_or(0);
        if dim == 0 || weight.len() != dim || bias.len() != dim {
            let (w, b) = (weight.len(), bias.len());
            return Err(Error::Msg(format!(
                "layer_norm over {dim} values has a weight of {w} and a bias of {b}"
            ))
            .bt());
        }
        Ok((CpuStorage::F32(self.forward(xs, weight, bias)), xs_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        card::layer_norm((xs, xs_layout), (weight, weight_layout), (bias, bias_layout), self.eps)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grads: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if xs.device().is_cuda() {
            let grads = grads.contiguous()?;
            let [dxs, dw, db] = card::layer_norm_backward(xs, weight, &grads, self.eps)?;
            return Ok((Some(dxs), hand_over(weight, dw)?, hand_over(bias, db)?));
        }
        let dxs = grads.force_contiguous()?;
        let [dw, db] = self.gradients(xs, weight, &dxs)?;
        Ok((Some(dxs), Some(dw), Some(db)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradients::check;
    use super::*;
    use candle_core::Device;

    #[test]
    fn layer_norm_agrees_with_basic_operations_and_finite_differences() {
        // More rows than a task takes, and a width that no vector divides.
        check(&[&[3, 25, 19], &[19], &[19]], |xs| layer_norm(&xs[0], &xs[1], &xs[2], 1e-5));
    }

    #[test]
    fn layer_norm_refuses_a_weight_of_another_width() {
        let cpu = Device::Cpu;
        let xs = Tensor::zeros((2, 8), DType::F32, &cpu).unwrap();
        let weight = Tensor::zeros(7, DType::F32, &cpu).unwrap();
        let bias = Tensor::zeros(8, DType::F32, &cpu).unwrap();
        assert!(layer_norm(&xs, &weight, &bias, 1e-5).is_err());
    }

    #[test]
    fn normalise_agrees_with_finite_differences_and_survives_a_zero_row() {
        check(&[&[4, 9]], |xs| normalise(&xs[0]));
        let zero = candle_core::Var::zeros((1, 4), DType::F32, &Device::Cpu).unwrap();
        let unit = normalise(zero.as_tensor()).unwrap();
        assert_eq!(unit.to_vec2::<f32>().unwrap(), [[0.0; 4]]);
        let grads = unit.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&zero).unwrap().to_vec2::<f32>().unwrap();
        assert!(grad[0].iter().all(|v| v.is_finite()));
    }
}
