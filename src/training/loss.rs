use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::log_softmax;

/// Supervised contrastive loss (Khosla et al., 2020): every picture is drawn to the others of its hand
/// and away from the rest of the batch. A picture that is the only one of its hand is left out.
/// embeddings: `[batch, dim]`, unit rows; labels: `[batch]`, the hand of each; cosines are divided by
/// `temperature`.
///
/// # Errors
/// What candle reports.
pub fn sup_con(embeddings: &Tensor, labels: &[u32], temperature: f64) -> Result<Tensor> {
    let n = labels.len();
    let of_pairs = |value: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<f32> = (0..n * n).map(|at| value(at / n, at % n)).collect();
        Tensor::from_vec(values, (n, n), embeddings.device())
    };
    let mates: Vec<f32> = labels
        .iter()
        .map(|label| (labels.iter().filter(|other| *other == label).count() - 1) as f32)
        .collect();
    let target = of_pairs(&|i, j| {
        let mate = i != j && labels[i] == labels[j];
        if mate { 1.0 / mates[i] } else { 0.0 }
    })?;
    // A finite stand-in for minus infinity: 0 times infinity would be no number.
    let not_itself = of_pairs(&|i, j| if i == j { -1e4 } else { 0.0 })?;
    let logits = ((embeddings.matmul(&embeddings.t()?)? / temperature)? + not_itself)?;
    let rows = mates.iter().filter(|count| **count > 0.0).count().max(1);
    (log_softmax(&logits, D::Minus1)? * target)?.sum_all()?.neg()? / rows as f64
}

/// Image-text InfoNCE where several prompts may be true of a picture and several pictures of a prompt:
/// each side's target is spread evenly over its matches (with one match a row this is CLIP's loss).
/// images: `[batch, dim]` and texts: `[prompts, dim]`, unit rows; matches: `[batch, prompts]` of 0 and 1;
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
    let there = spread_cross_entropy(&logits, matches)?;
    let back = spread_cross_entropy(&logits.t()?.contiguous()?, &matches.t()?.contiguous()?)?;
    (there + back)? * 0.5
}

/// Image-text InfoNCE of pictures against prompts that contradict each other: each picture is drawn to
/// the one that is true of it and away from the others. Shapes as for [`matching_info_nce`].
///
/// # Errors
/// What candle reports.
pub fn contradiction_info_nce(
    images: &Tensor,
    texts: &Tensor,
    matches: &Tensor,
    scale: &Tensor,
) -> Result<Tensor> {
    spread_cross_entropy(&images.matmul(&texts.t()?)?.broadcast_mul(scale)?, matches)
}

/// Mean squared error of predicted traits where they are known.
/// predicted: `[batch, traits]`; known: as many values, not a number where unknown.
///
/// # Errors
/// What candle reports.
pub fn trait_error(predicted: &Tensor, known: &[f32]) -> Result<Tensor> {
    let weights: Vec<f32> = known.iter().map(|v| f32::from(u8::from(v.is_finite()))).collect();
    let count = weights.iter().sum::<f32>().max(1.0);
    let values: Vec<f32> = known.iter().map(|v| if v.is_finite() { *v } else { 0.0 }).collect();
    let of = |values| Tensor::from_vec(values, predicted.shape(), predicted.device());
    ((predicted - of(values)?)? * of(weights)?)?.sqr()?.sum_all()? / f64::from(count)
}

/// Cross-entropy of each row of logits with a target spread evenly over the row's matches; a row
/// without a match has nothing to be drawn to and is left out.
fn spread_cross_entropy(logits: &Tensor, matches: &Tensor) -> Result<Tensor> {
    let count = matches.sum_keepdim(D::Minus1)?;
    let rows = count.gt(0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    let target = matches.broadcast_div(&count.maximum(1.0)?)?;
    (log_softmax(logits, D::Minus1)? * target)?.sum_all()?.neg()? / f64::from(rows.max(1.0))
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
        // Three pictures, the first two of one hand, at cosines 0.6 (mates), 0 and 0.8.
        let x = Tensor::new(&[[1.0_f32, 0.0], [0.6, 0.8], [0.0, 1.0]], &Device::Cpu).unwrap();
        // Rows 1 and 2 have a mate: -ln(e^1.2 / (e^1.2 + e^0)) and -ln(e^1.2 / (e^1.2 + e^1.6)).
        let want = ((1.0 + (-1.2_f32).exp()).ln() + (1.0 + 0.4_f32.exp()).ln()) / 2.0;
        let loss = scalar(&sup_con(&x, &[4, 4, 9], 0.5).unwrap());
        assert!((loss - want).abs() < 1e-6, "{loss} and {want}");
        assert_eq!(
            scalar(&sup_con(&x, &[1, 2, 3], 0.5).unwrap()),
            0.0,
            "no mates, nothing to learn"
        );
    }

    #[test]
    fn the_identity_loss_falls_as_mates_draw_near() {
        let at = |angle: f32| {
            let x = [[1.0_f32, 0.0], [angle.cos(), angle.sin()], [-1.0, 0.0], [-1.0, 0.0]];
            scalar(&sup_con(&Tensor::new(&x, &Device::Cpu).unwrap(), &[0, 0, 1, 1], 0.1).unwrap())
        };
        assert!(at(0.1) < at(0.8) && at(0.8) < at(2.5), "{} {} {}", at(0.1), at(0.8), at(2.5));
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
    fn unknown_traits_cost_nothing() {
        let predicted = Tensor::new(&[[1.0_f32, 5.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        // Squares 1, 4 and 1 over three known ones.
        let loss = scalar(&trait_error(&predicted, &[2.0, f32::NAN, 2.0, 1.0]).unwrap());
        assert!((loss - 2.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn contradicting_prompts_give_the_cross_entropy_over_them() {
        let x = Tensor::new(&[[1.0_f32, 0.0], [0.6, 0.8]], &Device::Cpu).unwrap();
        let t = Tensor::eye(2, DType::F32, &Device::Cpu).unwrap();
        let matches = Tensor::new(&[[1.0_f32, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let scale = Tensor::new(2.0_f32, &Device::Cpu).unwrap();
        // ln(1 + e^(0 - 2)) and ln(1 + e^(1.6 - 1.2)).
        let want = ((1.0 + (-2.0_f32).exp()).ln() + (1.0 + 0.4_f32.exp()).ln()) / 2.0;
        let loss = scalar(&contradiction_info_nce(&x, &t, &matches, &scale).unwrap());
        assert!((loss - want).abs() < 1e-6, "{loss} and {want}");
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
    fn the_losses_have_the_right_slope() {
        let values: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).sin()).collect();
        let x = Tensor::from_vec(values, (4, 3), &Device::Cpu).unwrap();
        let other = Tensor::new(&[[0.6_f32, 0.8, 0.0], [0.0, 0.6, -0.8]], &Device::Cpu).unwrap();
        let matches =
            Tensor::new(&[[1.0_f32, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], &Device::Cpu)
                .unwrap();
        let scale = Tensor::new(2.0_f32, &Device::Cpu).unwrap();
        let losses: [&dyn Fn(&Tensor) -> Tensor; 3] = [
            &|x| sup_con(x, &[0, 1, 1, 0], 0.5).unwrap(),
            &|x| matching_info_nce(x, &other, &matches, &scale).unwrap(),
            &|x| contradiction_info_nce(x, &other, &matches, &scale).unwrap(),
        ];
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
