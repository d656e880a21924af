use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CheckpointError, ClipConfig, ModelError};

/// How a parameter starts before any training.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// Normally distributed around 0 with this standard deviation.
    Normal(f64),
    /// One value throughout.
    Constant(f64),
}

/// Every parameter that a configuration calls for, by its Hugging Face name: the one list that the
/// first values, the strict loader and the report share.
#[derive(Debug, Clone)]
pub(super) struct ParameterSpec {
    entries: BTreeMap<String, (Vec<usize>, Start)>,
}

/// What the blocks of both towers have in common.
struct TowerSpec<'a> {
    prefix: &'a str,
    width: usize,
    inner: usize,
    layers: usize,
}

impl ParameterSpec {
    pub(super) fn of(config: &ClipConfig) -> Self {
        let (v, t) = (&config.vision, &config.text);
        let mut spec = Self { entries: BTreeMap::new() };
        let per_width = |width: usize| Start::Normal((width as f64).powf(-0.5));

        spec.add("logit_scale", &[], Start::Constant(config.logit_scale_init_value));
        let projection = |width: usize| [config.projection_dim, width];
        spec.add("text_projection.weight", &projection(t.hidden_size), per_width(t.hidden_size));
        spec.add("visual_projection.weight", &projection(v.hidden_size), per_width(v.hidden_size));

        let at = "text_model.embeddings";
        let tokens = [t.vocab_size, t.hidden_size];
        spec.add(&format!("{at}.token_embedding.weight"), &tokens, Start::Normal(0.02));
        let positions = [t.max_position_embeddings, t.hidden_size];
        spec.add(&format!("{at}.position_embedding.weight"), &positions, Start::Normal(0.02));
        spec.norm("text_model.final_layer_norm", t.hidden_size);
        spec.tower(&TowerSpec {
            prefix: "text_model",
            width: t.hidden_size,
            inner: t.intermediate_size,
            layers: t.num_hidden_layers,
        });

        let at = "vision_model.embeddings";
        spec.add(&format!("{at}.class_embedding"), &[v.hidden_size], per_width(v.hidden_size));
        let patch = [v.hidden_size, 3, v.patch_size, v.patch_size];
        spec.add(&format!("{at}.patch_embedding.weight"), &patch, Start::Normal(0.02));
        let positions = [v.patches() + 1, v.hidden_size];
        spec.add(&format!("{at}.position_embedding.weight"), &positions, Start::Normal(0.02));
        // The misspelling is transformers' own.
        spec.norm("vision_model.pre_layrnorm", v.hidden_size);
        spec.norm("vision_model.post_layernorm", v.hidden_size);
        spec.tower(&TowerSpec {
            prefix: "vision_model",
            width: v.hidden_size,
            inner: v.intermediate_size,
            layers: v.num_hidden_layers,
        });
        spec
    }

    fn add(&mut self, name: &str, shape: &[usize], start: Start) {
        self.entries.insert(name.to_owned(), (shape.to_vec(), start));
    }

    fn norm(&mut self, at: &str, width: usize) {
        self.add(&format!("{at}.weight"), &[width], Start::Constant(1.0));
        self.add(&format!("{at}.bias"), &[width], Start::Constant(0.0));
    }

    fn linear(&mut self, at: &str, [outputs, inputs]: [usize; 2], deviation: f64) {
        self.add(&format!("{at}.weight"), &[outputs, inputs], Start::Normal(deviation));
        self.add(&format!("{at}.bias"), &[outputs], Start::Constant(0.0));
    }

    /// The blocks, with the deviations of transformers' CLIPPreTrainedModel.
    fn tower(&mut self, tower: &TowerSpec<'_>) {
        let TowerSpec { prefix, width, inner, layers } = *tower;
        let out = (width as f64).powf(-0.5);
        let into = out * (2.0 * layers as f64).powf(-0.5);
        let fc1 = (2.0 * width as f64).powf(-0.5);
        for layer in 0..layers {
            let at = format!("{prefix}.encoder.layers.{layer}");
            self.norm(&format!("{at}.layer_norm1"), width);
            self.norm(&format!("{at}.layer_norm2"), width);
            for name in ["q_proj", "k_proj", "v_proj"] {
                self.linear(&format!("{at}.self_attn.{name}"), [width, width], into);
            }
            self.linear(&format!("{at}.self_attn.out_proj"), [width, width], out);
            self.linear(&format!("{at}.mlp.fc1"), [inner, width], fc1);
            self.linear(&format!("{at}.mlp.fc2"), [width, inner], into);
        }
    }

