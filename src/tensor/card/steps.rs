//! Steps of an optimizer where the values lie.

use candle_core::{CudaDevice, DType, Error, Result, Shape, Tensor};

use super::launch::{Grid, Place, launch, long, on_card, place, room, tensor};
use super::{AdamStep, MomentumStep};

/// Blocks that add up the squares of one tensor.
const BLOCKS: usize = 64;

fn values(tensor: &Tensor, count: usize) -> Result<Place> {
    let place = place(tensor)?;
    if place.count != count || tensor.dtype() != DType::F32 {
        let (got, dtype) = (place.count, tensor.dtype());
        return Err(Error::Msg(format!("a step of {count} values met {got} of {dtype:?}")).bt());
    }
    Ok(place)
}

fn threads(count: usize) -> Grid {
    Grid::striding(count, 4)
}

/// One step of AdamW: the parameter, the mean and the mean square change where they lie; `scale` is one value that
/// the gradient is multiplied by. All f32 on one card. Whoever calls this must be the only one to use the three.
///
/// # Errors
/// When sizes, types or devices differ.
pub fn adam_step(
    state: [&Tensor; 3],
    gradient: &Tensor,
    scale: &Tensor,
    step: AdamStep,
) -> Result<()> {
    let count = gradient.elem_count();
    let device: &CudaDevice = &on_card(gradient)?;
    let [w, m, v] = [values(state[0], count)?, values(state[1], count)?, values(state[2], count)?];
    let (g, scale) = (values(gradient, count)?, values(scale, 1)?);
    let AdamStep { beta1, beta2, eps, rate, root, keep } = step;
    let arguments = [
        w.into(),
        m.into(),
        v.into(),
        g.into(),
        scale.into(),
        long(count),
        beta1.into(),
        beta2.into(),
        eps.into(),
        rate.into(),
        root.into(),
        keep.into(),
    ];
    launch(device, "adamw", threads(count), &arguments)
}

/// One step with momentum: the parameter and its velocity change where they lie. As [`adam_step`].
///
/// # Errors
/// As [`adam_step`].
pub fn momentum_step(
    state: [&Tensor; 2],
    gradient: &Tensor,
    scale: &Tensor,
    step: MomentumStep,
) -> Result<()> {
    let count = gradient.elem_count();
    let device: &CudaDevice = &on_card(gradient)?;
    let [w, m] = [values(state[0], count)?, values(state[1], count)?];
    let (g, scale) = (values(gradient, count)?, values(scale, 1)?);
    let MomentumStep { momentum, decay, rate } = step;
    let arguments = [
        w.into(),
        m.into(),
        g.into(),
        scale.into(),
        long(count),
        momentum.into(),
        decay.into(),
        rate.into(),
    ];
    launch(device, "momentum", threads(count), &arguments)
}

/// The sum of all squared values, one value on the card: nobody waits for it. In an order that is always the same.
///
/// # Errors
/// When one of them is not contiguous f32 on a card.
pub fn square_sum(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        return Err(Error::Msg("squares of nothing".to_owned()).bt());
    };
    let device: &CudaDevice = &on_card(first)?;
    let shape = Shape::from((tensors.len(), BLOCKS));
    let partial = tensor(room(device, &shape, DType::F32)?, &shape);
    for (at, of) in tensors.iter().enumerate() {
        let (row, count) = (partial.get(at)?, of.elem_count());
        let arguments = [values(of, count)?.into(), place(&row)?.into(), long(count)];
        launch(device, "square_sums", Grid::blocks(BLOCKS as u32), &arguments)?;
    }
    partial.sum_all()
}
