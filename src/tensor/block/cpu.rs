//! A block on a CPU. Between two operations candle fills a place for a gradient with zeros, adds to it and takes it away again, on threads of
//! its own: a fifth of a step with few pictures.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::super::attention::{HeadShape, attention};
use super::super::buffer::{PER_TASK, with_f32s};
use super::super::linear::{Linear, linear};
use super::super::norm::{LayerNorm, layer_norm};
use super::super::simd::vectorised;
use super::super::update::update;
use super::{Affine, BlockParameters};

/// `[batch, tokens, dim]` to the same.
pub(super) fn block(xs: &Tensor, parameters: BlockParameters) -> Result<Tensor> {
    xs.apply_op1(Block { parameters, xs: xs.detach(), kept: Mutex::new(None) })
}

/// The operation, and what its way forward leaves for its way back.
struct Block {
    parameters: BlockParameters,
    /// What goes in: an operation is given its storage alone.
    xs: Tensor,
    kept: Mutex<Option<Kept>>,
}

/// All without history; `[batch * tokens, ..]`, but for what the attention takes and gives.
struct Kept {
    normed1: Tensor,
    /// The weight of queries, keys and values, `[3 * dim, dim]`.
    weight: Tensor,
    /// `[batch, tokens, 3 * dim]`
    joined: Tensor,
    mixed: Tensor,
    /// After the attention's residual sum.
    between: Tensor,
    normed2: Tensor,
    /// Before the activation, and after it.
    inner: Tensor,
    outer: Tensor,
}

impl Block {
    fn linear(&self) -> Linear {
        Linear { rounded: self.parameters.rounded }
    }

    fn norm(&self) -> LayerNorm {
        LayerNorm { eps: self.parameters.eps as f32 }
    }

    fn product(&self, xs: &Tensor, by: &Affine) -> Result<Tensor> {
        linear(xs, &by.weight()?, Some(&by.bias()?), self.parameters.rounded)
    }

    /// `[batch * tokens, dim]`, and what is kept.
    fn forward(&self) -> Result<(Vec<f32>, Kept)> {
        let BlockParameters { heads, causal, activation, eps, rounded, .. } = self.parameters;
        let [norm1, qkv, out, norm2, fc1, fc2] = &self.parameters.affine;
        let (batch, tokens, dim) = self.xs.dims3()?;
        let xs = self.xs.reshape((batch * tokens, dim))?;

        let normed1 = layer_norm(&xs, &norm1.weight()?, &norm1.bias()?, eps)?;
        let weight = qkv.weight()?;
        let joined = linear(&normed1, &weight, Some(&qkv.bias()?), rounded)?;
        let joined = joined.reshape((batch, tokens, ()))?;
        let mixed = attention(&joined, heads, causal)?.flatten_to(1)?;
        let between = self.product(&mixed, out)?;
        update(&between, &xs, add)?;
        let normed2 = layer_norm(&between, &norm2.weight()?, &norm2.bias()?, eps)?;
        let inner = self.product(&normed2, fc1)?;
        let outer = inner.apply_op1(activation)?;
        let mut ys = self.linear().values(&outer, &fc2.weight()?, &fc2.bias()?)?;
        with_f32s(&between, |between| {
            add(&mut ys, between);
            Ok(())
        })?;
        Ok((ys, Kept { normed1, weight, joined, mixed, between, normed2, inner, outer }))
    }

    /// The gradient of what goes in; hands over those of the parameters. grads: `[batch * tokens, dim]`.
    fn backward(&self, grads: &Tensor, kept: Kept) -> Result<Tensor> {
        let BlockParameters { heads, causal, activation, .. } = self.parameters;
        let [norm1, qkv, out, norm2, fc1, fc2] = &self.parameters.affine;
        let (batch, tokens, dim) = self.xs.dims3()?;
        let Kept { normed1, weight, joined, mixed, between, normed2, inner, outer } = kept;

        let douter = self.product_backward(&outer, grads, fc2, &fc2.weight()?)?;
        drop(outer);
        // Gradients of what comes out of an operation become those of what went in where they lie.
        update(&douter, &inner, |grads, inner| activation.backward(grads, inner))?;
        drop(inner);
        let dnormed2 = self.product_backward(&normed2, &douter, fc1, &fc1.weight()?)?;
        drop((normed2, douter));
        let dbetween = self.norm_backward(&between, dnormed2, norm2)?;
        drop(between);
        update(&dbetween, grads, add)?;

        let dmixed = self.product_backward(&mixed, &dbetween, out, &out.weight()?)?;
        drop(mixed);
        let heads = HeadShape::of(&joined, heads, causal)?;
        let djoined = heads.backward(&joined, &dmixed)?.flatten_to(1)?;
        drop((joined, dmixed));
        let dnormed1 = self.product_backward(&normed1, &djoined, qkv, &weight)?;
        drop((normed1, djoined));
        let dxs = self.norm_backward(&self.xs.reshape((batch * tokens, dim))?, dnormed1, norm1)?;
        update(&dxs, &dbetween, add)?;
        Ok(dxs)
    }

    fn product_backward(
        &self,
        xs: &Tensor,
        grads: &Tensor,
        by: &Affine,
        weight: &Tensor,
    ) -> Result<Tensor> {
        let linear = self.linear();
        if by.learns() {
            by.give(&linear.of_weight(xs, grads)?, &Linear::of_bias(grads)?)?;
        }
        linear.of_inputs(weight, grads)
    }

    fn norm_backward(&self, xs: &Tensor, grads: Tensor, by: &Affine) -> Result<Tensor> {
        let [dweight, dbias] = self.norm().gradients(xs, &by.weight()?, &grads)?;
        by.give(&dweight, &dbias)?;
        Ok(grads)
    }
}

fn add(to: &mut [f32], more: &[f32]) {
    to.par_chunks_mut(PER_TASK).zip(more.par_chunks(PER_TASK)).for_each(|(to, more)| {
        vectorised(
            #[inline(always)]
            || to.iter_mut().zip(more).for_each(|(to, more)| *to += more),
        );
    });
}

impl CustomOp1 for Block {
    fn name(&self) -> &'static str {
        "transformer block"
    }

    fn cpu_fwd(&self, _: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (ys, kept) = self.forward()?;
        if let Ok(mut place) = self.kept.lock() {
            *place = Some(kept);
        }
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        let again = || Error::Msg("a block's way back is gone once".to_owned()).bt();
        let (batch, tokens, dim) = xs.dims3()?;
        let grads = grads.contiguous()?.reshape((batch * tokens, dim))?;
        self.backward(&grads, kept.ok_or_else(again)?)?.reshape(xs.shape()).map(Some)
    }
}
