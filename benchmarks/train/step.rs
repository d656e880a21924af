//! Times training steps of CLIP ViT-B's image tower with random weights, cross-entropy and batch-hard
//! triplet, AdamW included. One line of JSON: `benchmarks/train/compare.py` puts PyTorch's beside it.
//!
//!     train [--batch 8] [--steps 5] [--patch 32] [--device cpu|cuda:N] [--bf16]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

#[path = "../measure.rs"]
mod measure;

use std::time::Instant;

use candle_core::{DType, Tensor, Var};
use handclip::model::{Clip, ClipConfig, Parameters, normalise};
use handclip::tensor::{DeviceChoice, backward, open};
use handclip::training::{
    Margin, Optimizer, OptimizerConfig, batch_hard_triplet, smoothed_cross_entropy,
};
use measure::{argument, cpu_seconds, number, peak_mib};

const CLASSES: usize = 72;

fn main() {
    let (batch, steps) = (number("--batch", 8), number("--steps", 5));
    let choice = argument("--device").map_or(DeviceChoice::Cpu, |name| name.parse().unwrap());
    let (device, notice) = open(choice);
    // A figure of another device than the one asked for would mislead.
    assert!(notice.is_none(), "{notice:?}");
    // The other defaults are those of ViT-B/32.
    let patch = number("--patch", 32);
    let config = format!(r#"{{"vision_config": {{"patch_size": {patch}}}}}"#);
    let config = ClipConfig::from_json(&config).unwrap();
    let parameters = Parameters::init(&config, 1, &device).unwrap();
    let of_images = |name: &str| name.starts_with("vision_model.") || name.starts_with("visual_");
    let half = std::env::args().any(|argument| argument == "--bf16");
    let dtype = if half { DType::BF16 } else { DType::F32 };
    let clip = Clip::learning(&config, &parameters, &of_images, None, dtype).unwrap();
    let classifier = Tensor::randn(0.0_f32, 0.02, (CLASSES, config.projection_dim), &device);
    let classifier = Var::from_tensor(&classifier.unwrap()).unwrap();
    let mut trained = parameters.vars();
    trained.retain(|(name, _)| of_images(name));
    trained.push(("heads.classifier".to_owned(), classifier.clone()));
    let mut optimizer = Optimizer::new(&trained, OptimizerConfig::default()).unwrap();
    let side = config.vision.image_size;
    let pixels = Tensor::randn(0.0_f32, 1.0, (batch, 3, side, side), &device).unwrap();
    let labels: Vec<u32> = (0..batch as u32).map(|at| at / 4).collect();
    let (mut seconds, mut cpu, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    // The first steps warm up and are not counted.
    let warm_up = if device.is_cpu() { 1 } else { 3 };
    for step in 0..steps + warm_up {
        let (start, cpu_before) = (Instant::now(), cpu_seconds());
        let features = clip.image_features(&pixels).unwrap();
        let unit = normalise(&features).unwrap();
        let logits = features.matmul(&classifier.as_tensor().t().unwrap()).unwrap();
        let identity = smoothed_cross_entropy(&logits, &labels, 0.1).unwrap();
        let triplet = batch_hard_triplet(&unit, &labels, Margin::Hard(0.3)).unwrap();
        let loss = (identity + triplet).unwrap().to_dtype(DType::F32).unwrap();
        let forward = start.elapsed().as_secs_f64();
        let grads = backward(&loss).unwrap();
        let backward = start.elapsed().as_secs_f64() - forward;
        optimizer.step(&grads, 1e-5).unwrap();
        device.synchronize().unwrap();
        if step >= warm_up {
            parts.push([forward, backward, start.elapsed().as_secs_f64() - forward - backward]);
            seconds.push(start.elapsed().as_secs_f64());
            cpu.push(cpu_seconds() - cpu_before);
        }
    }
    let line = serde_json::json!({
        "batch": batch, "seconds": seconds, "cpu_seconds": cpu, "forward_backward_step": parts,
        "peak_mib": peak_mib(),
    });
    println!("{line}");
}
