use candle_core::{CpuStorage, CudaStorage, CustomOp1, D, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffer::{ROWS_PER_TASK, f32s, fusible, with_f32s};
use super::card;
use super::simd::{exp, max, sum, vectorised};

/// Softmax over the last axis of `[.., n]`. candle_nn's fused one has no backward (candle#2168).
///
/// # Errors
/// When the last axis is empty.
pub fn softmax(xs: &Tensor) -> Result<Tensor> {
    if fusible(xs, &[]) {
        return xs.contiguous()?.apply_op1(Softmax);
    }
    candle_nn::ops::softmax(xs, D::Minus1)
}

/// Replaces a row by its softmax.
#[inline(always)]
pub(super) fn row_softmax(row: &mut [f32]) {
    let top = max(row);
    row.iter_mut().for_each(|v| *v = exp(*v - top));
    let scale = 1.0 / sum(row.len(), |i| row[i]);
    row.iter_mut().for_each(|v| *v *= scale);
}

/// Turns the gradient of a softmax into that of its input, in place. ys: the softmax.
#[inline(always)]
pub(super) fn row_softmax_backward(ys: &[f32], grads: &mut [f32]) {
    let grads = &mut grads[..ys.len()];
    let along = sum(ys.len(), |i| ys[i] * grads[i]);
    grads.iter_mut().zip(ys).for_each(|(g, y)| *g = y * (*g - along));
}

struct Softmax;

fn last(shape: &Shape) -> Result<usize> {
    match shape.dims().last() {
        Some(&n) if n > 0 => Ok(n),
        Some(_) | None => Err(Error::Msg("softmax over no values".into()).bt()),
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = last(layout.shape())?;
        let mut ys = f32s(storage, layout)?.to_vec();
        ys.par_chunks_mut(ROWS_PER_TASK * n).for_each(|rows| {
            vectorised(
                #[inline(always)]
                || rows.chunks_exact_mut(n).for_each(row_softmax),
            );
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        card::softmax((storage, layout))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        if xs.device().is_cuda() {
            return card::softmax_backward(ys, &grads.contiguous()?).map(Some);
        }
        let n = last(xs.shape())?;
        let mut dxs = with_f32s(&grads.contiguous()?, |grads| Ok(grads.to_vec()))?;
        with_f32s(ys, |ys| {
            let task = ROWS_PER_TASK * n;
            dxs.par_chunks_mut(task).zip(ys.par_chunks(task)).for_each(|(dxs, ys)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for (dx, y) in dxs.chunks_exact_mut(n).zip(ys.chunks_exact(n)) {
                            row_softmax_backward(y, dx);
                        }
                    },
                );
            });
            Ok(())
        })?;
        Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradients::check;
    use super::*;
    use candle_core::Device;

    #[test]
    fn softmax_agrees_with_basic_operations_and_finite_differences() {
        check(&[&[4, 21]], |xs| softmax(&xs[0]));
        check(&[&[2, 70, 3]], |xs| softmax(&xs[0]));
    }

    #[test]
    fn softmax_of_huge_values_stays_finite() {
        let xs = Tensor::new(&[[1e30_f32, -1e30, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(softmax(&xs).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0]]);
    }
}
