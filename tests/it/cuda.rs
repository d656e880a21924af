//! What a CUDA device computes is what the CPU computes. Where no card works, or the build has no feature `cuda`, each
//! test says so and is skipped.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use handclip::service::ModelChoice;
use handclip::service::fine_tune::{FineTuneRequest, fine_tune_model};
use handclip::service::tools::OfflineModel;
use serde_json::Value;

use crate::fine_tune::{hands, request};

const CARD: &str = "cuda:0";
/// All losses but that of learned prompts.
const RECIPE: &str = "seed = 3\nepochs = 3\nvalidation = 0.25\n[batch]\nhands = 8\nimages = 2\nkinds = 2\n\
    [optimizer]\nlearning_rate = 5e-5\nwarmup_epochs = 0\naverage = 0.9\n\
    [losses.cross_entropy]\n[losses.triplet]\n[losses.sup_con]\n[losses.arc_face]\nweight = 1.0\nmargin = 0.3\nscale = 16.0\n\
    [losses.cos_face]\nweight = 1.0\nmargin = 0.2\nscale = 16.0\n[losses.center]\nweight = 0.01\n[losses.info_nce]\nweight = 1.0\n";

/// The card's name for a device, or nothing where there is none.
fn card() -> Option<&'static str> {
    let model = OfflineModel::open(&ModelChoice::Nano, CARD).unwrap();
    if let Some(notice) = model.notices.first() {
        println!("skipped: {notice}");
        return None;
    }
    Some(CARD)
}

fn pictures(dir: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
    files.map(|file| file.unwrap().into_path()).filter(|file| is_picture(file)).collect()
}

fn is_picture(file: &Path) -> bool {
    file.extension().is_some_and(|kind| kind == "jpg" || kind == "png")
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn embeddings_are_those_of_the_cpu() {
    let Some(card) = card() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [ours, theirs] =
        [card, "cpu"].map(|device| OfflineModel::open(&ModelChoice::Nano, device).unwrap());
    let pictures = pictures(&hands(dir.path()));
    assert!(pictures.len() >= 36);
    for picture in &pictures {
        let (a, b) = (ours.image(picture).unwrap(), theirs.image(picture).unwrap());
        let worst = farthest(&a.embedding, &b.embedding);
        assert!(worst <= 2e-5, "{}: {worst}", picture.display());
        assert_eq!(a.fingerprint, b.fingerprint, "what is alike may be compared");
    }
    for text in ["a dorsal right hand", "a palmar left hand with a ring, of a person who is old"] {
        let (a, b) = (ours.text(text).unwrap(), theirs.text(text).unwrap());
        let worst = farthest(&a.embedding, &b.embedding);
        assert!(worst <= 2e-5, "{text}: {worst}");
    }
}

/// Losses by name of each epoch.
fn losses(data: &Path, out: PathBuf, device: &str, recipe: &str) -> Vec<Vec<(String, f64)>> {
    let device = device.to_owned();
    let request = FineTuneRequest { device, ..request(data, out.clone(), recipe) };
    fine_tune_model(&request, &|_| {}, &AtomicBool::new(false)).unwrap();
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let epoch = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let parts = line["epoch"]["parts"].as_object().unwrap().clone();
        parts.into_iter().map(|(name, value)| (name, value.as_f64().unwrap())).collect()
    };
    text.lines().map(epoch).collect()
}

#[test]
fn training_takes_the_steps_of_the_cpu() {
    let Some(card) = card() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let variants = [
        ("adamw", "", 2e-3),
        ("bf16", "[compute]\nprecision = \"bf16\"\n", 0.05),
        ("recompute", "[compute]\nrecompute = true\n", 2e-3),
    ];
    let reference = losses(&data, dir.path().join("cpu"), "cpu", RECIPE);
    assert_eq!(reference.len(), 3);
    for (name, extra, tolerance) in variants {
        let recipe = format!("{RECIPE}{extra}");
        let got = losses(&data, dir.path().join(name), card, &recipe);
        for (epoch, (got, want)) in got.iter().zip(&reference).enumerate() {
            assert_eq!(got.len(), 7);
            for ((loss, got), (_, want)) in got.iter().zip(want) {
                let allowed = tolerance * want.abs().max(0.1);
                let what = format!("{name}, epoch {epoch}, {loss}: {got} for {want}");
                assert!((got - want).abs() <= allowed, "{what}");
            }
        }
    }
}
