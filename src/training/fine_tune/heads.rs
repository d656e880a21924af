//! What identity losses need besides the towers. Thrown away after training.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::tensor::normalise;
use crate::training::error::TrainingError;
use crate::training::heads::uniform;
use crate::training::loss::sup_con;
use crate::training::metric::{
    AngularMargin, Margin, batch_hard_triplet, center_loss, margin_cross_entropy,
    smoothed_cross_entropy,
};

use super::recipe::Losses;

/// Added to the variance of a batch norm.
const EPS: f64 = 1e-5;

/// A direction or centre for every class, by the losses that are there.
pub(super) struct IdentityHeads {
    losses: Losses,
    vars: Vec<(&'static str, Var)>,
    /// Text features of the learned prompts of all hands, unit rows, and the factor on their cosines.
    prompts: Option<(Tensor, f64)>,
}

impl IdentityHeads {
    pub(super) fn new(
        losses: &Losses,
        classes: usize,
        dim: usize,
        seed: u64,
        device: &Device,
    ) -> std::result::Result<Self, TrainingError> {
        let mut vars = Vec::new();
        let random = |name: &'static str, bound: f32, salt: u64| {
            Ok::<_, TrainingError>((name, uniform(&[classes, dim], bound, seed ^ salt, device)?))
        };
        if losses.cross_entropy.is_some() {
            // Small, as BNNeck's classifier starts: deviation 0.001.
            vars.push(random("heads.classifier", 0.001 * 3.0_f32.sqrt(), 0xc1a5)?);
            vars.push(("heads.neck", Var::ones(dim, DType::F32, device)?));
        }
        if losses.arc_face.is_some() {
            vars.push(random("heads.arc_face", 1.0, 0xa7c)?);
        }
        if losses.cos_face.is_some() {
            vars.push(random("heads.cos_face", 1.0, 0xc05)?);
        }
        if losses.center.is_some() {
            vars.push(random("heads.centres", (3.0 / dim as f32).sqrt(), 0xce4)?);
        }
        Ok(Self { losses: losses.clone(), vars, prompts: None })
    }

    /// Takes the text features that `image_to_prompt` compares with.
    pub(super) fn compare_with(&mut self, prompts: Tensor, scale: f64) {
        self.prompts = Some((prompts, scale));
    }

    pub(super) fn vars(&self) -> Vec<(String, Var)> {
        self.vars.iter().map(|(name, var)| ((*name).to_owned(), var.clone())).collect()
    }

    fn var(&self, wanted: &str) -> Result<&Tensor> {
        let found = self.vars.iter().find(|(name, _)| *name == wanted);
        found
            .map(|(_, var)| var.as_tensor())
            .ok_or_else(|| candle_core::Error::Msg(format!("there is no {wanted}")))
    }

    /// Weighted losses by name. features: `[batch, dim]` as the tower gives them; unit: the same, of unit
    /// rows, which is what will be compared and what all but the classifier see.
    pub(super) fn losses(
        &self,
        features: &Tensor,
        unit: &Tensor,
        labels: &[u32],
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let mut parts = Vec::new();
        let mut add = |name: &'static str, weight: f64, loss: Tensor| -> Result<()> {
            parts.push((name, (loss * weight)?));
            Ok(())
        };
        if let Some(loss) = &self.losses.cross_entropy {
            let necked = batch_norm(features)?.broadcast_mul(self.var("heads.neck")?)?;
            let logits = necked.matmul(&self.var("heads.classifier")?.t()?)?;
            let part = smoothed_cross_entropy(&logits, labels, loss.smoothing)?;
            add("cross_entropy", loss.weight, part)?;
        }
        if let Some(loss) = &self.losses.triplet {
            let margin = loss.margin.map_or(Margin::Soft, Margin::Hard);
            add("triplet", loss.weight, batch_hard_triplet(unit, labels, margin)?)?;
        }
        if let Some(loss) = &self.losses.sup_con {
            add("sup_con", loss.weight, sup_con(unit, labels, loss.temperature)?)?;
        }
        if let Some(loss) = &self.losses.arc_face {
            let directions = normalise(self.var("heads.arc_face")?)?;
            let margin = AngularMargin::Arc(loss.margin);
            let part = margin_cross_entropy(unit, &directions, labels, margin, loss.scale)?;
            add("arc_face", loss.weight, part)?;
        }
        if let Some(loss) = &self.losses.cos_face {
            let directions = normalise(self.var("heads.cos_face")?)?;
            let margin = AngularMargin::Cos(loss.margin);
            let part = margin_cross_entropy(unit, &directions, labels, margin, loss.scale)?;
            add("cos_face", loss.weight, part)?;
        }
        if let Some(loss) = &self.losses.center {
            add("center", loss.weight, center_loss(unit, self.var("heads.centres")?, labels)?)?;
        }
        if let (Some(loss), Some((prompts, scale))) = (&self.losses.image_to_prompt, &self.prompts)
        {
            let logits = (unit.matmul(&prompts.t()?)? * *scale)?;
            let part = smoothed_cross_entropy(&logits, labels, loss.smoothing)?;
            add("image_to_prompt", loss.weight, part)?;
        }
        Ok(parts)
    }
}

/// Every column brought to mean 0 and deviation 1 over the batch. The test feature is taken before it, so
/// no running statistics are kept.
fn batch_norm(features: &Tensor) -> Result<Tensor> {
    let centred = features.broadcast_sub(&features.mean_keepdim(0)?)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    centred.broadcast_div(&(variance + EPS)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::fine_tune::Recipe;

    const ALL: &str = "[losses.cross_entropy]\n[losses.triplet]\n[losses.sup_con]\n\
        [losses.arc_face]\nweight = 1.0\nmargin = 0.3\nscale = 8.0\n\
        [losses.cos_face]\nweight = 1.0\nmargin = 0.2\nscale = 8.0\n[losses.center]\nweight = 0.5";

    fn features() -> Var {
        let values: Vec<f32> = (0..6 * 5).map(|i| (i as f32 * 1.3).sin()).collect();
        Var::from_tensor(&Tensor::from_vec(values, (6, 5), &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn every_loss_reaches_the_features_and_its_own_head() {
        let losses = Recipe::from_toml(ALL).unwrap().losses;
        let heads = IdentityHeads::new(&losses, 3, 5, 1, &Device::Cpu).unwrap();
        let x = features();
        let unit = normalise(x.as_tensor()).unwrap();
        let parts = heads.losses(x.as_tensor(), &unit, &[0, 0, 1, 1, 2, 2]).unwrap();
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["cross_entropy", "triplet", "sup_con", "arc_face", "cos_face", "center"]
        );
        let mut sum = Tensor::new(0.0_f32, &Device::Cpu).unwrap();
        for (name, part) in parts {
            let grads = part.backward().unwrap();
            let reached = grads.get(&x).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size = reached.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size.is_finite() && size > 0.0, "{name}: {size}");
            sum = (sum + part).unwrap();
        }
        let grads = sum.backward().unwrap();
        for (name, var) in heads.vars() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 0.0, "{name} does not learn");
        }
    }

    #[test]
    fn the_neck_has_mean_0_and_deviation_1() {
        let normed = batch_norm(features().as_tensor()).unwrap();
        let mean = normed.mean(0).unwrap().to_vec1::<f32>().unwrap();
        let square = normed.sqr().unwrap().mean(0).unwrap().to_vec1::<f32>().unwrap();
        assert!(mean.iter().all(|m| m.abs() < 1e-5), "{mean:?}");
        assert!(square.iter().all(|s| (s - 1.0).abs() < 1e-3), "{square:?}");
    }
}
