use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor,
};
use rayon::prelude::*;

use super::backward::hand_over;
use super::buffer::{ROWS_PER_TASK, f32s, fusible, with_f32s};
use super::card;
use super::simd::vectorised;

/// `xs weight^T + bias`. xs: `[.., inputs]`; weight: `[outputs, inputs]` as PyTorch stores it;
/// bias: `[outputs]`. The result is of the type of xs, whatever the others are. Gradients are computed only for the arguments that are tracked, so a frozen
/// input costs nothing.
///
/// # Errors
/// When the sizes do not fit.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let mut shape = xs.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last == inputs) else {
        return Err(Error::ShapeMismatchBinaryOp {
            lhs: xs.shape().clone(),
            rhs: weight.shape().clone(),
            op: "linear",
        }
        .bt());
    };
    *last = outputs;
    let rows = xs.reshape(((), inputs))?;
    let ys = match bias {
        Some(bias) if fusible(xs, &[weight, bias]) => {
            rows.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)?
        }
        None if fusible(xs, &[weight]) => {
            rows.contiguous()?.apply_op2(&weight.contiguous()?, Linear)?
        }
        Some(_) | None => {
            let ys = rows.matmul(&weight.to_dtype(xs.dtype())?.t()?)?;
            match bias {
                Some(bias) => ys.broadcast_add(&bias.to_dtype(xs.dtype())?)?,
                None => ys,
            }
        }
    };
    ys.reshape(shape)
}

struct Linear;

impl Linear {
    fn product(
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(Vec<f32>, Shape)> {
        let (rows, inputs) = xs_layout.shape().dims2()?;
        let (outputs, _) = weight_layout.shape().dims2()?;
        let sizes = (1, rows, outputs, inputs);
        let transposed = weight_layout.transpose(0, 1)?;
        let ys = xs.matmul(weight, sizes, xs_layout, &transposed)?;
        let dtype = ys.dtype();
        let CpuStorage::F32(ys) = ys else {
            return Err(Error::UnsupportedDTypeForOp(dtype, "linear").bt());
        };
        Ok((ys, Shape::from((rows, outputs))))
    }

    fn gradients(xs: &Tensor, weight: &Tensor, grads: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let dxs = if xs.track_op() {
            Some(grads.matmul(&weight.detach().to_dtype(grads.dtype())?)?)
        } else {
            None
        };
        let dweight = if weight.track_op() {
            let gradient = grads.t()?.matmul(&xs.detach())?.to_dtype(weight.dtype())?;
            hand_over(weight, gradient)?
        } else {
            None
        };
        Ok([dxs, dweight])
    }
}

/// Sums `[rows, columns]` over its rows, in an order that does not depend on the threads.
fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let add = |sums: &mut [f32], row: &[f32]| {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    };
    let partial: Vec<Vec<f32>> = values
        .par_chunks(ROWS_PER_TASK * columns)
        .map(|rows| {
            let mut sums = vec![0.0; columns];
            vectorised(
                #[inline(always)]
                || rows.chunks_exact(columns).for_each(|row| add(&mut sums, row)),
            );
            sums
        })
        .collect();
    let mut sums = vec![0.0; columns];
    partial.iter().for_each(|rows| add(&mut sums, rows));
    sums
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (ys, shape) = Self::product(xs, xs_layout, weight, weight_layout)?;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        card::linear((xs, xs_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grads: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dxs, dweight] = Self::gradients(xs, weight, &grads.contiguous()?)?;
        Ok((dxs, dweight))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut ys, shape) = Self::product(xs, xs_layout, weight, weight_layout)?;
        let bias = f32s(bias, bias_layout)?;
        let (_, outputs) = shape.dims2()?;
        if bias.len() != outputs || outputs == 0 {
            let got = bias.len();
            return Err(Error::Msg(format!("a bias of {got} for {outputs} outputs")).bt());
        }
        ys.par_chunks_mut(ROWS_PER_TASK * outputs).for_each(|rows| {
            vectorised(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(outputs) {
                        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                    }
                },
            );
        });
        Ok((CpuStorage::F32(ys), shape))
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        card::linear((xs, xs_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grads: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grads = grads.contiguous()?;
        let [dxs, dweight] = Self::gradients(xs, weight, &grads)?;
        let dbias = if bias.track_op() && bias.device().is_cuda() {
            hand_over(bias, card::column_sums(&grads)?)?
        } else if bias.track_op() {
            let outputs = bias.elem_count();
            let sums = with_f32s(&grads, |grads| Ok(column_sums(grads, outputs)))?;
            Some(Tensor::from_vec(sums, bias.shape(), bias.device())?)
        } else {
            None
        };
        Ok((dxs, dweight, dbias))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradients::check;
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn linear_agrees_with_basic_operations_and_finite_differences() {
        let shapes: [&[usize]; 3] = [&[3, 23, 6], &[5, 6], &[5]];
        check(&shapes, |xs| linear(&xs[0], &xs[1], Some(&xs[2])));
        check(&shapes[..2], |xs| linear(&xs[0], &xs[1], None));
    }

    #[test]
    fn linear_takes_views_and_leaves_untracked_arguments_alone() {
        check(&[&[6, 4], &[5, 6]], |xs| linear(&xs[0].t()?, &xs[1], None));
        let input = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let weight = Var::ones((4, 3), DType::F32, &Device::Cpu).unwrap();
        let loss = linear(&input, weight.as_tensor(), None).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        assert!(grads.get(&input).is_none());
        assert_eq!(grads.get(&weight).unwrap().to_vec2::<f32>().unwrap(), [[2.0; 3]; 4]);
    }

    #[test]
    fn linear_refuses_sizes_that_do_not_fit() {
        let cpu = Device::Cpu;
        let xs = Tensor::zeros((2, 3), DType::F32, &cpu).unwrap();
        let weight = Tensor::zeros((4, 5), DType::F32, &cpu).unwrap();
        assert!(linear(&xs, &weight, None).is_err());
        let weight = Tensor::zeros((4, 3), DType::F32, &cpu).unwrap();
        let bias = Tensor::zeros(3, DType::F32, &cpu).unwrap();
        assert!(linear(&xs, &weight, Some(&bias)).is_err());
    }
}
