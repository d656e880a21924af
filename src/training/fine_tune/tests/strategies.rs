//! Every way to train takes part in whole runs of the tiny model.

use super::*;
use crate::training::fine_tune::loader::{Shot, load};
use crate::training::{Augment, Flip};

/// The run's weights and the loss of each epoch.
fn run(text: &str) -> (Values, Vec<f64>) {
    let (values, reports) = run_scored(text, |report| report.epoch as f64);
    (values, reports.iter().map(|report| report.loss).collect())
}

fn run_scored(text: &str, score: impl Fn(&EpochReport) -> f64) -> (Values, Vec<EpochReport>) {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let recipe = Recipe::from_toml(text).unwrap();
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
    let mut reports = Vec::new();
    let mut validate = |_: &Parameters, report: &EpochReport| {
        reports.push(report.clone());
        Ok(score(report))
    };
    let outcome = fine_tune(inputs, &mut validate, &|_| {}, &AtomicBool::new(false)).unwrap();
    (values(&outcome.best.unwrap()), reports)
}

fn start() -> Values {
    values(&Parameters::init(&model(), 1, &Device::Cpu).unwrap())
}

fn farthest(a: &Values, b: &Values) -> f32 {
    let pairs = a.iter().flat_map(|(name, values)| values.iter().zip(&b[name]));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

const SGD: &str = "rule = \"sgd\"\n";

/// Plain descent without momentum's history or Adam's division: a run of one step shows the gradient.
fn one_step(extra: &str) -> Values {
    let text = recipe(1, &format!("{SGD}clip_norm = 1e9\n{extra}")).replace("1e-3", "1e-1");
    run(&text.replace("[batch]", "[augment]\nerase = 0.0\n[batch]")).0
}

#[test]
fn micro_batches_and_recomputation_take_the_same_step() {
    let whole = one_step("");
    assert!(farthest(&whole, &start()) > 1e-3);
    let same = one_step("[compute]\nrecompute = true\n");
    assert!(farthest(&whole, &same) < 1e-6, "{}", farthest(&whole, &same));
    let text = recipe(1, &format!("{SGD}clip_norm = 1e9\n")).replace("1e-3", "1e-1");
    let text = text.replace("[batch]", "[augment]\nerase = 0.0\n[batch]\nmicro = 5");
    let parts = run(&text).0;
    assert!(farthest(&whole, &parts) < 1e-5, "{}", farthest(&whole, &parts));
}

#[test]
fn gradients_of_several_batches_make_one_step() {
    // An epoch of 24 pictures is two batches of 12: one step of both, or two steps.
    let text = |accumulate: usize| {
        recipe(1, SGD).replace("[batch]", &format!("[batch]\naccumulate = {accumulate}"))
    };
    let count = |text: &str| run_scored(text, |_| 0.0).1[0].step;
    assert_eq!((count(&text(1)), count(&text(2))), (2, 1));
    // The mean of gradients, not their sum: a step of two batches is about as long as one of one.
    let length = |accumulate| farthest(&run(&text(accumulate)).0, &start());
    let (two_steps, one) = (length(1), length(2));
    assert!(one < 0.9 * two_steps && one > 0.2 * two_steps, "{one} and {two_steps}");
}

#[test]
fn adapters_leave_everything_but_attention_as_it_was() {
    let (after, losses) = run(&recipe(20, "[lora]\nrank = 2\n").replace("1e-3", "1e-2"));
    for (name, before) in start() {
        let attention = name.contains(".self_attn.") && name.ends_with("weight");
        assert_eq!(after[&name] != before, attention || name == "logit_scale", "{name}");
    }
    assert!(losses[19] < losses[0], "{losses:?}");
}

#[test]
fn descent_and_bf16_lower_the_loss() {
    for extra in [SGD, "[compute]\nprecision = \"bf16\"\n"] {
        let (_, losses) = run(&recipe(30, extra));
        assert!(losses[29] < 0.9 * losses[0], "{extra}: {losses:?}");
    }
}

#[test]
fn a_plateau_cuts_the_rate() {
    let schedule = "[optimizer.schedule]\nkind = \"plateau\"\nepochs = 2\nfactor = 0.1\n";
    let best = |report: &EpochReport| if report.epoch == 2 { 1.0 } else { 0.5 };
    let (_, reports) = run_scored(&recipe(7, schedule), best);
    let rates: Vec<f64> = reports.iter().map(|report| report.learning_rate).collect();
    let want = [1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5];
    assert!(rates.iter().zip(want).all(|(a, b)| (a / b - 1.0).abs() < 1e-9), "{rates:?}");
}

#[test]
fn mirrored_hands_are_hands_of_their_own() {
    let flips = "[augment]\nhorizontal_flip = 0.5\nerase = 0.0\n";
    let (_, losses) = run(&recipe(30, flips));
    assert!(losses[29] < 0.9 * losses[0], "{losses:?}");
    // All of a hand's pictures in a batch are flipped alike, and both kinds come up.
    let recipe = Recipe::from_toml(flips).unwrap();
    let flipped: Vec<bool> = (0..40)
        .map(|seed| super::super::plan::draw_flip(&recipe.augment, seed, 3).mirrors())
        .collect();
    assert!(flipped.contains(&true) && flipped.contains(&false));
    assert_eq!(super::super::plan::draw_flip(&AugmentRecipe::default(), 1, 3), Flip::default());
}

const PROMPTS: &str = "epochs = 10\nvalidation = 0.0\n[batch]\nhands = 6\nimages = 2\nkinds = 3\n\
    [optimizer]\nlearning_rate = 1e-3\nwarmup_epochs = 0\n[freeze]\ntext = true\n\
    [prompt_learning]\nepochs = 20\nbatch = 8\nlearning_rate = 0.05\n\
    [losses.image_to_prompt]\n";

#[test]
fn learned_prompts_tell_hands_apart_and_teach_the_image_tower() {
    let (after, losses) = run(PROMPTS);
    assert!(losses[9] < losses[0], "{losses:?}");
    for (name, before) in start() {
        let image = name.starts_with("vision_model.") || name == "visual_projection.weight";
        let blind = name.ends_with("k_proj.bias");
        assert!(blind || (after[&name] != before) == image, "{name}");
    }
}

/// What broke a published run: the prompt's vector was taken at the start token, where it is the same for
/// every hand.
#[test]
fn the_vector_of_a_prompt_depends_on_its_words() {
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let recipe = Recipe::from_toml(PROMPTS).unwrap();
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
    let stage = recipe.prompt_learning.as_ref().unwrap();
    let losses = RefCell::new(Vec::new());
    let say = |at: FineTuneProgress| losses.borrow_mut().push(at.loss);
    let never = AtomicBool::new(false);
    let features =
        super::super::prompt_learning::learn_prompts(inputs, stage, &say, &never).unwrap();
    assert_eq!(features.dims(), [6, config.projection_dim]);
    let cosines = features.matmul(&features.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
    for (i, row) in cosines.iter().enumerate() {
        assert!((row[i] - 1.0).abs() < 1e-5);
        assert!((0..6).filter(|j| *j != i).all(|j| row[j] < 0.999), "{row:?}");
    }
    let losses = losses.into_inner();
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    assert!(mean(&losses[losses.len() - 6..]) < mean(&losses[..6]), "{losses:?}");
}

/// Text contrast without anything that a prompt could say would teach nothing, and in silence.
#[test]
fn image_text_contrast_without_prompts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (files, mut pictures) = hands(dir.path());
    pictures.iter_mut().for_each(|picture| picture.attributes = HandAttributes::default());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let run = |text: &str| {
        let recipe = Recipe::from_toml(text).unwrap();
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
        let never = AtomicBool::new(false);
        fine_tune(inputs, &mut |_, _| Ok(0.0), &|_| {}, &never).map(|outcome| outcome.steps)
    };
    let error = run(&recipe(1, "")).unwrap_err().to_string();
    assert!(error.contains("info_nce") && error.contains("`prompt`"), "{error}");
    assert_eq!(run(&recipe(1, "").replace("[losses.info_nce]\nweight = 1.0\n", "")).unwrap(), 2);
}

/// Heads are thrown away after a run: one that trains them alone would end well, and be for nothing.
#[test]
fn a_run_in_which_nothing_learns_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let run = |files: &PictureFiles<'_>, text: &str| {
        let recipe = Recipe::from_toml(text).unwrap();
        let inputs = FineTuneInputs {
            model: &config,
            parameters: &parameters,
            tokens: &tokens,
            files,
            pictures: &pictures,
            recipe: &recipe,
            device: &Device::Cpu,
            checkpoint: None,
        };
        let never = AtomicBool::new(false);
        fine_tune(inputs, &mut |_, _| Ok(0.0), &|_| {}, &never).map(|outcome| outcome.steps)
    };
    let text = recipe(1, "[lora]\nrank = 2\n[freeze]\ntext = true\nblocks = 99\n");
    let error = run(&files, &text).unwrap_err();
    assert!(matches!(error, TrainingError::NothingLearns), "{error}");
    // All files are left out because none can be read.
    let paths = (0..24).map(|file| dir.path().join(format!("{file}.png"))).collect();
    let gone = PictureFiles::new(paths, Preprocessing::clip(SIDE), 1 << 20, Unreadable::Skip);
    let error = run(&gone, &recipe(3, "")).unwrap_err();
    assert!(matches!(error, TrainingError::NoBatch { epoch: 1 }), "{error}");
}

