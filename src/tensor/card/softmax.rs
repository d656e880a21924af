use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, Error, Layout, Result, Shape, Tensor};

use super::Given;
use super::launch::{Grid, Place, int, launch, on_card, place, room, tensor, typed};

/// Which values of a row count, and what they are multiplied by first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    /// Row r is the token `r % stride`.
    pub(super) stride: usize,
    /// Rows and columns from here on are padding and become zeros.
    pub(super) tokens: usize,
    /// Whether a token sees only those up to itself.
    pub(super) causal: bool,
    pub(super) factor: f32,
}

/// Rows and their length.
fn sizes(shape: &Shape) -> Result<(usize, usize)> {
    match shape.dims().last() {
        Some(&n) if n > 0 => Ok((shape.elem_count() / n, n)),
        Some(_) | None => Err(Error::Msg("softmax over no values".into()).bt()),
    }
}

pub(in super::super) fn softmax(xs: Given<'_>) -> Result<(CudaStorage, Shape)> {
    let (_, n) = sizes(xs.1.shape())?;
    let all = Rows { stride: 1, tokens: n, causal: false, factor: 1.0 };
    Ok((scaled(xs, all)?, xs.1.shape().clone()))
}

/// Softmax over the last axis, as [`Rows`] says.
pub(super) fn scaled(xs: Given<'_>, of: Rows) -> Result<CudaStorage> {
    let (device, dtype, shape) = (xs.0.device(), xs.0.dtype(), xs.1.shape());
    let (rows, n) = sizes(shape)?;
    let ys = room(device, shape, dtype)?;
    let (x, y) = (Place::of(xs.0, xs.1)?, Place::of(&ys, &Layout::contiguous(shape.clone()))?);
    let arguments = [
        x.into(),
        y.into(),
        int(rows)?,
        int(n)?,
        int(of.stride)?,
        int(of.tokens)?,
        int(usize::from(of.causal))?,
        of.factor.into(),
    ];
    launch(device, &typed("softmax", dtype), Grid::rows(rows)?, &arguments)?;
    Ok(ys)
}

pub(in super::super) fn softmax_backward(ys: &Tensor, grads: &Tensor) -> Result<Tensor> {
    scaled_backward(ys, grads, 1.0)
}

/// The gradient of what [`scaled`] was computed of. ys: the softmax.
pub(super) fn scaled_backward(ys: &Tensor, grads: &Tensor, factor: f32) -> Result<Tensor> {
    let device = &on_card(ys)?;
    let (rows, n) = sizes(ys.shape())?;
    let dxs = tensor(room(device, ys.shape(), ys.dtype())?, ys.shape());
    let (y, g, dx) = (place(ys)?.into(), place(grads)?.into(), place(&dxs)?.into());
    let arguments = [y, g, dx, int(rows)?, int(n)?, factor.into()];
    launch(device, &typed("softmax_backward", ys.dtype()), Grid::rows(rows)?, &arguments)?;
    Ok(dxs)
}
