//! Losses over identities: what pulls pictures of one hand together and pushes others away.
//! All take `[batch, dim]` features and a label for each row.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::log_softmax;

/// Cross-entropy with label smoothing: the target is `1 - smoothing` for the right class and `smoothing`
/// spread evenly over all classes, the right one included (as torch's `CrossEntropyLoss`).
/// logits: `[batch, classes]`.
///
/// # Errors
/// What candle reports.
pub fn smoothed_cross_entropy(logits: &Tensor, labels: &[u32], smoothing: f64) -> Result<Tensor> {
    let log = log_softmax(logits, D::Minus1)?;
    let index = column(labels, logits)?;
    let right = log.gather(&index, 1)?.mean_all()?.neg()?;
    let even = log.mean_all()?.neg()?;
    (right * (1.0 - smoothing))? + (even * smoothing)?
}

/// How far a triplet's negative must lie beyond its positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// At least so far; triplets beyond it cost nothing.
    Hard(f64),
    /// The farther the better: `ln(1 + exp(positive - negative))`.
    Soft,
}

/// Batch-hard triplet loss (Hermans et al., 2017): for every row its farthest mate and its closest
/// stranger, by Euclidean distance. Rows without a mate or without a stranger are left out.
///
/// # Errors
/// What candle reports.
pub fn batch_hard_triplet(features: &Tensor, labels: &[u32], margin: Margin) -> Result<Tensor> {
    let n = labels.len();
    let distances = distances(features)?;
    let plain: Vec<Vec<f32>> = distances.detach().to_dtype(DType::F32)?.to_vec2()?;
    let hardest = |anchor: usize| {
        let row = &plain[anchor];
        let mates = (0..n).filter(|at| *at != anchor && labels[*at] == labels[anchor]);
        let strangers = (0..n).filter(|at| labels[*at] != labels[anchor]);
        let farthest = mates.max_by(|a, b| row[*a].total_cmp(&row[*b]))?;
        let closest = strangers.min_by(|a, b| row[*a].total_cmp(&row[*b]))?;
        Some((anchor, farthest, closest))
    };
    let triplets: Vec<(usize, usize, usize)> = (0..n).filter_map(hardest).collect();
    if triplets.is_empty() {
        return (features.sum_all()? * 0.0)?.to_dtype(DType::F32);
    }
    let pick = |of: fn(&(usize, usize, usize)) -> usize| -> Result<Tensor> {
        let at: Vec<u32> = triplets.iter().map(|t| (t.0 * n + of(t)) as u32).collect();
        let at = Tensor::from_vec(at, triplets.len(), features.device())?;
        distances.flatten_all()?.index_select(&at, 0)
    };
    let excess = (pick(|t| t.1)? - pick(|t| t.2)?)?;
    match margin {
        Margin::Hard(margin) => (excess + margin)?.relu()?.mean_all(),
        Margin::Soft => softplus(&excess)?.mean_all(),
    }
}

/// `[batch, batch]` Euclidean distances. The square root's slope at 0 is infinite: there the distance
/// is held at a millionth and gets no gradient.
fn distances(features: &Tensor) -> Result<Tensor> {
    let square = features.sqr()?.sum_keepdim(1)?;
    let products = features.matmul(&features.t()?)?;
    let squares = square.broadcast_add(&square.t()?)?.sub(&(products * 2.0)?)?;
    squares.maximum(1e-12)?.sqrt()
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let tail = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    x.relu()? + tail
}

/// A margin between classes on the unit sphere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AngularMargin {
    /// `cos(angle + margin)` for the right class (ArcFace, Deng et al., 2019).
    Arc(f64),
    /// `cos(angle) - margin` for the right class (CosFace, Wang et al., 2018).
    Cos(f64),
}

