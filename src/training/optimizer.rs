use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;

use super::error::TrainingError;
use super::muon::Muon;

/// Settings of [`AdamW`] that stay the same over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Keeps the division finite.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradients.
    pub clip_norm: f64,
    /// With it, matrices inside the towers' blocks take Muon's steps, this many times the rate long;
    /// without it, AdamW's like all others.
    pub muon: Option<f64>,
    /// What the rate of parameters outside the model (`heads.*`) is multiplied by.
    pub heads: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.05,
            clip_norm: 1.0,
            muon: None,
            heads: 1.0,
        }
    }
}

/// AdamW (Loshchilov and Hutter, 2019) with bias correction. Decay is decoupled and left off biases,
/// norms, embeddings and scales; the global gradient norm is clipped before the step. candle_nn's own
/// neither clips nor lets its state be saved.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    step: u64,
}

#[derive(Debug)]
struct Slot {
    var: Var,
    name: String,
    decays: bool,
    /// What the rate is multiplied by.
    rate: f64,
    state: State,
}

#[derive(Debug)]
enum State {
    Adam { mean: Vec<f32>, square: Vec<f32> },
    Muon(Muon),
}

impl AdamW {
    /// `parameters`: name and variable, f32.
    ///
    /// # Errors
    /// What candle reports.
    pub fn new(parameters: &[(String, Var)], config: AdamWConfig) -> Result<Self, TrainingError> {
        let slot = |(name, var): &(String, Var)| -> candle_core::Result<Slot> {
            let n = var.elem_count();
            let state = if config.muon.is_some() && Muon::moves(name, var) {
                State::Muon(Muon::new(var)?)
            } else {
                State::Adam { mean: vec![0.0; n], square: vec![0.0; n] }
            };
            let rate = if name.starts_with("heads.") { config.heads } else { 1.0 };
            Ok(Slot { var: var.clone(), name: name.clone(), decays: decays(name), rate, state })
        };
        let slots = parameters.iter().map(slot).collect::<candle_core::Result<_>>()?;
        Ok(Self { config, slots, step: 0 })
    }

    /// Multiplies the rate of each parameter by what `by` says of its name.
    pub fn scale_rates(&mut self, by: impl Fn(&str) -> f64) {
        self.slots.iter_mut().for_each(|slot| slot.rate *= by(&slot.name));
    }

    /// Steps taken, and the moments of every parameter that has them, by name.
    #[must_use]
    pub fn state(&self) -> (u64, Vec<(String, &[f32])>) {
        let moments = self.slots.iter().flat_map(|slot| match &slot.state {
            State::Adam { mean, square } => vec![
                (format!("{}.mean", slot.name), mean.as_slice()),
                (format!("{}.square", slot.name), square.as_slice()),
            ],
            State::Muon(_) => Vec::new(),
        });
        (self.step, moments.collect())
    }

    /// Goes on from where [`AdamW::state`] was taken; `moment` gives the values of a name, as many as asked
    /// for.
    ///
    /// # Errors
    /// What `moment` fails with.
    pub fn restore<E>(
        &mut self,
        step: u64,
        mut moment: impl FnMut(&str, usize) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        self.step = step;
        for slot in &mut self.slots {
            if let State::Adam { mean, square } = &mut slot.state {
                *mean = moment(&format!("{}.mean", slot.name), mean.len())?;
                *square = moment(&format!("{}.square", slot.name), square.len())?;
            }
        }
        Ok(())
    }

