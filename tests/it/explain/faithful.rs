//! Whether a map shows what the model looks at: of the embedded model, on generated hands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use handclip::domain::Embedding;
use handclip::image::{DecodeLimits, Picture, Preprocessing, decode};
use handclip::model::{ClipConfig, Embedder, ExplainMethod, ModelParts, Parameters, PatchMap};
use handclip::service::explain::deletion_and_insertion;
use handclip::service::{CurvesView, read_dataset};
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::support::app::{Hand, hands};
use crate::support::shared_data;

fn picture(hand: &Hand) -> Picture {
    decode(&hand.jpeg, &DecodeLimits::default()).unwrap()
}

fn embed(model: &Embedder, picture: &Picture) -> Embedding {
    let pixels = model.preprocessing().apply(picture);
    model.embed_pixels(&[pixels]).unwrap().remove(0).unwrap()
}

fn explain(
    model: &Embedder,
    picture: &Picture,
    target: &Embedding,
    method: ExplainMethod,
) -> PatchMap {
    model.explain(&model.preprocessing().apply(picture), target, method).unwrap()
}

/// Pictures, each with the embedding of another picture of the same hand.
fn pairs(model: &Embedder) -> Vec<(Picture, Embedding)> {
    let pictures: Vec<Picture> = hands().iter().map(picture).collect();
    let pairs = pictures.chunks_exact(2);
    pairs.map(|pair| (pair[0].clone(), embed(model, &pair[1]))).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean areas under the curves of deletion and insertion.
type Areas = (f64, f64);

/// Of maps by chance, and of every method's.
fn areas(model: &Embedder, pairs: &[(Picture, Embedding)]) -> (Areas, Vec<(ExplainMethod, Areas)>) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let curves = |(picture, target): &(Picture, Embedding), map: &PatchMap| -> CurvesView {
        deletion_and_insertion(model, picture, target, map).unwrap()
    };
    let of = |curves: &[CurvesView]| {
        // Both curves begin and end with the same pictures whatever the map.
        for curve in curves {
            let (whole, nothing) = (curve.deletion[0], curve.deletion[curve.deletion.len() - 1]);
            assert!(whole > nothing, "nothing is as similar as the whole: {whole} {nothing}");
        }
        let deletion = mean(curves.iter().map(|c| c.deletion_auc));
        (deletion, mean(curves.iter().map(|c| c.insertion_auc)))
    };
    let mut by_chance = Vec::new();
    for pair in pairs {
        let mut map = explain(model, &pair.0, &pair.1, ExplainMethod::Rollout);
        map.values.iter_mut().for_each(|value| *value = rng.random());
        by_chance.push(curves(pair, &map));
    }
    let by_chance = of(&by_chance);
    println!("by chance: deletion {:.4}, insertion {:.4}", by_chance.0, by_chance.1);
    let methods = ExplainMethod::ALL.into_iter().map(|method| {
        let maps = pairs.iter().map(|pair| curves(pair, &explain(model, &pair.0, &pair.1, method)));
        let found = of(&maps.collect::<Vec<_>>());
        println!("{method}: deletion {:.4}, insertion {:.4}", found.0, found.1);
        (method, found)
    });
    (by_chance, methods.collect())
}

#[test]
fn deletion_falls_and_insertion_rises_faster_by_a_map_than_by_chance() {
    let model = Embedder::nano(&Device::Cpu).unwrap();
    let pairs = pairs(&model);
    assert!(pairs.len() >= 12);
    let (chance, methods) = areas(&model, &pairs);
    for (method, (deletion, insertion)) in methods {
        // On drawn hands Grad-CAM is no better than chance; on photographs it is, below.
        if method != ExplainMethod::GradCam {
            assert!(deletion < chance.0 - 0.1, "{method}: {deletion} {chance:?}");
            assert!(insertion > chance.1 + 0.05, "{method}: {insertion} {chance:?}");
        }
    }
}