/// Cross-entropy over `scale` times the cosines with the classes' directions, the right class's reduced by a
/// margin. features: `[batch, dim]` and directions: `[classes, dim]`, both of unit rows.
///
/// # Errors
/// What candle reports.
pub fn margin_cross_entropy(
    features: &Tensor,
    directions: &Tensor,
    labels: &[u32],
    margin: AngularMargin,
    scale: f64,
) -> Result<Tensor> {
    let cosines = features.matmul(&directions.t()?)?;
    let index = column(labels, &cosines)?;
    let right = cosines.gather(&index, 1)?;
    let reduced = match margin {
        AngularMargin::Cos(margin) => (&right - margin)?,
        AngularMargin::Arc(margin) => past_angle(&right, margin)?,
    };
    let classes = cosines.dim(1)?;
    let one_hot = Tensor::arange(0_u32, classes as u32, cosines.device())?
        .reshape((1, classes))?
        .broadcast_eq(&index)?
        .to_dtype(cosines.dtype())?;
    let change = one_hot.broadcast_mul(&(reduced - right)?)?;
    smoothed_cross_entropy(&((cosines + change)? * scale)?, labels, 0.0)
}

/// `cos(angle + margin)` of a cosine; beyond `pi - margin`, where that would rise again, the cosine less
/// `margin * sin(margin)`, as the reference code of ArcFace has it.
fn past_angle(cosine: &Tensor, margin: f64) -> Result<Tensor> {
    // Held off 1, where the sine's slope is infinite.
    let sine = (1.0 - cosine.sqr()?)?.maximum(1e-12)?.sqrt()?;
    let moved = ((cosine * margin.cos())? - (sine * margin.sin())?)?;
    let beyond = (cosine - margin * margin.sin())?;
    let turns = cosine.detach().gt((std::f64::consts::PI - margin).cos())?;
    turns.where_cond(&moved, &beyond)
}

/// Center loss (Wen et al., 2016): half the mean squared distance of each row to its class's centre.
/// centres: `[classes, dim]`.
///
/// # Errors
/// What candle reports.
pub fn center_loss(features: &Tensor, centres: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let index = Tensor::new(labels, features.device())?;
    let own = centres.index_select(&index, 0)?;
    (features - own)?.sqr()?.sum(1)?.mean_all()? * 0.5
}

