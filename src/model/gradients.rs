//! The promise that every parameter learns: a contrastive loss reaches each of them, with the
//! value that finite differences give.

use candle_core::{DType, Device, Tensor};

use super::{Adapters, Clip, ClipConfig, ModelError, Parameters, normalise};
use crate::tensor::lean::Rounded;
use crate::tensor::{DeviceChoice, backward, open};

fn config(activation: &str) -> ClipConfig {
    let json = format!(
        r#"{{"projection_dim": 12,
        "vision_config": {{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 12, "patch_size": 4, "hidden_act": "{activation}"}},
        "text_config": {{"vocab_size": 20, "hidden_size": 8, "intermediate_size": 20,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 7,
            "hidden_act": "{activation}", "eos_token_id": 19}}}}"#
    );
    ClipConfig::from_json(&json).unwrap()
}

fn batch() -> (Tensor, Tensor) {
    batch_on(&Device::Cpu)
}

fn batch_on(device: &Device) -> (Tensor, Tensor) {
    let pixels: Vec<f32> = (0..3 * 3 * 12 * 12).map(|i| ((i * 37 % 101) as f32).sin()).collect();
    let pixels = Tensor::from_vec(pixels, (3, 3, 12, 12), device).unwrap();
    let ids = [[18_u32, 3, 4, 19, 0, 0, 0], [18, 5, 6, 7, 8, 9, 19], [18, 10, 19, 11, 12, 19, 1]];
    (pixels, Tensor::new(&ids, device).unwrap())
}

fn loss(clip: &Clip) -> Tensor {
    let (pixels, ids) = batch_on(clip.logit_scale().device());
    let images = normalise(&clip.image_features(&pixels).unwrap()).unwrap();
    let texts = normalise(&clip.text_features(&ids).unwrap()).unwrap();
    let scale = clip.logit_scale().exp().unwrap();
    let logits = images.matmul(&texts.t().unwrap()).unwrap().broadcast_mul(&scale).unwrap();
    let labels = Tensor::new(&[0_u32, 1, 2], logits.device()).unwrap();
    let by_image = candle_nn::loss::cross_entropy(&logits, &labels).unwrap();
    let by_text = candle_nn::loss::cross_entropy(&logits.t().unwrap(), &labels).unwrap();
    (by_image + by_text).unwrap()
}

/// Parameters with every norm and bias moved off its start, so that no gradient is zero by luck.
fn parameters(config: &ClipConfig) -> Parameters {
    let parameters = Parameters::init(config, 3, &Device::Cpu).unwrap();
    for (i, (_, var)) in parameters.vars().iter().enumerate() {
        let noise: Vec<f32> =
            (0..var.elem_count()).map(|j| ((i * 31 + j * 17) as f32).sin() * 0.2).collect();
        let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    parameters
}

#[test]
fn every_parameter_gets_the_gradient_that_finite_differences_give() {
    for activation in ["quick_gelu", "gelu"] {
        let config = config(activation);
        let parameters = parameters(&config);
        let clip = Clip::new(&config, &parameters).unwrap();
        let grads = backward(&loss(&clip)).unwrap();
        for (name, var) in parameters.vars() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            let start: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            let norm = grad.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if name.ends_with("k_proj.bias") {
                // Softmax does not see a shift of all keys: this gradient is zero in exact numbers.
                assert!(norm < 1e-5, "{name} has gradient {norm}");
                continue;
            }
            assert!(norm > 1e-4, "{name} has gradient {norm:e}");
            // Along the gradient itself a step has the largest effect, which f32 can resolve.
            let shifted = |by: f64| {
                let values: Vec<f32> = start
                    .iter()
                    .zip(&grad)
                    .map(|(v, g)| (f64::from(*v) + by * f64::from(*g) / norm) as f32)
                    .collect();
                let values = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
                var.set(&values).unwrap();
                f64::from(loss(&clip).to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap())
            };
            let step = (2e-3 / norm).clamp(1e-3, 2e-2);
            let slope = (shifted(step) - shifted(-step)) / (2.0 * step);
            shifted(0.0);
            let error = (slope - norm).abs() / norm;
            assert!(error < 0.03, "{activation} {name}: slope {slope}, gradient {norm}");
        }
    }
}

