use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, DType, Error, Layout, Result, Shape, Tensor};

use super::Given;
use super::launch::{Grid, Place, int, launch, on_card, place, room, tensor, typed};
use super::linear::{added_up, stretches};

fn sizes(shape: &Shape) -> Result<(usize, usize)> {
    let dim = shape.dims().last().copied().unwrap_or(0);
    if dim == 0 {
        return Err(Error::Msg("layer_norm over no values".to_owned()).bt());
    }
    Ok((shape.elem_count() / dim, dim))
}

/// xs: `[.., dim]`; weight and bias: `[dim]`, f32.
pub(in super::super) fn layer_norm(
    xs: Given<'_>,
    weight: Given<'_>,
    bias: Given<'_>,
    eps: f32,
) -> Result<(CudaStorage, Shape)> {
    let (device, dtype, shape) = (xs.0.device(), xs.0.dtype(), xs.1.shape().clone());
    let (rows, dim) = sizes(&shape)?;
    let (weight, bias) = (Place::of(weight.0, weight.1)?, Place::of(bias.0, bias.1)?);
    if weight.count != dim || bias.count != dim {
        let (w, b) = (weight.count, bias.count);
        let message = format!("layer_norm over {dim} values has a weight of {w} and a bias of {b}");
        return Err(Error::Msg(message).bt());
    }
    let ys = room(device, &shape, dtype)?;
    let (x, y) = (Place::of(xs.0, xs.1)?, Place::of(&ys, &Layout::contiguous(shape.clone()))?);
    let arguments =
        [x.into(), weight.into(), bias.into(), y.into(), int(rows)?, int(dim)?, eps.into()];
    launch(device, &typed("layer_norm", dtype), Grid::rows(rows)?, &arguments)?;
    Ok((ys, shape))
}

/// Gradients of xs, weight and bias.
pub(in super::super) fn layer_norm_backward(
    xs: &Tensor,
    weight: &Tensor,
    grads: &Tensor,
    eps: f32,
) -> Result<[Tensor; 3]> {
    let device = &on_card(xs)?;
    let (shape, dtype) = (xs.shape(), xs.dtype());
    let (rows, dim) = sizes(shape)?;
    let fresh = |shape: Shape, dtype| -> Result<Tensor> {
        Ok(tensor(room(device, &shape, dtype)?, &shape))
    };
    let (dxs, kept) = (fresh(shape.clone(), dtype)?, fresh((rows, 2).into(), DType::F32)?);
    let (x, g, kept) = (place(xs)?.into(), place(grads)?.into(), (place(&kept)?.into(), kept));
    let w = place(weight)?.into();
    let arguments = [x, w, g, place(&dxs)?.into(), kept.0, int(rows)?, int(dim)?, eps.into()];
    launch(device, &typed("layer_norm_backward", dtype), Grid::rows(rows)?, &arguments)?;

    let (count, stretch) = stretches(rows);
    let partial = fresh((count, 2, dim).into(), DType::F32)?;
    let arguments = [x, g, kept.0, place(&partial)?.into(), int(rows)?, int(dim)?, int(stretch)?];
    launch(device, &typed("norm_sums", dtype), Grid::stretches(dim, count)?, &arguments)?;
    let sums = added_up(&partial, &(2, dim).into())?;
    Ok([dxs, sums.get(0)?, sums.get(1)?])
}
