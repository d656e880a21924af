//! Gradients as PyTorch computes them: every loss, every tensor that learns. Golden files:
//! `tests/reference/gradients.py`.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor, Var};

use super::super::heads::IdentityHeads;
use super::super::prompt_learning::Prompts;
use super::*;
use crate::model::{Adapters, Clip, ClipConfig, normalise};
use crate::tensor::backward;
use crate::training::loss::matching_info_nce;

/// Largest difference to PyTorch's gradient of a tensor, as a share of its norm.
const TOLERANCE: f64 = 1e-3;
const LABELS: [u32; 6] = [0, 0, 1, 1, 2, 2];
const DIM: usize = 6;

struct Golden {
    config: ClipConfig,
    parameters: Parameters,
    values: HashMap<String, Tensor>,
}

impl Golden {
    fn read() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/training/gradients");
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let config = ClipConfig::from_json(&config).unwrap();
        let parameters = Parameters::load(&config, &dir, &Device::Cpu).unwrap();
        let values =
            candle_core::safetensors::load(dir.join("gradients.safetensors"), &Device::Cpu);
        Self { config, parameters, values: values.unwrap() }
    }

    fn image_features(&self, clip: &Clip) -> Tensor {
        clip.image_features(&self.values["pixels"]).unwrap()
    }

    /// The heads of a loss, with PyTorch's weights.
    fn heads(&self, losses: &str) -> IdentityHeads {
        let text = format!("[freeze]\ntext = true\n{losses}");
        let recipe = Recipe::from_toml(&text).unwrap();
        let mut heads = IdentityHeads::new(&recipe.losses, 3, DIM, 1, &Device::Cpu).unwrap();
        heads.vars().iter().for_each(|(name, var)| var.set(&self.values[name]).unwrap());
        heads.compare_with(self.values["prompts"].clone(), 5.0);
        heads
    }

    fn identity_loss(&self, heads: &IdentityHeads, features: &Tensor) -> Tensor {
        let unit = normalise(features).unwrap();
        let mut parts = heads.losses(features, &unit, &LABELS).unwrap();
        assert_eq!(parts.len(), 1, "one loss at a time");
        parts.remove(0).1
    }

    /// Compares the loss and the gradient of each of `vars`; PyTorch gave exactly these one.
    fn compare(&self, name: &str, loss: &Tensor, vars: &[(String, Var)]) {
        let expected = self.values[&format!("loss.{name}")].to_vec1::<f32>().unwrap()[0];
        let got = loss.to_scalar::<f32>().unwrap();
        assert!((got - expected).abs() < 1e-4 * expected.abs(), "{name}: {got} and {expected}");
        let grads = backward(loss).unwrap();
        let prefix = format!("{name}/");
        let mut left: BTreeMap<&str, &Tensor> = self
            .values
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)))
            .collect();
        for (of, var) in vars {
            let Some(expected) = left.remove(of.as_str()) else {
                assert!(grads.get(var).is_none(), "{name}: PyTorch has no gradient of {of}");
                continue;
            };
            let got = grads.get(var).unwrap_or_else(|| panic!("{name}: {of} has no gradient"));
            let norm = |of: &Tensor| {
                let values = of.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
            };
            // Softmax does not see a shift of all keys, nor a batch norm one of all features: zero but for rounding.
            let unseen = name == "cross_entropy" && of == "vision_model.post_layernorm.bias";
            if unseen || of.ends_with("k_proj.bias") {
                assert!(norm(expected) < 2e-4 && norm(got) < 2e-4, "{name}: {of}");
                continue;
            }
            let (size, error) = (norm(expected), norm(&(got - expected).unwrap()));
            assert!(size > 1e-3, "{name}: PyTorch's gradient of {of} is nothing");
            assert!(error <= TOLERANCE * size, "{name}: {of} differs by {error} of {size}");
        }
        assert!(left.is_empty(), "{name}: no gradient of {left:?}");
    }
}

const IDENTITY: [(&str, &str); 8] = [
    ("cross_entropy", "[losses.cross_entropy]\nsmoothing = 0.1"),
    ("triplet", "[losses.triplet]\nmargin = 1.0"),
    ("triplet_soft", "[losses.triplet]\nmargin = \"soft\""),
    ("sup_con", "[losses.sup_con]\ntemperature = 0.5"),
    ("arc_face", "[losses.arc_face]\nweight = 1.0\nmargin = 0.3\nscale = 8.0"),
    ("cos_face", "[losses.cos_face]\nweight = 1.0\nmargin = 0.2\nscale = 8.0"),
    ("center", "[losses.center]\nweight = 1.0"),
    ("image_to_prompt", "[prompt_learning]\n[losses.image_to_prompt]\nsmoothing = 0.1"),
];