#[test]
fn a_frozen_model_computes_the_same_and_tracks_nothing() {
    let config = config("quick_gelu");
    let parameters = parameters(&config);
    let (pixels, ids) = batch();
    let tracked = Clip::new(&config, &parameters).unwrap();
    let frozen = Clip::frozen(&config, &parameters).unwrap();
    let same = |a: &Tensor, b: &Tensor| {
        assert!(a.track_op() && !b.track_op());
        let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    };
    same(&tracked.image_features(&pixels).unwrap(), &frozen.image_features(&pixels).unwrap());
    same(&tracked.text_features(&ids).unwrap(), &frozen.text_features(&ids).unwrap());
}

#[test]
fn a_model_follows_its_variables_and_a_snapshot_does_not() {
    let config = config("gelu");
    let parameters = parameters(&config);
    let snapshot = parameters.snapshot().unwrap();
    let clip = Clip::new(&config, &parameters).unwrap();
    let before = loss(&clip).to_scalar::<f32>().unwrap();
    let (_, var) = &parameters.vars()[5];
    var.set(&var.as_tensor().ones_like().unwrap()).unwrap();
    assert_ne!(loss(&clip).to_scalar::<f32>().unwrap(), before);
    let copy = Clip::new(&config, &snapshot).unwrap();
    assert_eq!(loss(&copy).to_scalar::<f32>().unwrap(), before);
}

#[test]
fn sequences_the_text_tower_cannot_take_are_refused() {
    let config = config("gelu");
    let clip = Clip::new(&config, &parameters(&config)).unwrap();
    for ids in [&[18_u32, 3, 4][..], &[18, 20, 19], &[18, 1, 1, 1, 1, 1, 1, 19]] {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        assert!(clip.text_features(&ids).is_err());
    }
    let pixels = Tensor::zeros((1, 3, 12, 13), DType::F32, &Device::Cpu).unwrap();
    assert!(clip.image_features(&pixels).is_err());
}

type Grads = std::collections::BTreeMap<String, Vec<f32>>;

/// The gradient of a weighted sum of both towers' features, in one piece or stage by stage.
fn gradients(clip: &Clip, vars: &[(String, candle_core::Var)], staged: bool) -> Grads {
    let (pixels, ids) = batch();
    let weight: Vec<f32> = (0..3 * 12).map(|i| (i as f32 * 0.7).cos()).collect();
    let weight = Tensor::from_vec(weight, (3, 12), &Device::Cpu).unwrap();
    let mut found = Grads::new();
    let mut take = |mut grads: candle_core::backprop::GradStore| {
        for (name, var) in vars {
            if let Some(grad) = grads.remove(var) {
                let grad = grad.flatten_all().unwrap().to_vec1().unwrap();
                assert!(found.insert(name.clone(), grad).is_none(), "{name} has two gradients");
            }
        }
        Ok::<(), ModelError>(())
    };
    for stages in [clip.image_stages(pixels).unwrap(), clip.text_stages(&ids).unwrap()] {
        if staged {
            let kept = stages.forward_keeping().unwrap();
            assert!(!kept.features.track_op());
            stages.backward(kept, &weight, &mut take).unwrap();
        } else {
            let sum = (stages.forward().unwrap() * &weight).unwrap().sum_all().unwrap();
            take(backward(&sum).unwrap()).unwrap();
        }
    }
    found
}

#[test]
fn stages_give_the_gradients_of_the_whole() {
    let config = config("gelu");
    let parameters = parameters(&config);
    let clip = Clip::new(&config, &parameters).unwrap();
    let whole = gradients(&clip, &parameters.vars(), false);
    assert_eq!(whole.len(), parameters.vars().len() - 1, "all but the logit scale");
    assert_eq!(gradients(&clip, &parameters.vars(), true), whole);
}

#[test]
fn only_what_learns_gets_a_gradient_and_the_same_one() {
    let config = config("gelu");
    let parameters = parameters(&config);
    let all = gradients(&Clip::new(&config, &parameters).unwrap(), &parameters.vars(), false);
    let learns = |name: &str| name.starts_with("vision_model.encoder.layers.1.");
    let clip = Clip::learning(&config, &parameters, &learns, None, DType::F32).unwrap();
    for staged in [false, true] {
        let some = gradients(&clip, &parameters.vars(), staged);
        assert_eq!(some.len(), 16);
        for (name, grad) in some {
            assert!(learns(&name) && grad == all[&name], "{name}");
        }
    }
}

