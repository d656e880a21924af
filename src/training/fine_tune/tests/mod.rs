//! Whole runs of a tiny model on pictures told apart by colour.

mod gradients;
mod strategies;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

use super::*;
use crate::domain::{Aspect, HandAttributes, Side};
use crate::image::{Picture, Preprocessing, encode_jpeg};
use crate::model::{ModelError, Parameters};
use crate::training::TrainingError;
use crate::training::tests::{encode, model};

const SIDE: u32 = 16;

type Values = BTreeMap<String, Vec<f32>>;

/// Six hands of three kinds, four pictures each.
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
fn hands(dir: &Path) -> (PictureFiles<'static>, Vec<TrainPicture>) {
    let (mut paths, mut pictures) = (Vec::new(), Vec::new());
    for file in 0..24_usize {
        let hand = file / 4;
        let shade = |c: usize| (40 + 35 * ((hand + 2 * c) % 6) + 3 * (file % 4)) as u8;
        let rgb = (0..SIDE * SIDE).flat_map(|_| [shade(0), shade(1), shade(2)]).collect();
        let picture = Picture::from_rgb(SIDE, SIDE, rgb).unwrap();
        let path = dir.join(format!("{file}.jpg"));
        std::fs::write(&path, encode_jpeg(&picture, 95).unwrap()).unwrap();
        paths.push(path);
        let attributes = HandAttributes {
            aspect: Some(if hand % 3 == 0 { Aspect::Dorsal } else { Aspect::Palmar }),
            side: Some(if hand % 3 == 1 { Side::Left } else { Side::Right }),
            accessories: Some(file % 2 == 0),
            ..HandAttributes::default()
        };
        pictures.push(TrainPicture { file, hand: hand as u32, kind: hand % 3, attributes });
    }
    (PictureFiles::new(paths, Preprocessing::clip(SIDE), 1 << 20, Unreadable::Fatal), pictures)
}

fn tokens(texts: &[String]) -> Result<Vec<Vec<u32>>, ModelError> {
    let mut rows = encode(texts)?;
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row.resize(longest, 63));
    Ok(rows)
}

fn values(parameters: &Parameters) -> Values {
    let flat = |(name, var): (String, candle_core::Var)| {
        (name, var.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    parameters.vars().into_iter().map(flat).collect()
}

/// Trains and gives the run's outcome, the weights after it, and those of each validation.
fn train(recipe: &str, scores: &[f64]) -> (FineTuned, Values, Vec<Values>) {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let recipe = Recipe::from_toml(recipe).unwrap();
    let inputs = FineTuneInputs {
        model: &config,
        parameters: &parameters,
        tokens: &tokens,
        files: &files,
        pictures: &pictures,
        recipe: &recipe,
        device: &Device::Cpu,
        checkpoint: None,
    };
    let validated = RefCell::new(Vec::new());
    let mut validate = |now: &Parameters, report: &EpochReport| -> Result<f64, TrainingError> {
        validated.borrow_mut().push(values(now));
        Ok(scores[(report.epoch - 1) % scores.len()])
    };
    let outcome = fine_tune(inputs, &mut validate, &|_| {}, &AtomicBool::new(false)).unwrap();
    (outcome, values(&parameters), validated.into_inner())
}

const LOSSES: &str = "[losses.cross_entropy]\n[losses.triplet]\n[losses.info_nce]\nweight = 1.0\n";

fn recipe(epochs: usize, rest: &str) -> String {
    format!(
        "epochs = {epochs}\n[batch]\nhands = 6\nimages = 2\nkinds = 3\n\
         [optimizer]\nlearning_rate = 1e-3\nwarmup_epochs = 0\n{rest}{LOSSES}"
    )
}

#[test]
fn what_is_frozen_stays_and_everything_else_moves() {
    let start = values(&Parameters::init(&model(), 1, &Device::Cpu).unwrap());
    for freeze in [
        Freeze::default(),
        Freeze { text: true, ..Freeze::default() },
        Freeze { image: true, ..Freeze::default() },
        Freeze { embeddings: true, ..Freeze::default() },
        Freeze { blocks: 1, ..Freeze::default() },
        Freeze { all_but_projections: true, ..Freeze::default() },
        Freeze { text: true, blocks: 2, embeddings: true, ..Freeze::default() },
    ] {
        let toml = toml::to_string(&freeze).unwrap();
        let (_, after, _) = train(&recipe(1, &format!("[freeze]\n{toml}")), &[1.0]);
        for (name, before) in &start {
            let moved = *before != after[name];
            // Softmax does not see a shift of all keys: that gradient is zero but for rounding.
            let blind = name.ends_with("k_proj.bias");
            // Tokens and places that no prompt has keep their embeddings, others do not.
            assert!(blind || moved != freeze.holds(name), "{name} with {freeze:?}");
        }
    }
}

#[test]
fn the_best_weights_are_a_copy_that_later_steps_leave_alone() {
    let (outcome, last, validated) = train(&recipe(4, ""), &[0.1, 0.9, 0.3, 0.2]);
    assert_eq!((outcome.best_epoch, outcome.best_score), (2, Some(0.9)));
    let best = values(&outcome.best.unwrap());
    assert_eq!(best, validated[1]);
    assert_ne!(best, last);
    assert_eq!(validated[3], last);
}

#[test]
fn a_run_ends_when_validation_gets_no_better_for_long_enough() {
    let text = format!("patience = 2\n{}", recipe(9, ""));
    let (outcome, _, validated) = train(&text, &[0.5, 0.6, 0.6, 0.1, 0.9]);
    assert!(outcome.stopped_early);
    assert_eq!((validated.len(), outcome.best_epoch), (4, 2), "an equal score is no better one");
}

#[test]
fn training_lowers_the_losses() {
    let reports = RefCell::new(Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let recipe = Recipe::from_toml(&recipe(40, "")).unwrap();
    let inputs = FineTuneInputs {
        model: &config,
        parameters: &parameters,
        tokens: &tokens,
        files: &files,
        pictures: &pictures,
        recipe: &recipe,
        device: &Device::Cpu,
        checkpoint: None,
    };
    let mut validate = |_: &Parameters, report: &EpochReport| {
        reports.borrow_mut().push(report.clone());
        Ok(0.0)
    };
    fine_tune(inputs, &mut validate, &|_| {}, &AtomicBool::new(false)).unwrap();
    let reports = reports.into_inner();
    let (first, last) = (&reports[0], &reports[reports.len() - 1]);
    for part in ["cross_entropy", "triplet", "info_nce"] {
        let (from, to) = (first.parts[part], last.parts[part]);
        assert!(to < 0.8 * from, "{part}: {from} to {to}");
    }
}
