use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;

use super::clipping::{CHUNK, Clipping};
use super::error::TrainingError;
use super::muon::Muon;
use crate::tensor::{AdamStep, MomentumStep, adam_step, in_place, momentum_step, update, widest};

/// How a step follows from a gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter, 2019) with bias correction and decoupled decay.
    AdamW {
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of squared gradients.
        beta2: f64,
        /// Keeps the division finite.
        eps: f64,
    },
    /// Gradient descent with momentum, as PyTorch's: decay is added to the gradient.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
    },
}

/// Settings of an [`Optimizer`] that stay the same over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// How a step follows from a gradient.
    pub rule: Rule,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// Largest global norm of the gradients.
    pub clip_norm: f64,
    /// With it, matrices inside the towers' blocks take Muon's steps, this many times the rate long;
    /// without it, they follow the rule like all others.
    pub muon: Option<f64>,
    /// What the rate of parameters outside the model (`heads.*`) is multiplied by.
    pub heads: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 },
            weight_decay: 0.05,
            clip_norm: 1.0,
            muon: None,
            heads: 1.0,
        }
    }
}

/// Steps of AdamW or momentum. Decay is left off biases, norms, embeddings and scales; the global gradient
/// norm is clipped before the step. candle_nn's own neither clips nor lets its state be saved. Parameters and
/// moments change where they lie, on a CPU or a CUDA device.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
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
    /// Mean and mean square of the gradients, or velocity and nothing.
    Moments(Moments),
    Muon(Muon),
}

#[derive(Debug)]
enum Moments {
    Host(Vec<f32>, Vec<f32>),
    Device(Tensor, Tensor),
}

impl Moments {
    fn new(var: &Var, second: bool) -> candle_core::Result<Self> {
        if in_place(var, var) {
            let count = var.elem_count();
            return Ok(Self::Host(vec![0.0; count], vec![0.0; if second { count } else { 0 }]));
        }
        // Each has values of its own: steps change them where they lie.
        let zeros = || Tensor::zeros(var.shape(), DType::F32, var.device());
        Ok(Self::Device(zeros()?, zeros()?))
    }

    fn values(&self) -> candle_core::Result<[Vec<f32>; 2]> {
        Ok(match self {
            Self::Host(first, second) => [first.clone(), second.clone()],
            Self::Device(first, second) => [flat(first)?, flat(second)?],
        })
    }

    fn set(&mut self, values: [Vec<f32>; 2]) -> candle_core::Result<()> {
        let [one, two] = values;
        match self {
            Self::Host(first, second) => (*first, *second) = (one, two),
            Self::Device(first, second) => {
                *first = Tensor::from_vec(one, first.shape(), first.device())?;
                *second = Tensor::from_vec(two, second.shape(), second.device())?;
            }
        }
        Ok(())
    }

    fn counts(&self) -> [usize; 2] {
        match self {
            Self::Host(first, second) => [first.len(), second.len()],
            Self::Device(first, second) => [first.elem_count(), second.elem_count()],
        }
    }
}

/// Moments by the name of their parameter and what they are.
type NamedMoments = Vec<(String, Vec<f32>)>;

/// The factors of one step, the same for all values of a parameter.
#[derive(Debug, Clone, Copy)]
struct Factors {
    rate: f64,
    decay: f64,
    /// Bias corrections of both moments.
    corrections: [f64; 2],
}