/// A run that is told to stop takes no step more, whatever was made ahead, and an epoch that was not scored to
/// its end does not count.
#[test]
fn cancelling_stops_at_once_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let recipe = Recipe::from_toml(&recipe(50, "")).unwrap();
    let run = |cancel_at: usize, in_validation: bool| {
        let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
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
        let cancel = AtomicBool::new(false);
        let mut validate = |_: &Parameters, report: &EpochReport| {
            if in_validation && report.step == cancel_at {
                return Err(TrainingError::Cancelled);
            }
            Ok(report.epoch as f64)
        };
        let progress = |at: FineTuneProgress| {
            if !in_validation && at.step == cancel_at {
                cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let outcome = fine_tune(inputs, &mut validate, &progress, &cancel).unwrap();
        assert!(outcome.best.is_some());
        (outcome.steps, outcome.best_epoch)
    };
    // Two steps an epoch.
    assert_eq!(run(5, false), (5, 2));
    assert_eq!(run(1, false), (1, 0));
    assert_eq!(run(6, true), (6, 2));
}

/// Image-text contrast moves the factor on cosines, and learned prompts are compared by the one of the start.
#[test]
fn a_run_with_learned_prompts_goes_on_as_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let text = PROMPTS.replace("epochs = 10", "epochs = 4").replace("= 1e-3", "= 1e-1");
    let recipe = Recipe::from_toml(&format!("{text}[losses.info_nce]\nweight = 1.0\n")).unwrap();
    let run = |name: &str, cancel_at: usize, resume: bool| {
        let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
        let path = dir.path().join(name);
        let inputs = FineTuneInputs {
            model: &config,
            parameters: &parameters,
            tokens: &tokens,
            files: &files,
            pictures: &pictures,
            recipe: &recipe,
            device: &Device::Cpu,
            checkpoint: Some(Checkpoint { path: &path, about: "", resume }),
        };
        let cancel = AtomicBool::new(false);
        let progress = |at: FineTuneProgress| {
            if at.stage == Stage::Towers && at.step == cancel_at {
                cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let mut validate = |_: &Parameters, report: &EpochReport| Ok(report.epoch as f64);
        fine_tune(inputs, &mut validate, &progress, &cancel).unwrap();
        values(&parameters)
    };
    let whole = run("whole", usize::MAX, false);
    assert_ne!(whole["logit_scale"], start()["logit_scale"]);
    // Two steps an epoch: it is stopped in the third.
    run("parts", 5, false);
    assert_eq!(run("parts", usize::MAX, true), whole);
}

/// What broke another: pixels were normalised for evaluation and not for training.
#[test]
fn training_sees_the_pixels_that_serving_sees() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = hands(dir.path());
    let shots = [Shot { file: 5, flip: Flip::default() }];
    let loaded = load(&files, &Augment::none(SIDE as usize), &shots, 1).unwrap();
    let bytes = std::fs::read(files.path(5)).unwrap();
    let picture = crate::image::decode(&bytes, &crate::image::DecodeLimits::default()).unwrap();
    let preprocessing = files.preprocessing();
    assert_eq!(loaded.pixels, preprocessing.normalise(&preprocessing.pixels(&picture)));
    assert!(loaded.pixels.iter().any(|value| *value < 0.0), "normalised, not 0 to 1");
}

/// What broke a third: the heads of the losses were handed to no optimiser.
#[test]
fn every_head_is_stepped() {
    let dir = tempfile::tempdir().unwrap();
    let (files, pictures) = hands(dir.path());
    let config = model();
    let parameters = Parameters::init(&config, 1, &Device::Cpu).unwrap();
    let margins = "weight = 1.0\nmargin = 0.2\nscale = 8.0\n";
    let text = format!(
        "{}[losses.arc_face]\n{margins}[losses.cos_face]\n{margins}[losses.center]\nweight = 1.0\n",
        recipe(1, "")
    );
    let recipe = Recipe::from_toml(&text).unwrap();
    let path = dir.path().join("state");
    let heads = |epochs: usize| -> BTreeMap<String, Vec<f32>> {
        let recipe = Recipe { epochs, ..recipe.clone() };
        let checkpoint = Checkpoint { path: &path, about: "", resume: false };
        let inputs = FineTuneInputs {
            model: &config,
            parameters: &parameters,
            tokens: &tokens,
            files: &files,
            pictures: &pictures,
            recipe: &recipe,
            device: &Device::Cpu,
            checkpoint: Some(checkpoint),
        };
        let mut validate = |_: &Parameters, _: &EpochReport| Ok(0.0);
        fine_tune(inputs, &mut validate, &|_| {}, &AtomicBool::new(false)).unwrap();
        let resume = Checkpoint { resume: true, ..checkpoint };
        let state = super::super::state::RunState::load(&resume).unwrap().unwrap();
        let moments = |name: &str| name.ends_with(".mean") || name.ends_with(".square");
        state.arrays.into_iter().filter(|(n, _)| n.starts_with("heads.") && !moments(n)).collect()
    };
    let (one, two) = (heads(1), heads(2));
    let names: Vec<&str> = one.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["heads.arc_face", "heads.centres", "heads.classifier", "heads.cos_face", "heads.neck"]
    );
    for (name, values) in &one {
        assert_ne!(*values, two[name], "{name}");
    }
}