    /// Names and shapes, sorted by name.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice()))
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|(shape, _)| shape.as_slice())
    }
}

/// A model's trainable parameters by their Hugging Face names, always in f32.
#[derive(Debug, Clone)]
pub struct Parameters {
    vars: BTreeMap<String, Var>,
}

impl Parameters {
    /// Fresh parameters, drawn as transformers draws them. A parameter depends on the seed, its
    /// name and its shape alone, so it stays the same when others are added.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a configuration that cannot be built.
    pub fn init(config: &ClipConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        config.validate()?;
        let mut vars = BTreeMap::new();
        for (name, (shape, start)) in ParameterSpec::of(config).entries {
            let count = shape.iter().product();
            let values = match start {
                Start::Constant(value) => vec![value as f32; count],
                Start::Normal(deviation) => normal(seed, &name, count, deviation),
            };
            let tensor = Tensor::from_vec(values, shape, device)?;
            vars.insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { vars })
    }

    /// Takes checked tensors.
    pub(super) fn from_tensors(
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self, ModelError> {
        let vars = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { vars })
    }

    /// Names and variables, sorted by name. The variables share their values with these parameters
    /// and with every [`Clip`](super::Clip) made of them.
    #[must_use]
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The variable of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.vars.get(name)
    }

    /// Number of values in all parameters.
    #[must_use]
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// The parameters' values as they are now, in variables of their own.
    ///
    /// # Errors
    /// When memory on the device is short.
    pub fn snapshot(&self) -> Result<Self, ModelError> {
        let copies = self.vars.iter().map(|(name, var)| {
            let tensor = var.as_detached_tensor().copy()?;
            Ok::<_, ModelError>((name.clone(), Var::from_tensor(&tensor)?))
        });
        Ok(Self { vars: copies.collect::<Result<_, _>>()? })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The values of one, in f32.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.require(name)?.as_detached_tensor();
        Ok(tensor.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?)
    }

    pub(super) fn require(&self, name: &str) -> Result<&Var, ModelError> {
        let missing = || CheckpointError::Missing(vec![name.to_owned()]).into();
        self.vars.get(name).ok_or_else(missing)
    }
}

/// A stream of random numbers that belongs to a name.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // FNV-1a: any fixed hash will do to keep the streams apart.
    rng.set_stream(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }));
    rng
}

/// Values between plus and minus `bound` from a stream of their own.
pub(super) fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f32> {
    let mut rng = stream(seed, name);
    (0..count).map(|_| rng.random_range(-bound..bound) as f32).collect()
}

/// Normally distributed values (Box-Muller) from a stream of their own.
fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut rng = stream(seed, name);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // In (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_vit_b_32_are_those_of_transformers() {
        let spec = ParameterSpec::of(&ClipConfig::from_json("{}").unwrap());
        // 398 named parameters and 151,277,313 values in openai/clip-vit-base-patch32.
        assert_eq!(spec.shapes().count(), 398);
        let count: usize = spec.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(count, 151_277_313);
        assert_eq!(spec.shape("logit_scale"), Some(&[][..]));
        assert_eq!(spec.shape("vision_model.pre_layrnorm.weight"), Some(&[768][..]));
    }

    #[test]
    fn first_values_depend_on_seed_and_name_and_have_the_deviation_asked_for() {
        let values = normal(7, "a", 100_000, 0.5);
        assert_eq!(values, normal(7, "a", 100_000, 0.5));
        assert_eq!(values[..99], normal(7, "a", 99, 0.5));
        assert_ne!(values[..9], normal(7, "b", 9, 0.5));
        assert_ne!(values[..9], normal(8, "a", 9, 0.5));
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 5e-3 && (square.sqrt() - 0.5).abs() < 5e-3, "{mean} {square}");
    }
}