impl Optimizer {
    /// `parameters`: name and variable, f32.
    ///
    /// # Errors
    /// What candle reports.
    pub fn new(
        parameters: &[(String, Var)],
        config: OptimizerConfig,
    ) -> Result<Self, TrainingError> {
        let second = matches!(config.rule, Rule::AdamW { .. });
        let slot = |(name, var): &(String, Var)| -> candle_core::Result<Slot> {
            let state = if config.muon.is_some() && Muon::moves(name, var) {
                State::Muon(Muon::new(var)?)
            } else {
                State::Moments(Moments::new(var, second)?)
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

    /// The variables that steps move.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.slots.iter().map(|slot| &slot.var)
    }

    /// Steps taken, and the moments of every parameter that has them, by name.
    ///
    /// # Errors
    /// What candle reports.
    pub fn state(&self) -> Result<(u64, NamedMoments), TrainingError> {
        let mut moments = Vec::new();
        for slot in &self.slots {
            if let State::Moments(of) = &slot.state {
                let [first, second] = of.values()?;
                moments.push((format!("{}.mean", slot.name), first));
                moments.push((format!("{}.square", slot.name), second));
            }
        }
        Ok((self.step, moments))
    }

    /// Goes on from where [`Optimizer::state`] was taken; `moment` gives the values of a name, as many as asked
    /// for.
    ///
    /// # Errors
    /// What `moment` fails with.
    pub fn restore(
        &mut self,
        step: u64,
        mut moment: impl FnMut(&str, usize) -> Result<Vec<f32>, TrainingError>,
    ) -> Result<(), TrainingError> {
        self.step = step;
        for slot in &mut self.slots {
            if let State::Moments(of) = &mut slot.state {
                let [first, second] = of.counts();
                let first = moment(&format!("{}.mean", slot.name), first)?;
                let second = moment(&format!("{}.square", slot.name), second)?;
                of.set([first, second])?;
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
        let grads = self
            .slots
            .iter()
            .map(|slot| {
                grads.get(&slot.var).map(|g| g.to_dtype(DType::F32)?.contiguous()).transpose()
            })
            .collect::<candle_core::Result<Vec<Option<Tensor>>>>()?;
        let gradients: Vec<&Tensor> = grads.iter().flatten().collect();
        let clipping = Clipping::of(&gradients, self.config.clip_norm)?;
        self.step += 1;
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let corrections = match self.config.rule {
            Rule::AdamW { beta1, beta2, .. } => [1.0 - beta1.powi(power), 1.0 - beta2.powi(power)],
            Rule::Sgd { .. } => [1.0; 2],
        };
        for (slot, grad) in self.slots.iter_mut().zip(grads) {
            let Some(grad) = grad else { continue };
            let decay = if slot.decays { self.config.weight_decay } else { 0.0 };
            let (rule, factors) =
                (self.config.rule, Factors { rate: rate * slot.rate, decay, corrections });
            match (&mut slot.state, &clipping) {
                (State::Muon(muon), clipping) => {
                    let rate = factors.rate * self.config.muon.unwrap_or(1.0);
                    muon.step(&slot.var, &grad, clipping.scale()?, rate, decay)?;
                }
                (State::Moments(Moments::Device(first, second)), Clipping::Card(_, scale)) => {
                    card_step(rule, factors, [slot.var.as_tensor(), first, second], &grad, scale)?;
                }
                (State::Moments(Moments::Host(first, second)), clipping) => {
                    let scale = clipping.scale()? as f32;
                    update(&slot.var, &grad, |w, g| {
                        host_step(rule, factors, scale, [w, first, second], g)
                    })?;
                }
                (State::Moments(Moments::Device(..)), Clipping::Host(..)) => {
                    let reason = "a parameter on a card has its gradient elsewhere".to_owned();
                    return Err(candle_core::Error::Msg(reason).into());
                }
            }
        }
        Ok(clipping.norm()?)
    }
}

/// values, first and second moment change; all as long as the gradient, which is multiplied by `scale`, but the
/// second moment may be empty.
fn host_step(rule: Rule, factors: Factors, scale: f32, values: [&mut [f32]; 3], gradient: &[f32]) {
    let [w, m, v] = values;
    let chunks =
        w.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(m.par_chunks_mut(CHUNK));
    match rule {
        Rule::AdamW { beta1, beta2, eps } => {
            let [c1, c2] = factors.corrections;
            let (b1, b2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
            let root2 = (1.0 / c2.sqrt()) as f32;
            let rate = (factors.rate / c1) as f32;
            let keep = (1.0 - factors.rate * factors.decay) as f32;
            chunks.zip(v.par_chunks_mut(CHUNK)).for_each(|(((w, g), m), v)| {
                widest(
                    #[inline(always)]
                    || {
                        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                            let g = g * scale;
                            *m = b1 * *m + (1.0 - b1) * g;
                            *v = b2 * *v + (1.0 - b2) * g * g;
                            *w = *w * keep - rate * *m / (v.sqrt() * root2 + eps);
                        }
                    },
                );
            });
        }
        Rule::Sgd { momentum } => {
            let (momentum, decay) = (momentum as f32, factors.decay as f32);
            let rate = factors.rate as f32;
            chunks.for_each(|((w, g), m)| {
                widest(
                    #[inline(always)]
                    || {
                        for ((w, g), m) in w.iter_mut().zip(g).zip(m) {
                            *m = momentum * *m + g * scale + decay * *w;
                            *w -= rate * *m;
                        }
                    },
                );
            });
        }
    }
}

/// The same step on a card.
fn card_step(
    rule: Rule,
    factors: Factors,
    values: [&Tensor; 3],
    gradient: &Tensor,
    scale: &Tensor,
) -> candle_core::Result<()> {
    let [c1, c2] = factors.corrections;
    match rule {
        Rule::AdamW { beta1, beta2, eps } => {
            let step = AdamStep {
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: eps as f32,
                rate: (factors.rate / c1) as f32,
                root: (1.0 / c2.sqrt()) as f32,
                keep: (1.0 - factors.rate * factors.decay) as f32,
            };
            adam_step(values, gradient, scale, step)
        }
        Rule::Sgd { momentum } => {
            let step = MomentumStep {
                momentum: momentum as f32,
                decay: factors.decay as f32,
                rate: factors.rate as f32,
            };
            momentum_step([values[0], values[1]], gradient, scale, step)
        }
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
    use crate::tensor::{DeviceChoice, open};

    fn var(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn two_steps_equal_those_worked_by_hand() {
        // Gradient of sum(w^2)/2 is w. Step 1 of Adam moves by the rate, whatever the gradient.
        let w = var(&[0.5, -0.25]);
        let rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let config = OptimizerConfig { rule, weight_decay: 0.1, ..OptimizerConfig::default() };
        let mut adam = Optimizer::new(&[("layer.weight".into(), w.clone())], config).unwrap();
        let step = |adam: &mut Optimizer| {
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
            let rule = Rule::AdamW { beta1: 0.9, beta2: 0.98, eps: 1.0 };
            let config = OptimizerConfig { rule, ..OptimizerConfig::default() };
            let mut adam = Optimizer::new(&[("bias".into(), w.clone())], config).unwrap();
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
        let mut adam = Optimizer::new(&parameters, OptimizerConfig::default()).unwrap();
        adam.step(&used.as_tensor().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        assert_ne!(used.as_tensor().to_vec1::<f32>().unwrap(), [1.0]);
        assert_eq!(unused.as_tensor().to_vec1::<f32>().unwrap(), [1.0]);
    }

    #[test]
    fn momentum_takes_the_steps_of_pytorch() {
        // torch.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.5) on sum(w^2) / 2 from w = 2:
        // g = 2 + 1 = 3, v = 3, w = 1.7; g = 1.7 + 0.85 = 2.55, v = 2.7 + 2.55 = 5.25, w = 1.175.
        let w = var(&[2.0]);
        let rule = Rule::Sgd { momentum: 0.9 };
        let config =
            OptimizerConfig { rule, weight_decay: 0.5, clip_norm: 1e9, ..Default::default() };
        let mut sgd = Optimizer::new(&[("layer.weight".into(), w.clone())], config).unwrap();
        for want in [1.7, 1.175] {
            let loss = (w.as_tensor().sqr().unwrap().sum_all().unwrap() * 0.5).unwrap();
            sgd.step(&loss.backward().unwrap(), 0.1).unwrap();
            let got = w.as_tensor().to_vec1::<f32>().unwrap()[0];
            assert!((got - want).abs() < 1e-6, "{got} and {want}");
        }
    }

    /// What a card computes is what the CPU computes. Skipped where there is no card.
    #[test]
    fn a_card_takes_the_steps_of_the_cpu() {
        let (card @ Device::Cuda(_), _) = open(DeviceChoice::Auto) else { return };
        let adam = OptimizerConfig::default().rule;
        for rule in [adam, Rule::Sgd { momentum: 0.9 }] {
            let config = OptimizerConfig { rule, clip_norm: 20.0, ..OptimizerConfig::default() };
            let run = |device: &Device| {
                // One that no warp divides, and one of several blocks.
                let vars = [70_003, 7].map(|count| {
                    let start: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
                    Var::from_tensor(&Tensor::from_vec(start, count, device).unwrap()).unwrap()
                });
                let named = [("a.weight", &vars[0]), ("b.bias", &vars[1])];
                let named = named.map(|(name, var)| (name.to_owned(), var.clone()));
                let mut optimizer = Optimizer::new(&named, config).unwrap();
                let mut norms = Vec::new();
                for step in 1..4 {
                    let loss = |var: &Var| {
                        (var.as_tensor().powf(3.0).unwrap() * f64::from(step)).unwrap().sum_all()
                    };
                    let loss = (loss(&vars[0]).unwrap() + loss(&vars[1]).unwrap()).unwrap();
                    norms.push(optimizer.step(&loss.backward().unwrap(), 0.01).unwrap());
                }
                let (steps, moments) = optimizer.state().unwrap();
                optimizer.restore(steps, |_, count| Ok(vec![0.5; count])).unwrap();
                (norms, vars.map(|var| flat(&var).unwrap()), moments)
            };
            let (ours, theirs) = (run(&card), run(&Device::Cpu));
            for (a, b) in ours.0.iter().zip(&theirs.0) {
                assert!((a - b).abs() < 1e-4 * b, "norms {a} and {b}");
            }
            let second = matches!(rule, Rule::AdamW { .. });
            let moments = ours
                .2
                .iter()
                .zip(&theirs.2)
                .filter(|((name, _), _)| second || !name.ends_with(".square"));
            let values = ours.1.iter().zip(&theirs.1);
            let pairs = values.chain(moments.map(|((_, a), (_, b))| (a, b)));
            for (a, b) in pairs {
                assert_eq!(a.len(), b.len());
                let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{rule:?}: {worst}");
            }
        }
    }
}
