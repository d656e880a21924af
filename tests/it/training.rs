//! Training takes the steps that PyTorch takes. Golden file: `tests/reference/training.py`.

use candle_core::{Device, Tensor};
use handclip::model::{Clip, ClipConfig, Parameters, normalise};
use handclip::tensor::backward;
use handclip::training::{Optimizer, OptimizerConfig, matching_info_nce};
use serde::Deserialize;

use crate::support::golden;

#[derive(Deserialize)]
struct Curve {
    rate: f64,
    weight_decay: f64,
    losses: Vec<f32>,
}

#[derive(Deserialize)]
struct Batches {
    pixels: Vec<f32>,
    ids: Vec<Vec<u32>>,
}

impl Batches {
    /// Three images cut from the stored values at another place each step.
    fn pixels(&self, step: usize, side: usize) -> Tensor {
        let values: Vec<f32> =
            self.pixels.iter().copied().cycle().skip(step * 13).take(3 * 3 * side * side).collect();
        Tensor::from_vec(values, (3, 3, side, side), &Device::Cpu).unwrap()
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: std::path::PathBuf) -> T {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn twenty_steps_follow_the_loss_curve_of_pytorch() {
    let dir = golden("clip").join("patch16_gelu");
    let config =
        ClipConfig::from_json(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
    let batches: Batches = read(dir.join("expected.json"));
    let curve: Curve = read(golden("training").join("adamw.json"));
    assert_eq!(curve.losses.len(), 20);
    let parameters = Parameters::load(&config, &dir, &Device::Cpu).unwrap();
    let clip = Clip::new(&config, &parameters).unwrap();
    let settings =
        OptimizerConfig { weight_decay: curve.weight_decay, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(&parameters.vars(), settings).unwrap();
    let ids = Tensor::new(batches.ids.clone(), &Device::Cpu).unwrap();
    let matches = Tensor::eye(3, candle_core::DType::F32, &Device::Cpu).unwrap();
    for (step, expected) in curve.losses.iter().enumerate() {
        let pixels = batches.pixels(step, config.vision.image_size);
        let images = normalise(&clip.image_features(&pixels).unwrap()).unwrap();
        let texts = normalise(&clip.text_features(&ids).unwrap()).unwrap();
        let scale = clip.logit_scale().exp().unwrap();
        let loss = matching_info_nce(&images, &texts, &matches, &scale).unwrap();
        let value = loss.to_scalar::<f32>().unwrap();
        assert!((value - expected).abs() < 1e-4, "step {step}: {value} and {expected}");
        optimizer.step(&backward(&loss).unwrap(), curve.rate).unwrap();
    }
}
