//! The test of every operation: fused f32 against basic f64, and that against finite differences. Where this is
//! built for CUDA and a card is there, the card's f32 and bf16 against basic f64 as well.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::device::{DeviceChoice, open};

/// Deterministic values in about [-2, 2], different for every argument.
pub(super) fn values(shape: &[usize], seed: usize) -> Vec<f64> {
    (0..shape.iter().product())
        .map(|i: usize| {
            let hash = (i * 7 + seed * 13 + 1).wrapping_mul(2_654_435_761) % 10_007;
            hash as f64 / 10_007.0 * 4.0 - 2.0
        })
        .collect()
}

fn arguments(shapes: &[&[usize]], dtype: DType, device: &Device) -> Vec<Var> {
    shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let tensor = Tensor::from_vec(values(shape, i), *shape, &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap().to_device(device).unwrap()).unwrap()
        })
        .collect()
}

/// A loss in which every element of the output has a weight of its own.
fn loss(output: &Tensor) -> Tensor {
    let weights =
        Tensor::from_vec(values(output.dims(), 99), output.shape(), output.device()).unwrap();
    // Sums of bf16 would hide what is looked for.
    let wide = if output.dtype() == DType::BF16 { DType::F32 } else { output.dtype() };
    (output.to_dtype(wide).unwrap() * weights.to_dtype(wide).unwrap()).unwrap().sum_all().unwrap()
}

fn run(
    shapes: &[&[usize]],
    (dtype, device): (DType, &Device),
    op: &impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let vars = arguments(shapes, dtype, device);
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let output = op(&tensors).unwrap();
    let grads = loss(&output).backward().unwrap();
    let flat = |t: &Tensor| {
        t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let grads = vars
        .iter()
        .enumerate()
        .map(|(i, v)| flat(grads.get(v).unwrap_or_else(|| panic!("argument {i} got no gradient"))))
        .collect();
    (flat(&output), grads)
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * scale, "{what}[{i}] is {g}, not {w} (scale {scale})");
    }
}

/// Checks forward and the gradient of every argument of `op`.
pub(super) fn check(shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (basic, basic_grads) = run(shapes, (DType::F64, &Device::Cpu), &op);
    let compare = |kind: (DType, &Device), tolerance: f64| {
        let (fused, fused_grads) = run(shapes, kind, &op);
        let what = format!("{:?} on {:?}", kind.0, kind.1.location());
        assert_close(&fused, &basic, tolerance, &format!("forward in {what}"));
        for (i, (fused, basic)) in fused_grads.iter().zip(&basic_grads).enumerate() {
            let what = format!("gradient of argument {i} in {what}");
            assert_close(fused, basic, 2.5 * tolerance, &what);
        }
    };
    compare((DType::F32, &Device::Cpu), 2e-6);
    if let (card @ Device::Cuda(_), _) = open(DeviceChoice::Auto) {
        compare((DType::F32, &card), 8e-6);
        compare((DType::BF16, &card), 2e-2);
    }
    let step = 1e-5;
    for (i, shape) in shapes.iter().enumerate() {
        let mut estimates = Vec::new();
        for element in 0..shape.iter().product() {
            let shifted = |by: f64| {
                let tensors: Vec<Tensor> = shapes
                    .iter()
                    .enumerate()
                    .map(|(j, shape)| {
                        let mut values = values(shape, j);
                        if j == i {
                            values[element] += by;
                        }
                        Tensor::from_vec(values, *shape, &Device::Cpu).unwrap()
                    })
                    .collect();
                loss(&op(&tensors).unwrap()).to_scalar::<f64>().unwrap()
            };
            estimates.push((shifted(step) - shifted(-step)) / (2.0 * step));
        }
        // candle's own gelu_erf backward writes its constants with six digits.
        assert_close(&basic_grads[i], &estimates, 3e-6, &format!("finite difference of {i}"));
    }
}
