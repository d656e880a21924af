use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::Simd;
use rayon::prelude::*;

use super::buffer::{PER_TASK, f32s, fusible};
use super::card;
use super::room::zeros;
use super::simd::{erf, erfs, exp, exps, sigmoid, vectorised};
use super::update::update;

/// Slope of the sigmoid in OpenAI's approximation of GELU.
const QUICK: f32 = 1.702;

/// `x * sigmoid(1.702 x)`, elementwise on any shape: the activation of OpenAI's CLIP weights.
///
/// # Errors
/// candle's, for a type it cannot compute with.
pub fn quick_gelu(xs: &Tensor) -> Result<Tensor> {
    if fusible(xs, &[]) {
        return xs.contiguous()?.apply_op1(Activation::QuickGelu);
    }
    xs * candle_nn::ops::sigmoid(&(xs * f64::from(QUICK))?)?
}

/// `x * Phi(x)` with the exact normal distribution function, elementwise on any shape.
///
/// # Errors
/// candle's, for a type it cannot compute with.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    if fusible(xs, &[]) {
        return xs.contiguous()?.apply_op1(Activation::Gelu);
    }
    xs.gelu_erf()
}

/// What stands between both products of a block's perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// [`quick_gelu`]
    QuickGelu,
    /// [`gelu`]
    Gelu,
}

impl Activation {
    /// As kernels are called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick_gelu",
            Self::Gelu => "gelu",
        }
    }

    fn forward(self, xs: &[f32]) -> Vec<f32> {
        let mut ys = zeros(xs.len());
        ys.par_chunks_mut(PER_TASK).zip(xs.par_chunks(PER_TASK)).for_each(|(ys, xs)| {
            let pairs = ys.iter_mut().zip(xs);
            match self {
                Self::QuickGelu => vectorised(
                    #[inline(always)]
                    || pairs.for_each(|(y, x)| *y = quick_gelu_at(*x)),
                ),
                Self::Gelu => vectorised(
                    #[inline(always)]
                    || pairs.for_each(|(y, x)| *y = gelu_at(*x)),
                ),
            }
        });
        ys
    }

    /// Makes gradients of what comes out gradients of what went in.
    pub(super) fn backward(self, grads: &mut [f32], xs: &[f32]) {
        grads.par_chunks_mut(PER_TASK).zip(xs.par_chunks(PER_TASK)).for_each(|(grads, xs)| {
            let pairs = grads.iter_mut().zip(xs);
            match self {
                Self::QuickGelu => vectorised(
                    #[inline(always)]
                    || {
                        pairs.for_each(|(g, x)| {
                            let s = sigmoid(QUICK * x);
                            *g = *g * s * (1.0 + QUICK * x * (1.0 - s));
                        });
                    },
                ),
                Self::Gelu => vectorised(
                    #[inline(always)]
                    || {
                        const DENSITY: f32 = 0.398_942_3;
                        pairs.for_each(|(g, x)| {
                            *g *= normal_cdf(*x) + x * DENSITY * exp(-0.5 * x * x);
                        });
                    },
                ),
            }
        });
    }
}

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
pub(super) fn quick_gelu_at(x: f32) -> f32 {
    x * sigmoid(QUICK * x)
}

/// `x * Phi(x)`.
#[inline(always)]
pub(super) fn gelu_at(x: f32) -> f32 {
    x * normal_cdf(x)
}

/// [`quick_gelu_at`] of each.
#[inline(always)]
pub(super) fn quick_gelus<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let power = exps(simd, simd.mul_f32s(x, simd.splat_f32s(-QUICK)));
    simd.div_f32s(x, simd.add_f32s(power, simd.splat_f32s(1.0)))
}

/// [`gelu_at`] of each.
#[inline(always)]
pub(super) fn gelus<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let erf = erfs(simd, simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    simd.mul_add_e_f32s(half, erf, half)
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        Self::name(*self)
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ys = self.forward(f32s(storage, layout)?);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        card::activation(*self, (storage, layout))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        if xs.device().is_cuda() {
            return card::activation_backward(*self, xs, &grads.contiguous()?).map(Some);
        }
        let dxs = grads.force_contiguous()?;
        update(&dxs, xs, |grads, xs| self.backward(grads, xs))?;
        Ok(Some(dxs))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradients::check;
    use super::*;

    #[test]
    fn quick_gelu_agrees_with_basic_operations_and_finite_differences() {
        check(&[&[3, 37]], |xs| quick_gelu(&xs[0]));
    }

    #[test]
    fn gelu_agrees_with_basic_operations_and_finite_differences() {
        check(&[&[3, 37]], |xs| gelu(&xs[0]));
    }

    #[test]
    fn activations_take_views_that_are_not_contiguous() {
        check(&[&[5, 7]], |xs| quick_gelu(&xs[0].t()?));
        check(&[&[5, 7]], |xs| gelu(&xs[0].narrow(1, 2, 3)?));
    }
}