#[test]
fn every_identity_loss_gives_every_tensor_the_gradient_of_pytorch() {
    let golden = Golden::read();
    let clip = Clip::new(&golden.config, &golden.parameters).unwrap();
    for (name, losses) in IDENTITY {
        let heads = golden.heads(losses);
        let mut vars = golden.parameters.vars();
        vars.extend(heads.vars());
        let loss = golden.identity_loss(&heads, &golden.image_features(&clip));
        golden.compare(name, &loss, &vars);
    }
}

#[test]
fn image_text_contrast_gives_both_towers_the_gradients_of_pytorch() {
    let golden = Golden::read();
    let clip = Clip::new(&golden.config, &golden.parameters).unwrap();
    let ids = [[22_u32, 3, 4, 23, 0, 0], [22, 5, 6, 7, 23, 0], [22, 8, 23, 1, 1, 1]];
    let matches: [[f32; 3]; 6] = [
        [1.0, 0.0, 0.0],
        [1.0, 0.0, 1.0],
        [0.0, 1.0, 0.0],
        [0.0, 1.0, 1.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0],
    ];
    let tensor = |rows: &[[f32; 3]; 6]| Tensor::new(rows, &Device::Cpu).unwrap();
    let texts = clip.text_features(&Tensor::new(&ids, &Device::Cpu).unwrap()).unwrap();
    let (images, texts) = (golden.image_features(&clip), normalise(&texts).unwrap());
    let scale = clip.logit_scale().exp().unwrap();
    let loss = matching_info_nce(&normalise(&images).unwrap(), &texts, &tensor(&matches), &scale);
    golden.compare("info_nce", &loss.unwrap(), &golden.parameters.vars());
}

#[test]
fn adapters_get_the_gradients_of_pytorch_and_what_they_change_gets_none() {
    let golden = Golden::read();
    let of_images = |name: &str| name.starts_with("vision_model.");
    let adapters = Adapters::on_attention(&golden.parameters, 2, 4.0, 1, &of_images).unwrap();
    let mut vars = adapters.vars();
    vars.iter().for_each(|(name, var)| var.set(&golden.values[name]).unwrap());
    let (config, parameters) = (&golden.config, &golden.parameters);
    let (none, adapted) = (|_: &str| false, Some(&adapters));
    let clip = Clip::learning(config, parameters, &none, adapted, DType::F32).unwrap();
    let heads = golden.heads(IDENTITY[0].1);
    vars.extend(heads.vars());
    vars.extend(golden.parameters.vars());
    let loss = golden.identity_loss(&heads, &golden.image_features(&clip));
    golden.compare("lora", &loss, &vars);
}

#[test]
fn learned_words_get_the_gradients_of_pytorch() {
    let golden = Golden::read();
    let clip = Clip::frozen(&golden.config, &golden.parameters).unwrap();
    let table = &golden.values["words/words"].dims3().unwrap();
    let embeddings = golden.parameters.vars().into_iter().find_map(|(name, var)| {
        (name == "text_model.embeddings.token_embedding.weight").then_some(var)
    });
    let embeddings = embeddings.unwrap().as_detached_tensor();
    let rows = |from: usize, count: usize| embeddings.narrow(0, from, count).unwrap();
    let row = |at: usize| rows(at, 1).unsqueeze(0).unwrap();
    let words = Var::from_tensor(&rows(10, 6).reshape(*table).unwrap()).unwrap();
    let before = Tensor::cat(&[row(22), row(9)], 1).unwrap();
    let prompts = Prompts { clip: &clip, frame: [before, row(23)], words: words.clone() };
    let texts = prompts.features(&[0, 1, 2]).unwrap();
    let images = normalise(&golden.image_features(&clip)).unwrap();
    let matches: Vec<f32> = LABELS
        .iter()
        .flat_map(|own| (0..3_u32).map(move |hand| f32::from(u8::from(hand == *own))))
        .collect();
    let matches = Tensor::from_vec(matches, (6, 3), &Device::Cpu).unwrap();
    let scale = clip.logit_scale().exp().unwrap();
    let loss = matching_info_nce(&images, &texts, &matches, &scale).unwrap();
    golden.compare("words", &loss, &[("words".to_owned(), words)]);
}
