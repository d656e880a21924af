//! A pre-norm transformer block as one operation: candle's bookkeeping reads and writes every value between two
//! operations five times more on the way back, which costs a training step as much as the products.

use std::sync::Mutex;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};

use super::super::activation::Activation;
use super::super::block::{Affine, BlockParameters};
use super::Given;
use super::activation::{activation, activation_backward};
use super::attention::Sizes;
use super::launch::{Grid, Place, launch, long, on_card, place, room, tensor, typed, with};
use super::linear::{column_sums, linear};
use super::norm::{layer_norm, layer_norm_backward};

/// `[batch, tokens, dim]` to the same.
pub(in super::super) fn block(xs: &Tensor, parameters: BlockParameters) -> Result<Tensor> {
    xs.apply_op1(Block { parameters, kept: Mutex::new(None) })
}

/// The operation, and what its way forward leaves for its way back.
struct Block {
    parameters: BlockParameters,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    /// Queries, keys and values apart, and what the attention made of them.
    apart: Tensor,
    mixed: Tensor,
    /// After the attention's residual sum.
    between: Tensor,
    /// Before the activation.
    inner: Tensor,
}

impl Block {
    /// All rows of `[batch, tokens, dim]`, `[batch * tokens, dim]`.
    fn forward(&self, xs: Given<'_>) -> Result<(CudaStorage, Kept)> {
        let BlockParameters { heads, activation: by, eps, causal, .. } = self.parameters;
        let [norm1, qkv, out, norm2, fc1, fc2] = &self.parameters.affine;
        let (batch, tokens, dim) = xs.1.shape().dims3()?;
        let rows = Shape::from((batch * tokens, dim));
        let flat = Layout::contiguous_with_offset(rows.clone(), xs.1.start_offset());

        let joined = product(&normed((xs.0, &flat), norm1, eps)?, qkv)?;
        let shape = Shape::from((batch, tokens, joined.dim(1)?));
        let sizes = Sizes::of(&shape, heads, causal)?;
        let joined = joined.reshape(shape)?;
        let apart = with(&joined, |storage, layout| sizes.split((storage, layout), 3))?;
        drop(joined);
        let mixed = tensor(sizes.mixed(&apart)?, &rows);
        let between = tensor(sum((xs.0, &flat), &product(&mixed, out)?)?, &rows);
        let normed2 = with(&between, |storage, layout| normed((storage, layout), norm2, eps))?;
        let inner = product(&normed2, fc1)?;
        let outer = product(&activated(by, &inner)?, fc2)?;
        let ys = with(&between, |storage, layout| sum((storage, layout), &outer))?;
        Ok((ys, Kept { apart, mixed, between, inner }))
    }

    fn backward(&self, xs: &Tensor, grads: &Tensor, kept: Kept) -> Result<Tensor> {
        let BlockParameters { heads, activation: by, eps, causal, .. } = self.parameters;
        let [norm1, qkv, out, norm2, fc1, fc2] = &self.parameters.affine;
        let (batch, tokens, dim) = xs.dims3()?;
        let Kept { apart, mixed, between, inner } = kept;
        let (flat, grads) =
            (xs.reshape((batch * tokens, dim))?, grads.reshape((batch * tokens, dim))?);

        let dactivated = product_backward(&activated(by, &inner)?, &grads, fc2)?;
        let dinner = activation_backward(by, &inner, &dactivated)?;
        drop((dactivated, inner));
        let normed2 = with(&between, |storage, layout| normed((storage, layout), norm2, eps))?;
        let dnormed2 = product_backward(&normed2, &dinner, fc1)?;
        drop((dinner, normed2));
        let dbetween = normed_backward(&between, &dnormed2, norm2, eps)?;
        let dbetween = added(&dbetween, &grads)?;

        let dmixed = product_backward(&mixed, &dbetween, out)?;
        let width = 3 * dim;
        let shape = Shape::from((batch, tokens, width));
        let sizes = Sizes::of(&shape, heads, causal)?;
        let djoined = sizes.backward(&apart, &dmixed)?.reshape((batch * tokens, width))?;
        drop((apart, mixed, dmixed));
        let normed1 = with(&flat, |storage, layout| normed((storage, layout), norm1, eps))?;
        let dnormed1 = product_backward(&normed1, &djoined, qkv)?;
        let dxs = normed_backward(&flat, &dnormed1, norm1, eps)?;
        added(&dxs, &dbetween)?.reshape(xs.shape())
    }
}

fn normed(xs: Given<'_>, by: &Affine, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (by.weight()?, by.bias()?);
    let (ys, shape) = with(&weight, |w, w_layout| {
        with(&bias, |b, b_layout| layer_norm(xs, (w, w_layout), (b, b_layout), eps as f32))
    })?;
    Ok(tensor(ys, &shape))
}

fn normed_backward(xs: &Tensor, grads: &Tensor, by: &Affine, eps: f64) -> Result<Tensor> {
    let [dxs, dweight, dbias] = layer_norm_backward(xs, &by.weight()?, grads, eps as f32)?;
    by.give(&dweight, &dbias)?;
    Ok(dxs)
}

fn product(xs: &Tensor, by: &Affine) -> Result<Tensor> {
    let (weight, bias) = (by.weight()?, by.bias()?);
    let (ys, shape) = with(xs, |x, x_layout| {
        with(&weight, |w, w_layout| {
            with(&bias, |b, b_layout| linear((x, x_layout), (w, w_layout), Some((b, b_layout))))
        })
    })?;
    Ok(tensor(ys, &shape))
}

fn product_backward(xs: &Tensor, grads: &Tensor, by: &Affine) -> Result<Tensor> {
    if by.learns() {
        let weight = grads.t()?.matmul(xs)?.to_dtype(candle_core::DType::F32)?;
        by.give(&weight, &column_sums(grads)?)?;
    }
    grads.matmul(&by.weight()?.to_dtype(grads.dtype())?)
}

fn activated(by: Activation, xs: &Tensor) -> Result<Tensor> {
    let (ys, shape) = with(xs, |storage, layout| activation(by, (storage, layout)))?;
    Ok(tensor(ys, &shape))
}

fn added(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let sum = with(a, |storage, layout| sum((storage, layout), b))?;
    Ok(tensor(sum, a.shape()))
}

fn sum(a: Given<'_>, b: &Tensor) -> Result<CudaStorage> {
    let (device, dtype, shape) = (&on_card(b)?, b.dtype(), b.shape());
    let (count, ys) = (shape.elem_count(), room(device, shape, dtype)?);
    let to = Place::of(&ys, &Layout::contiguous(shape.clone()))?;
    let arguments = [Place::of(a.0, a.1)?.into(), place(b)?.into(), to.into(), long(count)];
    launch(device, &typed("add", dtype), Grid::striding(count, 8), &arguments)?;
    Ok(ys)
}

impl CustomOp1 for Block {
    fn name(&self) -> &'static str {
        "transformer block"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::Msg("a block is one operation on a card only".to_owned()).bt())
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (ys, kept) = self.forward((storage, layout))?;
        if let Ok(mut place) = self.kept.lock() {
            *place = Some(kept);
        }
        Ok((ys, layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        let again = || Error::Msg("a block's way back is gone once".to_owned()).bt();
        self.backward(xs, &grads.contiguous()?, kept.ok_or_else(again)?).map(Some)
    }
}