#[test]
fn on_photographs_a_map_beats_chance_too() {
    let Some(shared) = shared_data("on_photographs_a_map_beats_chance_too") else { return };
    let model = Embedder::nano(&Device::Cpu).unwrap();
    let images = read_dataset(&shared.join("hands11k")).unwrap();
    let mut of_hand: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for image in images {
        let about = &image.attributes;
        let key = format!("{} {:?} {:?}", image.subject, about.aspect, about.side);
        of_hand.entry(key).or_default().push(image.path);
    }
    let open =
        |path: &PathBuf| decode(&std::fs::read(path).unwrap(), &DecodeLimits::default()).unwrap();
    let hands = of_hand.values().filter(|paths| paths.len() > 1).take(100);
    let pairs: Vec<(Picture, Embedding)> =
        hands.map(|paths| (open(&paths[0]), embed(&model, &open(&paths[1])))).collect();
    assert!(pairs.len() > 50);
    let (chance, methods) = areas(&model, &pairs);
    for (method, (deletion, insertion)) in methods {
        // Of a class token that has looked already, Grad-CAM tells little: by how much it beats chance is little, too.
        let (less, more) = match method {
            ExplainMethod::GradCam => (0.01, 0.0),
            ExplainMethod::Rollout | ExplainMethod::Relevance => (0.1, 0.03),
        };
        assert!(deletion < chance.0 - less, "{method}: {deletion} {chance:?}");
        assert!(insertion > chance.1 + more, "{method}: {insertion} {chance:?}");
    }
}

/// The embedded model, or one whose image tower has the same weights in another order.
fn nano(shuffled: bool) -> Embedder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let config = ClipConfig::from_json(&text("config.json")).unwrap();
    let parameters = Parameters::load(&config, &folder, &Device::Cpu).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (name, var) in parameters.vars() {
        if shuffled && name.starts_with("vis") {
            let flat = var.as_tensor().flatten_all().unwrap();
            let mut values = flat.to_vec1::<f32>().unwrap();
            values.shuffle(&mut rng);
            let tensor = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            var.set(&tensor).unwrap();
        }
    }
    let tokenizer = text("tokenizer.json");
    let parts = ModelParts {
        config: &config,
        parameters: &parameters,
        tokenizer: tokenizer.as_bytes(),
        preprocessing: Preprocessing::from_json(&text("preprocessor_config.json")).unwrap(),
        device: &Device::Cpu,
    };
    Embedder::from_parts("nano", parts).unwrap()
}

/// Ranks from 0; equals share their mean rank.
fn ranks(values: &[f32]) -> Vec<f64> {
    let below = |value: f32| values.iter().filter(|other| **other < value).count() as f64;
    let equal = |value: f32| values.iter().filter(|other| **other == value).count() as f64;
    values.iter().map(|value| below(*value) + (equal(*value) - 1.0) / 2.0).collect()
}

/// Spearman's; 0 where one map is flat.
fn rank_correlation(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum()
    };
    let size = (sum(&a, &a) * sum(&b, &b)).sqrt();
    if size == 0.0 { 0.0 } else { sum(&a, &b) / size }
}

/// Adebayo et al., 2018: a map that survives the loss of the weights shows the picture, not the model.
#[test]
fn a_model_with_shuffled_weights_has_other_maps() {
    assert!((rank_correlation(&[1.0, 2.0, 9.0], &[0.1, 0.2, 0.3]) - 1.0).abs() < 1e-12);
    assert!((rank_correlation(&[1.0, 2.0, 2.0, 3.0], &[3.0, 2.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
    let (trained, again, shuffled) = (nano(false), nano(false), nano(true));
    let own = pairs(&trained);
    let other = pairs(&shuffled);
    for method in ExplainMethod::ALL {
        let maps = |model: &Embedder, pairs: &[(Picture, Embedding)]| -> Vec<Vec<f32>> {
            let explain = |(p, t): &(Picture, Embedding)| explain(model, p, t, method).values;
            pairs.iter().map(explain).collect()
        };
        let (first, second) = (maps(&trained, &own), maps(&again, &own));
        assert_eq!(first, second, "{method}: the same weights give the same maps");
        let changed = maps(&shuffled, &other);
        let correlation = mean(first.iter().zip(&changed).map(|(a, b)| rank_correlation(a, b)));
        println!("{method}: rank correlation with shuffled weights {correlation:.3}");
        assert!(correlation.abs() < 0.5, "{method}: {correlation}");
    }
}

#[test]
fn another_prompt_has_another_map_except_where_the_method_knows_no_target() {
    let model = Embedder::nano(&Device::Cpu).unwrap();
    let prompts = ["a palmar left hand", "a hand with a ring"].map(str::to_owned);
    let targets: Vec<Embedding> =
        model.embed_texts(&prompts).unwrap().into_iter().map(Result::unwrap).collect();
    let picture = picture(&hands()[0]);
    for method in ExplainMethod::ALL {
        let maps = [0, 1].map(|i| explain(&model, &picture, &targets[i], method));
        let same = maps[0].values == maps[1].values;
        assert_eq!(same, method == ExplainMethod::Rollout, "{method}");
        assert_ne!(maps[0].similarity, maps[1].similarity);
    }
}