fn column(labels: &[u32], like: &Tensor) -> Result<Tensor> {
    Tensor::new(labels, like.device())?.reshape((labels.len(), 1))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::normalise;

    fn scalar(t: &Tensor) -> f32 {
        t.to_scalar().unwrap()
    }

    fn close(got: f32, want: f32) {
        assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} and {want}");
    }

    fn wave(rows: usize, columns: usize, pace: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * pace).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn smoothing_spreads_the_target_over_all_classes() {
        let logits = Tensor::new(&[[2.0_f32, 0.0, -1.0]], &Device::Cpu).unwrap();
        let total = (2.0_f32.exp() + 1.0 + (-1.0_f32).exp()).ln();
        let plain = total - 2.0;
        let even = total - 1.0 / 3.0;
        close(scalar(&smoothed_cross_entropy(&logits, &[0], 0.0).unwrap()), plain);
        let want = 0.9 * plain + 0.1 * even;
        close(scalar(&smoothed_cross_entropy(&logits, &[0], 0.1).unwrap()), want);
    }

    #[test]
    fn the_triplet_takes_the_farthest_mate_and_the_closest_stranger() {
        // On a line: hand 0 at 0, 1 and 4; hand 1 at 6 and 7.
        let x = Tensor::new(&[[0.0_f32], [1.0], [4.0], [6.0], [7.0]], &Device::Cpu).unwrap();
        let labels = [0, 0, 0, 1, 1];
        // Farthest mates 4, 3, 4, 1, 1; closest strangers 6, 5, 2, 2, 3.
        let hard = batch_hard_triplet(&x, &labels, Margin::Hard(0.5)).unwrap();
        close(scalar(&hard), 2.5 / 5.0);
        let soft = batch_hard_triplet(&x, &labels, Margin::Soft).unwrap();
        let terms = [-2.0_f32, -2.0, 2.0, -1.0, -2.0].map(|d| d.exp().ln_1p());
        close(scalar(&soft), terms.iter().sum::<f32>() / 5.0);
        let alone = batch_hard_triplet(&x, &[0, 1, 2, 3, 4], Margin::Hard(0.5)).unwrap();
        close(scalar(&alone), 0.0);
    }

    #[test]
    fn identical_pictures_give_the_triplet_no_infinite_gradient() {
        let var = Var::ones((4, 3), DType::F32, &Device::Cpu).unwrap();
        let loss = batch_hard_triplet(var.as_tensor(), &[0, 0, 1, 1], Margin::Soft).unwrap();
        let grads = loss.backward().unwrap();
        let grad = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    }

    #[test]
    fn margins_make_the_right_class_harder_by_an_angle_or_by_a_cosine() {
        let angle = 0.6_f32;
        let x = Tensor::new(&[[angle.cos(), angle.sin()]], &Device::Cpu).unwrap();
        let directions = Tensor::eye(2, DType::F32, &Device::Cpu).unwrap();
        let loss =
            |margin| scalar(&margin_cross_entropy(&x, &directions, &[0], margin, 8.0).unwrap());
        let want = |right: f32| (8.0 * (angle.sin() - right)).exp().ln_1p();
        close(loss(AngularMargin::Arc(0.5)), want((angle + 0.5).cos()));
        close(loss(AngularMargin::Cos(0.35)), want(angle.cos() - 0.35));
        close(loss(AngularMargin::Cos(0.0)), want(angle.cos()));
        // Past pi - margin the loss must go on growing with the angle.
        let far = |angle: f32| {
            let x = Tensor::new(&[[angle.cos(), angle.sin()]], &Device::Cpu).unwrap();
            let only = directions.narrow(0, 0, 1).unwrap();
            let both = Tensor::cat(&[&only, &only.neg().unwrap()], 0).unwrap();
            scalar(&margin_cross_entropy(&x, &both, &[0], AngularMargin::Arc(0.5), 1.0).unwrap())
        };
        assert!(far(2.9) > far(2.7) && far(2.7) > far(2.5));
    }

    #[test]
    fn the_center_loss_is_half_the_squared_distance() {
        let x = Tensor::new(&[[1.0_f32, 0.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        let centres = Tensor::new(&[[0.0_f32, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
        // Squared distances 1 (to class 0) and 2 (to class 1).
        close(scalar(&center_loss(&x, &centres, &[0, 1]).unwrap()), 0.75);
    }

    #[test]
    fn every_loss_has_the_slope_that_finite_differences_give() {
        let labels = [0_u32, 1, 0, 2, 1, 2];
        let unit = |t: &Tensor| normalise(t).unwrap();
        type Loss<'a> = &'a dyn Fn(&Tensor, &Tensor) -> Tensor;
        let margin = |x: &Tensor, w: &Tensor, margin| {
            margin_cross_entropy(&unit(x), &unit(w), &labels, margin, 6.0).unwrap()
        };
        let losses: [(&str, Loss<'_>, bool); 6] = [
            (
                "cross-entropy",
                &|x, w| {
                    let logits = x.matmul(&w.t().unwrap()).unwrap();
                    smoothed_cross_entropy(&logits, &labels, 0.1).unwrap()
                },
                true,
            ),
            ("arc", &|x, w| margin(x, w, AngularMargin::Arc(0.4)), true),
            ("cos", &|x, w| margin(x, w, AngularMargin::Cos(0.3)), true),
            ("center", &|x, w| center_loss(x, w, &labels).unwrap(), true),
            ("hard", &|x, _| batch_hard_triplet(x, &labels, Margin::Hard(3.0)).unwrap(), false),
            ("soft", &|x, _| batch_hard_triplet(x, &labels, Margin::Soft).unwrap(), false),
        ];
        for (name, loss, has_weights) in losses {
            let x = Var::from_tensor(&wave(6, 4, 0.9)).unwrap();
            let w = Var::from_tensor(&wave(3, 4, 1.7)).unwrap();
            let grads = loss(x.as_tensor(), w.as_tensor()).backward().unwrap();
            let mut vars = vec![&x];
            if has_weights {
                vars.push(&w);
            }
            for var in vars {
                let grad = grads.get(var).unwrap_or_else(|| panic!("{name}: no gradient"));
                let grad = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(grad.iter().any(|g| g.abs() > 1e-3), "{name}: no slope at all");
                let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (at, expected) in grad.iter().enumerate() {
                    let moved = |by: f32| {
                        let mut values = start.clone();
                        values[at] += by;
                        let values = Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap();
                        var.set(&values).unwrap();
                        scalar(&loss(x.as_tensor(), w.as_tensor()))
                    };
                    let slope = (moved(4e-3) - moved(-4e-3)) / 8e-3;
                    moved(0.0);
                    let error = (slope - expected).abs();
                    assert!(
                        error < 2e-3 * expected.abs().max(1.0),
                        "{name} {at}: {expected} and {slope}"
                    );
                }
            }
        }
    }
}
