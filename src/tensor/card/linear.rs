use candle_core::backend::BackendStorage as _;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::Given;
use super::launch::{Grid, Place, int, launch, long, on_card, place, room, tensor, typed};

/// Most rows that one block adds up.
const STRETCH: usize = 128;

/// Into how many stretches rows are cut, and how long each is.
pub(super) fn stretches(rows: usize) -> (usize, usize) {
    (rows.div_ceil(STRETCH).max(1), STRETCH)
}

/// xs: `[rows, inputs]`; weight: `[outputs, inputs]` and bias: `[outputs]`, f32. The product is of the type of xs.
pub(in super::super) fn linear(
    xs: Given<'_>,
    weight: Given<'_>,
    bias: Option<Given<'_>>,
) -> Result<(CudaStorage, Shape)> {
    let (device, dtype) = (xs.0.device(), xs.0.dtype());
    let (rows, inputs) = xs.1.shape().dims2()?;
    let (outputs, _) = weight.1.shape().dims2()?;
    let sizes = (1, rows, outputs, inputs);
    let ys = if dtype == DType::F32 {
        xs.0.matmul(weight.0, sizes, xs.1, &weight.1.transpose(0, 1)?)?
    } else {
        let cast = weight.0.to_dtype(weight.1, dtype)?;
        let layout = Layout::contiguous((outputs, inputs)).transpose(0, 1)?;
        xs.0.matmul(&cast, sizes, xs.1, &layout)?
    };
    let shape = Shape::from((rows, outputs));
    if let Some(bias) = bias {
        let count = rows * outputs;
        let (bias, y) = (Place::of(bias.0, bias.1)?, Layout::contiguous(shape.clone()));
        if bias.count != outputs {
            let message = format!("a bias of {} values for {outputs} outputs", bias.count);
            return Err(candle_core::Error::Msg(message).bt());
        }
        let arguments = [Place::of(&ys, &y)?.into(), bias.into(), long(count), int(outputs)?];
        launch(device, &typed("add_bias", dtype), Grid::striding(count, 8), &arguments)?;
    }
    Ok((ys, shape))
}

/// Sums `[rows, columns]` over its rows, as f32 `[columns]`, in an order that is always the same.
pub(in super::super) fn column_sums(xs: &Tensor) -> Result<Tensor> {
    let device = &on_card(xs)?;
    let (rows, columns) = xs.dims2()?;
    let (count, stretch) = stretches(rows);
    let shape = Shape::from((count, columns));
    let partial = tensor(room(device, &shape, DType::F32)?, &shape);
    let (x, sums) = (place(xs)?.into(), place(&partial)?.into());
    let arguments = [x, sums, int(rows)?, int(columns)?, int(stretch)?];
    let grid = Grid::stretches(columns, count)?;
    launch(device, &typed("column_sums", xs.dtype()), grid, &arguments)?;
    added_up(&partial, &columns.into())
}

/// The sum of `[stretches, ..]` over its first axis, in a shape of the others.
pub(super) fn added_up(partial: &Tensor, shape: &Shape) -> Result<Tensor> {
    let device = &on_card(partial)?;
    let count = shape.elem_count();
    let sums = tensor(room(device, shape, DType::F32)?, shape);
    let arguments =
        [place(partial)?.into(), place(&sums)?.into(), int(partial.dim(0)?)?, int(count)?];
    launch(device, "add_stretches", Grid::values(count)?, &arguments)?;
    Ok(sums)
}
