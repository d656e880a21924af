use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use super::Given;
use super::launch::{
    Argument, Grid, Place, int, launch, long, on_card, place, room, tensor, typed, with,
};
use super::softmax::{scaled, scaled_backward};

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    head: usize,
    causal: bool,
}

impl Sizes {
    /// Of `[batch, tokens, 3 * heads * head]`, checked before.
    fn of(qkv: &Shape, heads: usize, causal: bool) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        Ok(Self { batch, tokens, heads, head: width / (3 * heads), causal })
    }

    fn scale(self) -> f32 {
        (self.head as f32).sqrt().recip()
    }

    /// `[parts, batch * heads, tokens, head]`.
    fn apart(self, parts: usize) -> Shape {
        (parts, self.batch * self.heads, self.tokens, self.head).into()
    }

    /// `[batch, tokens, parts * heads * head]`.
    fn joined(self, parts: usize) -> Shape {
        (self.batch, self.tokens, parts * self.heads * self.head).into()
    }

    /// The arguments of both kernels that move heads, and their threads.
    fn moving(self, parts: usize, from: Place, to: Place) -> Result<(Grid, [Argument; 7])> {
        let count = self.apart(parts).elem_count();
        let sizes = [int(self.tokens)?, int(parts)?, int(self.heads)?, int(self.head)?];
        let [tokens, parts, heads, head] = sizes;
        let arguments = [from.into(), to.into(), long(count), tokens, parts, heads, head];
        Ok((Grid::striding(count, 8), arguments))
    }

    fn split(self, joined: Given<'_>, parts: usize) -> Result<Tensor> {
        let (device, dtype, shape) = (joined.0.device(), joined.0.dtype(), self.apart(parts));
        let apart = tensor(room(device, &shape, dtype)?, &shape);
        let from = Place::of(joined.0, joined.1)?;
        let (grid, arguments) = self.moving(parts, from, place(&apart)?)?;
        launch(device, &typed("split_heads", dtype), grid, &arguments)?;
        Ok(apart)
    }

    /// From `[parts, batch * heads, tokens, head]`.
    fn merged(self, apart: &Tensor, parts: usize) -> Result<CudaStorage> {
        let (device, dtype) = (&on_card(apart)?, apart.dtype());
        let joined = room(device, &self.joined(parts), dtype)?;
        let to = Place::of(&joined, &Layout::contiguous(self.joined(parts)))?;
        let (grid, arguments) = self.moving(parts, place(apart)?, to)?;
        launch(device, &typed("merge_heads", dtype), grid, &arguments)?;
        Ok(joined)
    }

    /// How much each token takes from each, `[batch * heads, tokens, tokens]`.
    fn weights(self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = queries.matmul(&keys.t()?)?;
        let tokens = if self.causal { self.tokens } else { 0 };
        let weights =
            with(&scores, |storage, layout| scaled((storage, layout), tokens, self.scale()))?;
        Ok(tensor(weights, scores.shape()))
    }
}

/// qkv: `[batch, tokens, 3 * dim]`; the result is `[batch, tokens, dim]`.
pub(in super::super) fn attention(
    qkv: Given<'_>,
    heads: usize,
    causal: bool,
) -> Result<(CudaStorage, Shape)> {
    let sizes = Sizes::of(qkv.1.shape(), heads, causal)?;
    let apart = sizes.split(qkv, 3)?;
    let weights = sizes.weights(&apart.get(0)?, &apart.get(1)?)?;
    let mixed = weights.matmul(&apart.get(2)?)?;
    Ok((sizes.merged(&mixed, 1)?, sizes.joined(1)))
}

/// The gradient of qkv; nothing is kept of the forward pass but its input.
pub(in super::super) fn attention_backward(
    qkv: &Tensor,
    grads: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let sizes = Sizes::of(qkv.shape(), heads, causal)?;
    let apart = with(qkv, |storage, layout| sizes.split((storage, layout), 3))?;
    let [queries, keys, values] = [apart.get(0)?, apart.get(1)?, apart.get(2)?];
    let weights = sizes.weights(&queries, &keys)?;
    let grads = with(grads, |storage, layout| sizes.split((storage, layout), 1))?.get(0)?;
    let dvalues = weights.t()?.matmul(&grads)?;
    let dweights = grads.matmul(&values.t()?)?;
    let dscores = scaled_backward(&weights, &dweights, sizes.scale())?;
    let dqueries = dscores.matmul(&keys)?;
    let dkeys = dscores.t()?.matmul(&queries)?;
    let gradients = Tensor::stack(&[dqueries, dkeys, dvalues], 0)?;
    Ok(tensor(sizes.merged(&gradients, 3)?, qkv.shape()))
}
