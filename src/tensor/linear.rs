use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor,
};
use rayon::prelude::*;

use super::backward::hand_over;
use super::buffer::{ROWS_PER_TASK, f32s, fusible, on_cpu, with_f32s};
use super::card;
use super::lean::{Matrix, Rounded};
use super::simd::vectorised;

/// `xs weight^T + bias`. xs: `[.., inputs]`; weight: `[outputs, inputs]` as PyTorch stores it;
/// bias: `[outputs]`. The result is of the type of xs, whatever the others are. Gradients are computed only for the arguments that are tracked, so a frozen
/// input costs nothing.
///
/// With `rounded`, both sides of every product in f32 on a CPU are rounded to bfloat16, and so are those of its gradients; sums stay in
/// f32.
///
/// # Errors
/// When the sizes do not fit.
pub fn linear(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rounded: Option<Rounded>,
) -> Result<Tensor> {
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
        Some(bias) if fusible(xs, &[weight, bias]) => rows.contiguous()?.apply_op3(
            &weight.contiguous()?,
            &bias.contiguous()?,
            Linear { rounded },
        )?,
        None if fusible(xs, &[weight]) => {
            rows.contiguous()?.apply_op2(&weight.contiguous()?, Linear { rounded })?
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

pub(super) struct Linear {
    pub(super) rounded: Option<Rounded>,
}

impl Linear {
    fn product(
        &self,
        (xs, xs_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Shape)> {
        let (rows, inputs) = xs_layout.shape().dims2()?;
        let (outputs, _) = weight_layout.shape().dims2()?;
        if let Some(bias) = bias
            && (bias.len() != outputs || outputs == 0)
        {
            let got = bias.len();
            return Err(Error::Msg(format!("a bias of {got} for {outputs} outputs")).bt());
        }
        let shape = Shape::from((rows, outputs));
        if let Some(rounded) = self.rounded.filter(|_| inputs > 0) {
            let left = Matrix::AsIs(f32s(xs, xs_layout)?);
            let right = Matrix::Turned(f32s(weight, weight_layout)?);
            let ys = rounded.product([rows, inputs, outputs], left, right, bias);
            return Ok((ys, shape));
        }
        let sizes = (1, rows, outputs, inputs);
        let transposed = weight_layout.transpose(0, 1)?;
        let ys = xs.matmul(weight, sizes, xs_layout, &transposed)?;
        let dtype = ys.dtype();
        let CpuStorage::F32(mut ys) = ys else {
            return Err(Error::UnsupportedDTypeForOp(dtype, "linear").bt());
        };
        if let Some(bias) = bias {
            add_to_rows(&mut ys, bias);
        }
        Ok((ys, shape))
    }

    /// `xs weight^T + bias` of tensors on a CPU, `[rows, outputs]`.
    pub(super) fn values(&self, xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Vec<f32>> {
        let guards = [xs.storage_and_layout(), weight.storage_and_layout()];
        let [(Storage::Cpu(xs), xs_layout), (Storage::Cpu(weight), weight_layout)] =
            guards.each_ref().map(|(storage, layout)| (&**storage, *layout))
        else {
            return Err(Error::Msg("a product on the CPU needs tensors there".to_owned()).bt());
        };
        with_f32s(bias, |bias| {
            let (ys, _) = self.product((xs, xs_layout), (weight, weight_layout), Some(bias))?;
            Ok(ys)
        })
    }

    /// The gradient of what goes in. grads: `[rows, outputs]`.
    pub(super) fn of_inputs(&self, weight: &Tensor, grads: &Tensor) -> Result<Tensor> {
        let ((rows, outputs), (_, inputs)) = (grads.dims2()?, weight.dims2()?);
        match self.rounded.filter(|_| outputs > 0 && on_cpu(&[weight, grads])) {
            Some(rounded) => {
                let sizes = [rows, outputs, inputs];
                rounded_product(rounded, sizes, (grads, |values| Matrix::AsIs(values)), weight)
            }
            None => grads.matmul(&weight.detach().to_dtype(grads.dtype())?),
        }
    }

    /// The gradient of the weight, of the type of grads.
    pub(super) fn of_weight(&self, xs: &Tensor, grads: &Tensor) -> Result<Tensor> {
        let ((rows, outputs), (_, inputs)) = (grads.dims2()?, xs.dims2()?);
        match self.rounded.filter(|_| rows > 0 && on_cpu(&[xs, grads])) {
            Some(rounded) => {
                let sizes = [outputs, rows, inputs];
                rounded_product(rounded, sizes, (grads, |values| Matrix::Turned(values)), xs)
            }
            None => grads.t()?.matmul(&xs.detach()),
        }
    }

    /// The gradient of the bias, on a CPU.
    pub(super) fn of_bias(grads: &Tensor) -> Result<Tensor> {
        let outputs = grads.dim(1)?;
        let sums = with_f32s(grads, |grads| Ok(column_sums(grads, outputs)))?;
        Tensor::from_vec(sums, outputs, grads.device())
    }

    fn gradients(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        grads: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let dxs = xs.track_op().then(|| self.of_inputs(weight, grads)).transpose()?;
        let dweight = if weight.track_op() {
            hand_over(weight, self.of_weight(xs, grads)?.to_dtype(weight.dtype())?)?
        } else {
            None
        };
        Ok([dxs, dweight])
    }
}

/// [`Rounded::product`] of two tensors, the left one as it is said to lie.
fn rounded_product(
    rounded: Rounded,
    sizes: [usize; 3],
    (left, lies): (&Tensor, fn(&[f32]) -> Matrix<'_>),
    right: &Tensor,
) -> Result<Tensor> {
    let (left, right) = (left.contiguous()?, right.contiguous()?);
    let product = |right: &[f32]| {
        with_f32s(&left, |left| Ok(rounded.product(sizes, lies(left), Matrix::AsIs(right), None)))
    };
    let [rows, _, columns] = sizes;
    Tensor::from_vec(with_f32s(&right, product)?, (rows, columns), left.device())
}

/// Adds a vector to every row of `[rows, columns]`.
fn add_to_rows(rows: &mut [f32], vector: &[f32]) {
    rows.par_chunks_mut(ROWS_PER_TASK * vector.len()).for_each(|rows| {
        vectorised(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(vector.len()) {
                    row.iter_mut().zip(vector).for_each(|(value, more)| *value += more);
                }
            },
        );
    });
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
        let (ys, shape) = self.product((xs, xs_layout), (weight, weight_layout), None)?;
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
        let [dxs, dweight] = self.gradients(xs, weight, &grads.contiguous()?)?;
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
        let bias = f32s(bias, bias_layout)?;
        let weight = (weight, weight_layout);
        let (ys, shape) = self.product((xs, xs_layout), weight, Some(bias))?;
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
        let [dxs, dweight] = self.gradients(xs, weight, &grads)?;
        let dbias = if bias.track_op() && bias.device().is_cuda() {
            hand_over(bias, card::column_sums(&grads)?)?
        } else if bias.track_op() {
            Some(Self::of_bias(&grads)?)
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
        check(&shapes, |xs| linear(&xs[0], &xs[1], Some(&xs[2]), None));
        check(&shapes[..2], |xs| linear(&xs[0], &xs[1], None, None));
    }

    #[test]
    fn linear_takes_views_and_leaves_untracked_arguments_alone() {
        check(&[&[6, 4], &[5, 6]], |xs| linear(&xs[0].t()?, &xs[1], None, None));
        let input = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let weight = Var::ones((4, 3), DType::F32, &Device::Cpu).unwrap();
        let loss = linear(&input, weight.as_tensor(), None, None).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        assert!(grads.get(&input).is_none());
        assert_eq!(grads.get(&weight).unwrap().to_vec2::<f32>().unwrap(), [[2.0; 3]; 4]);
    }

    #[test]
    fn linear_refuses_sizes_that_do_not_fit() {
        let cpu = Device::Cpu;
        let xs = Tensor::zeros((2, 3), DType::F32, &cpu).unwrap();
        let weight = Tensor::zeros((4, 5), DType::F32, &cpu).unwrap();
        assert!(linear(&xs, &weight, None, None).is_err());
        let weight = Tensor::zeros((4, 3), DType::F32, &cpu).unwrap();
        let bias = Tensor::zeros(3, DType::F32, &cpu).unwrap();
        assert!(linear(&xs, &weight, Some(&bias), None).is_err());
    }
}
