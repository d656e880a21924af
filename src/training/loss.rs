use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::log_softmax;

/// Identity loss: cross-entropy over cosines to one learned direction a class, the right class's
/// cosine lowered by `margin` (CosFace, Wang et al., 2018).
/// embeddings: [batch, dim], unit rows; classes: [classes, dim], unit rows; labels: [batch], u32.
///
/// # Errors
/// What candle reports.
pub fn cosface(
    embeddings: &Tensor,
    classes: &Tensor,
    labels: &Tensor,
    scale: f64,
    margin: f64,
) -> Result<Tensor> {
    let cosines = embeddings.matmul(&classes.t()?)?;
    let right = one_hot(labels, classes.dim(0)?)?;
    let logits = ((cosines - (&right * margin)?)? * scale)?;
    let log = log_softmax(&logits, D::Minus1)?;
    (log * right)?.sum_all()?.neg()? / labels.elem_count() as f64
}

/// Image-text InfoNCE where several prompts may be true of a picture and several pictures of a prompt:
/// each side's target is spread evenly over its matches (with one match a row this is CLIP's loss).
/// images: [batch, dim] and texts: [prompts, dim], unit rows; matches: [batch, prompts] of 0 and 1;
/// scale: scalar, the factor on the cosines.
///
/// # Errors
/// What candle reports.
pub fn matching_info_nce(
    images: &Tensor,
    texts: &Tensor,
    matches: &Tensor,
    scale: &Tensor,
) -> Result<Tensor> {
    let logits = images.matmul(&texts.t()?)?.broadcast_mul(scale)?;
    let one_way = |logits: &Tensor, matches: &Tensor| -> Result<Tensor> {
        let count = matches.sum_keepdim(D::Minus1)?;
        // A row without a match has nothing to be drawn to and is left out.
        let rows = count.gt(0.0)?.to_dtype(DType::F32)?;
        let target = matches.broadcast_div(&count.maximum(1.0)?)?;
        let loss = (log_softmax(logits, D::Minus1)? * target)?.sum_all()?.neg()?;
        loss / rows.sum_all()?.to_scalar::<f32>().map(|n| f64::from(n.max(1.0)))?
    };
    let there = one_way(&logits, matches)?;
    let back = one_way(&logits.t()?.contiguous()?, &matches.t()?.contiguous()?)?;
    (there + back)? * 0.5
}

fn one_hot(labels: &Tensor, classes: usize) -> Result<Tensor> {
    let labels = labels.to_vec1::<u32>()?;
    let mut values = vec![0.0_f32; labels.len() * classes];
    for (row, label) in labels.iter().enumerate() {
        if *label as usize >= classes {
            candle_core::bail!("label {label} of {classes} classes");
        }
        values[row * classes + *label as usize] = 1.0;
    }
    Tensor::from_vec(values, (labels.len(), classes), &candle_core::Device::Cpu)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn scalar(t: &Tensor) -> f32 {
        t.to_scalar().unwrap()
    }

    #[test]
    fn the_identity_loss_is_the_one_worked_by_hand() {
        let x = Tensor::new(&[[1.0_f32, 0.0]], &Device::Cpu).unwrap();
        let w = Tensor::new(&[[1.0_f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let y = Tensor::new(&[0_u32], &Device::Cpu).unwrap();
        // logits 2 * (1 - 0.5, 0): ln(1 + e^-1)
        let loss = scalar(&cosface(&x, &w, &y, 2.0, 0.5).unwrap());
        assert!((loss - 0.313_261_7).abs() < 1e-6, "{loss}");
        let wrong = Tensor::new(&[2_u32], &Device::Cpu).unwrap();
        assert!(cosface(&x, &w, &wrong, 2.0, 0.5).is_err());
    }

    #[test]
    fn with_one_match_a_row_the_loss_is_that_of_clip() {
        let x = Tensor::new(&[[1.0_f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let matches = Tensor::eye(2, DType::F32, &Device::Cpu).unwrap();
        let scale = Tensor::new(3.0_f32, &Device::Cpu).unwrap();
        // Both ways -ln(e^3 / (e^3 + 1)).
        let loss = scalar(&matching_info_nce(&x, &x, &matches, &scale).unwrap());
        assert!((loss - 0.048_587_35).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn a_prompt_true_of_all_draws_none_away() {
        let x = Tensor::new(&[[1.0_f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[0.6_f32, 0.8]], &Device::Cpu).unwrap();
        let matches = Tensor::ones((2, 1), DType::F32, &Device::Cpu).unwrap();
        let scale = Tensor::new(1.0_f32, &Device::Cpu).unwrap();
        // Images to the only text: 0. Text to two images at cosines 0.6 and 0.8:
        // ln(e^0.6 + e^0.8) - 0.7 = 0.698138..., halved.
        let loss = scalar(&matching_info_nce(&x, &t, &matches, &scale).unwrap());
        assert!((loss - 0.349_070_9).abs() < 1e-5, "{loss}");
        let none = Tensor::zeros((2, 1), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(scalar(&matching_info_nce(&x, &t, &none, &scale).unwrap()), 0.0);
    }

    #[test]
    fn both_losses_have_the_right_slope() {
        let values: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).sin()).collect();
        let x = Tensor::from_vec(values, (4, 3), &Device::Cpu).unwrap();
        let other = Tensor::new(&[[0.6_f32, 0.8, 0.0], [0.0, 0.6, -0.8]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0_u32, 1, 1, 0], &Device::Cpu).unwrap();
        let matches =
            Tensor::new(&[[1.0_f32, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], &Device::Cpu)
                .unwrap();
        let scale = Tensor::new(2.0_f32, &Device::Cpu).unwrap();
        let losses: [&dyn Fn(&Tensor) -> Tensor; 2] =
            [&|x| cosface(x, &other, &labels, 4.0, 0.2).unwrap(), &|x| {
                matching_info_nce(x, &other, &matches, &scale).unwrap()
            }];
        for loss in losses {
            let var = Var::from_tensor(&x).unwrap();
            let grads = loss(var.as_tensor()).backward().unwrap();
            let grad = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let base = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..base.len() {
                let moved = |by: f32| {
                    let mut values = base.clone();
                    values[i] += by;
                    scalar(&loss(&Tensor::from_vec(values, (4, 3), &Device::Cpu).unwrap()))
                };
                let want = (moved(0.01) - moved(-0.01)) / 0.02;
                assert!((grad[i] - want).abs() < 2e-3, "{i}: {} and {want}", grad[i]);
            }
        }
    }
}
