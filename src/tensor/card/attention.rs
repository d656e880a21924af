use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use super::Given;
use super::launch::{
    Argument, Grid, Place, int, launch, long, on_card, place, room, tensor, typed, with,
};
use super::softmax::{Rows, scaled, scaled_backward};

/// Tokens are padded to a multiple of this: cuBLAS is slow where a row of scores is not of whole vectors.
const STRIDE: usize = 8;

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    head: usize,
    causal: bool,
}

impl Sizes {
    /// Of `[batch, tokens, 3 * heads * head]`, checked before.
    pub(super) fn of(qkv: &Shape, heads: usize, causal: bool) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        Ok(Self { batch, tokens, heads, head: width / (3 * heads), causal })
    }

    fn scale(self) -> f32 {
        (self.head as f32).sqrt().recip()
    }

    fn stride(self) -> usize {
        self.tokens.next_multiple_of(STRIDE)
    }

    /// `[parts, batch * heads, stride, head]`.
    fn apart(self, parts: usize) -> Shape {
        (parts, self.batch * self.heads, self.stride(), self.head).into()
    }

    /// `[batch, tokens, parts * heads * head]`.
    fn joined(self, parts: usize) -> Shape {
        (self.batch, self.tokens, parts * self.heads * self.head).into()
    }

    /// The arguments of both kernels that move heads, and their threads: `parts` parts from `first` on of `all`.
    fn moving(
        self,
        [parts, first, all]: [usize; 3],
        from: Place,
        to: Place,
    ) -> Result<(Grid, [Argument; 10])> {
        let count = self.apart(parts).elem_count();
        let [tokens, stride] = [int(self.tokens)?, int(self.stride())?];
        let [parts, first, all] = [int(parts)?, int(first)?, int(all)?];
        let [heads, head] = [int(self.heads)?, int(self.head)?];
        let (from, to, values) = (from.into(), to.into(), long(count));
        let arguments = [from, to, values, tokens, stride, parts, first, all, heads, head];
        Ok((Grid::striding(count, 8), arguments))
    }

    /// `[parts, batch * heads, stride, head]` of `[batch, tokens, parts * heads * head]`.
    pub(super) fn split(self, joined: Given<'_>, parts: usize) -> Result<Tensor> {
        let (device, dtype, shape) = (joined.0.device(), joined.0.dtype(), self.apart(parts));
        let apart = tensor(room(device, &shape, dtype)?, &shape);
        let from = Place::of(joined.0, joined.1)?;
        let (grid, arguments) = self.moving([parts, 0, parts], from, place(&apart)?)?;
        launch(device, &typed("split_heads", dtype), grid, &arguments)?;
        Ok(apart)
    }

    /// The other way round, of as many parts.
    fn merged<const PARTS: usize>(self, apart: [&Tensor; PARTS]) -> Result<CudaStorage> {
        let (device, dtype) = (&on_card(apart[0])?, apart[0].dtype());
        let joined = room(device, &self.joined(PARTS), dtype)?;
        let to = Place::of(&joined, &Layout::contiguous(self.joined(PARTS)))?;
        for (at, part) in apart.into_iter().enumerate() {
            let (grid, arguments) = self.moving([1, at, PARTS], place(part)?, to)?;
            launch(device, &typed("merge_heads", dtype), grid, &arguments)?;
        }
        Ok(joined)
    }

    /// How much each token takes from each, `[batch * heads, stride, stride]`.
    fn weights(self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = queries.matmul(&keys.t()?)?;
        let Self { tokens, causal, .. } = self;
        let rows = Rows { stride: self.stride(), tokens, causal, factor: self.scale() };
        let weights = with(&scores, |storage, layout| scaled((storage, layout), rows))?;
        Ok(tensor(weights, scores.shape()))
    }

    /// `[batch, tokens, dim]` of queries, keys and values apart.
    pub(super) fn mixed(self, apart: &Tensor) -> Result<CudaStorage> {
        let weights = self.weights(&apart.get(0)?, &apart.get(1)?)?;
        self.merged([&weights.matmul(&apart.get(2)?)?])
    }

    /// The gradient of queries, keys and values, joined, of that of [`Sizes::mixed`].
    pub(super) fn backward(self, apart: &Tensor, grads: &Tensor) -> Result<Tensor> {
        let [queries, keys, values] = [apart.get(0)?, apart.get(1)?, apart.get(2)?];
        let weights = self.weights(&queries, &keys)?;
        let grads = with(grads, |storage, layout| self.split((storage, layout), 1))?.get(0)?;
        let dvalues = weights.t()?.matmul(&grads)?;
        let dweights = grads.matmul(&values.t()?)?;
        let dscores = scaled_backward(&weights, &dweights, self.scale())?;
        drop((weights, dweights));
        let dqueries = dscores.matmul(&keys)?;
        let dkeys = dscores.t()?.matmul(&queries)?;
        Ok(tensor(self.merged([&dqueries, &dkeys, &dvalues])?, &self.joined(3)))
    }
}

/// qkv: `[batch, tokens, 3 * dim]`; the result is `[batch, tokens, dim]`.
pub(in super::super) fn attention(
    qkv: Given<'_>,
    heads: usize,
    causal: bool,
) -> Result<(CudaStorage, Shape)> {
    let sizes = Sizes::of(qkv.1.shape(), heads, causal)?;
    Ok((sizes.mixed(&sizes.split(qkv, 3)?)?, sizes.joined(1)))
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
    sizes.backward(&apart, grads)
}