    /// One step at `rate`. Parameters without a gradient stay as they are. Gives the norm of the
    /// gradients before clipping.
    ///
    /// # Errors
    /// What candle reports.
    pub fn step(&mut self, grads: &GradStore, rate: f64) -> Result<f64, TrainingError> {
        let grads: Vec<Option<&Tensor>> =
            self.slots.iter().map(|slot| grads.get(&slot.var)).collect();
        let flats = grads
            .iter()
            .map(|grad| grad.map(flat).transpose())
            .collect::<Result<Vec<Option<Vec<f32>>>, _>>()?;
        let square: f64 = flats
            .par_iter()
            .flatten()
            .map(|g| g.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>())
            .collect::<Vec<_>>()
            .iter()
            .sum();
        let norm = square.sqrt();
        let scale = if norm > self.config.clip_norm { self.config.clip_norm / norm } else { 1.0 };
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let (c1, c2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        let (b1, b2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
        let root2 = (1.0 / c2.sqrt()) as f32;
        for ((slot, grad), flat_grad) in self.slots.iter_mut().zip(grads).zip(flats) {
            let (Some(grad), Some(flat_grad)) = (grad, flat_grad) else { continue };
            let decay = if slot.decays { weight_decay } else { 0.0 };
            let (mean, square) = match &mut slot.state {
                State::Muon(muon) => {
                    let rate = rate * slot.rate * self.config.muon.unwrap_or(1.0);
                    muon.step(&slot.var, grad, scale, rate, decay)?;
                    continue;
                }
                State::Adam { mean, square } => (mean, square),
            };
            let rate = rate * slot.rate;
            let (rate1, keep) = ((rate / c1) as f32, (1.0 - rate * decay) as f32);
            let mut values = flat(slot.var.as_tensor())?;
            for (((w, g), m), v) in values.iter_mut().zip(&flat_grad).zip(mean).zip(square) {
                let g = g * scale as f32;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *w = *w * keep - rate1 * *m / (v.sqrt() * root2 + eps);
            }
            slot.var.set(&Tensor::from_vec(values, slot.var.dims(), slot.var.device())?)?;
        }
        Ok(norm)
    }
}

fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Matrices that multiply decay; offsets, norms, embeddings and scales do not.
fn decays(name: &str) -> bool {
    name.ends_with("weight")
        && !name.contains("norm")
        && !name.contains("layrnorm")
        && !name.contains("embedding.weight")
        || name.ends_with("patch_embedding.weight")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn var(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn two_steps_equal_those_worked_by_hand() {
        // Gradient of sum(w^2)/2 is w. Step 1 of Adam moves by the rate, whatever the gradient.
        let w = var(&[0.5, -0.25]);
        let config = AdamWConfig { weight_decay: 0.1, beta2: 0.999, ..AdamWConfig::default() };
        let mut adam = AdamW::new(&[("layer.weight".into(), w.clone())], config).unwrap();
        let step = |adam: &mut AdamW| {
            let loss = (w.as_tensor().sqr().unwrap().sum_all().unwrap() * 0.5).unwrap();
            adam.step(&loss.backward().unwrap(), 0.1).unwrap()
        };
        let norm = step(&mut adam);
        assert!((norm - 0.3125_f64.sqrt()).abs() < 1e-6);
        let got = w.as_tensor().to_vec1::<f32>().unwrap();
        // 0.5 * (1 - 0.1 * 0.1) - 0.1 = 0.395 and -0.25 * 0.99 + 0.1 = -0.1475
        assert!((got[0] - 0.395).abs() < 1e-6 && (got[1] + 0.1475).abs() < 1e-6, "{got:?}");
        step(&mut adam);
        let got = w.as_tensor().to_vec1::<f32>().unwrap();
        // m = 0.9 * 0.05 + 0.1 * 0.395 = 0.0845, / 0.19 = 0.444737
        // v = 0.999 * 0.00025 + 0.001 * 0.156025 = 0.000405775, / 0.001999 = 0.202989, root 0.450543
        // 0.395 * 0.99 - 0.1 * 0.444737 / 0.450543 = 0.292339
        assert!((got[0] - 0.292_339).abs() < 2e-5, "{got:?}");
    }

    #[test]
    fn long_gradients_are_clipped_before_the_step() {
        let run = |scale: f64| {
            let w = var(&[3.0, 4.0]);
            let config = AdamWConfig { eps: 1.0, ..AdamWConfig::default() };
            let mut adam = AdamW::new(&[("bias".into(), w.clone())], config).unwrap();
            let loss = (w.as_tensor().sum_all().unwrap() * scale).unwrap();
            adam.step(&loss.backward().unwrap(), 0.1).unwrap();
            w.as_tensor().to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(1e3), run(1e6), "both are clipped to norm 1");
        assert_ne!(run(1e3), run(1e-3));
    }

    #[test]
    fn offsets_and_norms_do_not_decay() {
        assert!(decays("vision_model.encoder.layers.0.mlp.fc1.weight"));
        assert!(decays("visual_projection.weight"));
        assert!(decays("vision_model.embeddings.patch_embedding.weight"));
        for name in [
            "vision_model.encoder.layers.0.mlp.fc1.bias",
            "vision_model.encoder.layers.0.layer_norm1.weight",
            "vision_model.pre_layrnorm.weight",
            "vision_model.embeddings.class_embedding",
            "text_model.embeddings.token_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
            "logit_scale",
        ] {
            assert!(!decays(name), "{name}");
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        let (used, unused) = (var(&[1.0]), var(&[1.0]));
        let parameters = [("a".to_owned(), used.clone()), ("b".to_owned(), unused.clone())];
        let mut adam = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        adam.step(&used.as_tensor().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        assert_ne!(used.as_tensor().to_vec1::<f32>().unwrap(), [1.0]);
        assert_eq!(unused.as_tensor().to_vec1::<f32>().unwrap(), [1.0]);
    }
}