#[test]
fn adapters_start_without_effect_and_learn_the_change_that_is_merged() {
    let config = config("gelu");
    let parameters = parameters(&config);
    let of_images = |name: &str| name.starts_with("vision_model.");
    let adapters = Adapters::on_attention(&parameters, 3, 6.0, 1, &of_images).unwrap();
    assert_eq!(adapters.vars().len(), 2 * 2 * 4);
    let plain = loss(&Clip::frozen(&config, &parameters).unwrap()).to_scalar::<f32>().unwrap();
    let (none, adapted) = (|_: &str| false, Some(&adapters));
    let clip = Clip::learning(&config, &parameters, &none, adapted, DType::F32).unwrap();
    let start = loss(&clip);
    assert_eq!(start.to_scalar::<f32>().unwrap(), plain);
    // At the start `down` has no effect yet, so only `up` has a gradient; later both have.
    for round in 0..2 {
        let grads = backward(&loss(&clip)).unwrap();
        for (name, var) in adapters.vars() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(size > 0.0, round == 1 || name.ends_with("up"), "{name} {round}");
            let moved = (var.as_tensor() - (grad * 0.1).unwrap()).unwrap().detach();
            var.set(&moved).unwrap();
        }
        assert!(parameters.vars().iter().all(|(_, var)| grads.get(var).is_none()));
    }
    let learnt = loss(&clip).to_scalar::<f32>().unwrap();
    assert!(learnt < plain, "{learnt} and {plain}");
    let merged = adapters.merged(&parameters).unwrap();
    let same = loss(&Clip::frozen(&config, &merged).unwrap()).to_scalar::<f32>().unwrap();
    assert!((same - learnt).abs() < 1e-5, "{same} and {learnt}");
}

/// Gradients of [`loss`] in a type of arithmetic.
fn gradients_in(
    (config, dtype): (&ClipConfig, DType),
    parameters: &Parameters,
    learns: &dyn Fn(&str) -> bool,
) -> Grads {
    let clip = Clip::learning(config, parameters, learns, None, dtype).unwrap();
    let grads = backward(&loss(&clip)).unwrap();
    let of = |(name, var): (String, candle_core::Var)| {
        let grad = grads.get(&var)?.flatten_all().unwrap();
        Some((name, grad.to_vec1::<f32>().unwrap()))
    };
    parameters.vars().into_iter().filter_map(of).collect()
}

/// How far `got` lies from `want`, as a share of the latter's length.
fn apart(got: &[f32], want: &[f32]) -> f32 {
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    length(&mut got.iter().zip(want).map(|(a, b)| a - b)) / length(&mut want.iter().copied())
}

/// Blocks are one operation there, with a way back of their own. Skipped where there is no card.
#[test]
fn a_card_gives_the_gradients_of_the_cpu() {
    let (card @ Device::Cuda(_), _) = open(DeviceChoice::Auto) else { return };
    let half = |name: &str| name.contains("layers.1.") && !name.contains("mlp.fc1.bias");
    for (activation, learns) in [
        ("quick_gelu", &(|_: &str| true) as &dyn Fn(&str) -> bool),
        ("gelu", &|_: &str| true),
        ("gelu", &half),
    ] {
        let config = &config(activation);
        let on_cpu = parameters(config);
        let on_card = Parameters::init(config, 3, &card).unwrap();
        for ((_, to), (_, from)) in on_card.vars().iter().zip(on_cpu.vars()) {
            to.set(&from.as_tensor().to_device(&card).unwrap()).unwrap();
        }
        let want = gradients_in((config, DType::F32), &on_cpu, learns);
        let got = gradients_in((config, DType::F32), &on_card, learns);
        let got_rough = gradients_in((config, DType::BF16), &on_card, learns);
        assert!(got.keys().eq(want.keys()) && got_rough.keys().eq(want.keys()));
        assert!(got.len() >= 2 * 15);
        for (name, want) in want {
            // Softmax does not see a shift of all keys: nothing but rounding is left.
            if name.ends_with("k_proj.bias") {
                continue;
            }
            let error = apart(&got[&name], &want);
            assert!(error < 1e-4, "{name} is off by {error}");
            let error = apart(&got_rough[&name], &want);
            assert!(error < 0.15, "{name} in bf16 is off by {error}");
        }
    }
}

#[test]
fn gradients_in_bf16_are_near_those_in_f32() {
    let config = &config("gelu");
    let parameters = parameters(config);
    let all = |_: &str| true;
    let want = gradients_in((config, DType::F32), &parameters, &all);
    let rough = gradients_in((config, DType::BF16), &parameters, &all);
    for (name, want) in want.into_iter().filter(|(name, _)| !name.ends_with("k_proj.bias")) {
        let error = apart(&rough[&name], &want);
        // Without instructions for it a CPU does not round.
        assert_eq!(error > 0.0, Rounded::detect().is_some(), "{name} is off by {error}");
        assert!(error < 0.15, "{name} is off by {error}");
    }
}
