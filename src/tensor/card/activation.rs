use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use super::super::activation::Activation;
use super::Given;
use super::launch::{Grid, Place, launch, long, on_card, place, room, tensor, typed};

/// Values that a thread takes at a time.
const EACH: usize = 8;

/// `of` every value.
pub(in super::super) fn activation(of: Activation, xs: Given<'_>) -> Result<(CudaStorage, Shape)> {
    let (device, dtype, shape) = (xs.0.device(), xs.0.dtype(), xs.1.shape().clone());
    let count = shape.elem_count();
    let ys = room(device, &shape, dtype)?;
    let places = [Place::of(xs.0, xs.1)?, Place::of(&ys, &Layout::contiguous(shape.clone()))?];
    let [x, y] = places.map(Into::into);
    launch(device, &typed(of.name(), dtype), Grid::striding(count, EACH), &[x, y, long(count)])?;
    Ok((ys, shape))
}

/// The gradient of what [`activation`] was computed of.
pub(in super::super) fn activation_backward(
    of: Activation,
    xs: &Tensor,
    grads: &Tensor,
) -> Result<Tensor> {
    let device = &on_card(xs)?;
    let (shape, dtype) = (xs.shape(), xs.dtype());
    let count = shape.elem_count();
    let dxs = tensor(room(device, shape, dtype)?, shape);
    let (x, g, dx) = (place(xs)?.into(), place(grads)?.into(), place(&dxs)?.into());
    let kernel = typed(&format!("{}_backward", of.name()), dtype);
    launch(device, &kernel, Grid::striding(count, EACH), &[x, g, dx, long(count)])?;
    Ok(dxs)
}
