//! A whole run on a tiny model and pictures told apart by colour and by the place of a bright square.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;

use super::*;
use crate::domain::{Aspect, Side};
use crate::image::Preprocessing;
use crate::model::{ClipConfig, ModelError, Parameters};

const SIZE: usize = 16;

pub(super) fn model() -> ClipConfig {
    let json = serde_json::json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 16,
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIZE, "patch_size": 8,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
        "text_config": {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 64, "max_position_embeddings": 32,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "bos_token_id": 62, "eos_token_id": 63, "pad_token_id": 63,
        },
    });
    ClipConfig::from_json(&json.to_string()).unwrap()
}

/// A token a word, by its letters.
pub(super) fn encode(texts: &[String]) -> Result<Vec<Vec<u32>>, ModelError> {
    let token = |word: &str| word.bytes().fold(7_u32, |n, b| n * 31 % 1009 + u32::from(b)) % 62;
    let row = |text: &String| {
        std::iter::once(62).chain(text.split_whitespace().map(token)).chain([63]).collect()
    };
    Ok(texts.iter().map(row).collect())
}

/// Four people with three pictures of each hand: the person has a colour, the kind of hand a corner.
fn pictures() -> LabelledPixels {
    let mut data = LabelledPixels { size: SIZE, ..LabelledPixels::default() };
    for hand in 0..16_usize {
        let (person, kind) = (hand / 4, hand % 4);
        for picture in 0..3 {
            for at in 0..SIZE * SIZE {
                let (x, y) = (at % SIZE, at / SIZE);
                let corner = usize::from(x >= SIZE / 2) + 2 * usize::from(y >= SIZE / 2);
                let value = |c: usize| match (corner == kind, c == person % 3) {
                    (true, _) => 250,
                    (false, true) => 40 + 30 * person + picture,
                    (false, false) => 120 - 20 * person,
                };
                data.pixels.extend((0..3).map(|c| value(c) as u8));
            }
            data.hands.push(hand as u32);
            data.facts.push(Facts {
                aspect: if kind < 2 { Aspect::Dorsal } else { Aspect::Palmar },
                side: if kind % 2 == 0 { Side::Right } else { Side::Left },
                ring: false,
                bracelet: false,
                watch: false,
                polish: false,
                sleeve: false,
            });
        }
    }
    data
}

fn config(steps: usize) -> PretrainConfig {
    PretrainConfig {
        seed: 5,
        steps,
        hands: 8,
        prompts: 8,
        learning_rate: 4e-3,
        warmup: 5,
        validate_every: 10,
        ..PretrainConfig::default()
    }
}

/// The outcome and the mean losses between validations.
fn run(
    config: &PretrainConfig,
    cancel: &AtomicBool,
) -> Result<(Outcome, Vec<Epoch>), TrainingError> {
    let (model, data, preprocessing) = (model(), pictures(), Preprocessing::clip(SIZE as u32));
    let inputs = Inputs {
        model: &model,
        encode: &encode,
        preprocessing: &preprocessing,
        data: &data,
        augment: Augment::standard(SIZE),
        config,
    };
    let epochs = RefCell::new(Vec::new());
    let outcome = pretrain(
        inputs,
        &Device::Cpu,
        &mut |_, epoch| {
            epochs.borrow_mut().push(epoch);
            Ok(-epoch.loss)
        },
        &|_| {},
        cancel,
    )?;
    Ok((outcome, epochs.into_inner()))
}

fn values(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    let flat = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1().unwrap();
    parameters.vars().iter().map(|(name, var)| (name.clone(), flat(var))).collect()
}

#[test]
fn both_losses_fall() {
    let (outcome, epochs) = run(&config(60), &AtomicBool::new(false)).unwrap();
    let (first, last) = (epochs[0], epochs[epochs.len() - 1]);
    assert!(last.identity < 0.8 * first.identity, "{} to {}", first.identity, last.identity);
    assert!(last.text < 0.9 * first.text, "{} to {}", first.text, last.text);
    assert!(epochs.iter().all(|epoch| epoch.gradient_norm > 0.0));
    assert_eq!((outcome.steps, outcome.images), (60, 60 * 16));
}

#[test]
fn every_parameter_learns() {
    let cancel = AtomicBool::new(false);
    let (before, _) = run(&config(1), &cancel).unwrap();
    let (after, _) = run(&PretrainConfig { validate_every: 3, ..config(3) }, &cancel).unwrap();
    for ((name, a), (_, b)) in values(&before.best).iter().zip(&values(&after.best)) {
        assert!(a != b, "{name} did not change");
    }
}

#[test]
fn a_run_follows_from_its_seed() {
    let best =
        |config: &PretrainConfig| values(&run(config, &AtomicBool::new(false)).unwrap().0.best);
    assert_eq!(best(&config(4)), best(&config(4)));
    assert_ne!(best(&config(4)), best(&PretrainConfig { seed: 6, ..config(4) }));
}

#[test]
fn the_best_weights_are_a_copy_and_not_the_last() {
    let best_at_first = |_: &Parameters, epoch: Epoch| Ok(-(epoch.step as f64));
    let (model, data, preprocessing) = (model(), pictures(), Preprocessing::clip(SIZE as u32));
    let config = config(30);
    let inputs = Inputs {
        model: &model,
        encode: &encode,
        preprocessing: &preprocessing,
        data: &data,
        augment: Augment::standard(SIZE),
        config: &config,
    };
    let seen = RefCell::new(Vec::new());
    let outcome = pretrain(
        inputs,
        &Device::Cpu,
        &mut |parameters, epoch| {
            seen.borrow_mut().push(values(parameters));
            best_at_first(parameters, epoch)
        },
        &|_| {},
        &AtomicBool::new(false),
    )
    .unwrap();
    assert_eq!((outcome.best_step, outcome.best_score), (10, -10.0));
    let seen = seen.into_inner();
    assert!(values(&outcome.best) == seen[0] && seen[0] != seen[2]);
}

#[test]
fn a_cancelled_run_stops_and_gives_what_it_has() {
    let cancel = AtomicBool::new(true);
    let (outcome, epochs) = run(&config(50), &cancel).unwrap();
    assert!(cancel.load(Ordering::Relaxed));
    assert_eq!((outcome.steps, epochs.len()), (0, 0));
    assert!(outcome.best_score.is_nan());
}

#[test]
fn settings_that_make_no_run_are_refused() {
    let cancel = AtomicBool::new(false);
    for bad in [
        PretrainConfig { steps: 0, ..config(1) },
        PretrainConfig { prompts: 0, ..config(1) },
        PretrainConfig { hands: 9, ..config(1) },
        PretrainConfig { learning_rate: 0.0, ..config(1) },
        PretrainConfig { temperature: 0.0, ..config(1) },
    ] {
        assert!(matches!(run(&bad, &cancel), Err(TrainingError::Setting { .. })), "{bad:?}");
    }
    let diverged = run(&PretrainConfig { learning_rate: 1e30, warmup: 0, ..config(20) }, &cancel);
    assert!(matches!(diverged, Err(TrainingError::Diverged { .. } | TrainingError::Tensor(_))));
}
