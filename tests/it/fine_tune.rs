//! Fine-tuning, from a folder of pictures to a model directory that serves.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use handclip::domain::{Aspect, Side};
use handclip::service::ModelChoice;
use handclip::service::fine_tune::{
    FineTuneEvent, FineTuneRequest, FineTuneSummary, TrainingData, fine_tune_model,
};
use handclip::service::tools::{Drawing, OfflineModel, draw_hands};
use handclip::training::fine_tune::Recipe;
use serde_json::Value;

const RECIPE: &str = "seed = 3\nepochs = 2\nvalidation = 0.25\n\
    [batch]\nhands = 8\nimages = 2\nkinds = 2\n\
    [optimizer]\nlearning_rate = 5e-5\nwarmup_epochs = 0\n\
    [losses.cross_entropy]\n[losses.triplet]\n[losses.info_nce]\nweight = 0.5\n";

pub(crate) fn hands(dir: &Path) -> PathBuf {
    let out = dir.join("hands");
    let drawing = Drawing { subjects: 12, images: 3, seed: 5, size: 96 };
    draw_hands(drawing, &out, &|_, _| {}).unwrap();
    out
}

pub(crate) fn request(data: &Path, out: PathBuf, recipe: &str) -> FineTuneRequest {
    FineTuneRequest {
        model: ModelChoice::Nano,
        data: TrainingData::Directory(data.to_path_buf()),
        recipe: recipe.to_owned(),
        hold_out: 0.34,
        split_seed: 1,
        device: "cpu".to_owned(),
        cache_bytes: 64 << 20,
        skip_unreadable: false,
        out,
        resume: false,
    }
}

fn train(request: &FineTuneRequest) -> FineTuneSummary {
    fine_tune_model(request, &|_| {}, &AtomicBool::new(false)).unwrap()
}

fn weights(summary: &FineTuneSummary) -> Vec<u8> {
    std::fs::read(summary.model.join("model.safetensors")).unwrap()
}

#[test]
fn a_run_leaves_a_model_that_serves_and_says_how_it_came_about() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let summary = train(&request(&data, dir.path().join("run"), RECIPE));
    assert_eq!(summary.subjects, [6, 2, 4]);
    assert!(summary.steps > 0 && summary.images_seen == summary.steps * 16);
    let (before, after) = (summary.before.unwrap(), summary.after.unwrap());
    assert_eq!((before.subjects, before.images), (after.subjects, after.images));
    assert_eq!(after.subjects, 4);
    // The run moved the weights, and the directory opens as a model of its own.
    let nano = OfflineModel::open(&ModelChoice::Nano, "cpu").unwrap();
    let tuned = OfflineModel::open(&ModelChoice::Directory(summary.model.clone()), "cpu").unwrap();
    let text = "a dorsal right hand";
    assert_ne!(nano.text(text).unwrap().fingerprint, tuned.text(text).unwrap().fingerprint);
    assert_ne!(nano.text(text).unwrap().embedding, tuned.text(text).unwrap().embedding);

    let run = dir.path().join("run");
    let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    let lines: Vec<Value> =
        read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "a line an epoch");
    for part in ["cross_entropy", "triplet", "info_nce"] {
        assert!(lines[1]["epoch"]["parts"][part].is_f64(), "{part}");
    }
    assert!(lines[1]["validation"]["rank1"].is_f64());
    assert!(read("recipe.toml").contains("learning_rate = 0.00005"), "{}", read("recipe.toml"));
    let page = read("report.html");
    assert_eq!(page.matches("<svg").count(), 4, "losses, validation, rate, gradient norm");
    assert!(page.contains("Rank-1 before") && page.contains("learning_rate = 0.00005"));
    assert!(!page.contains("src=") && !page.contains("<script"), "nothing is loaded");
    let boards: Vec<u64> = std::fs::read_dir(run.join("tensorboard"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(boards.len() == 1 && boards[0] > 400, "{boards:?}");
    assert!(read("report.md").contains("| dorsal right | 4 |"), "{}", read("report.md"));
    let again =
        fine_tune_model(&request(&data, run.clone(), RECIPE), &|_| {}, &AtomicBool::new(false));
    assert!(again.unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_run_repeats_bit_for_bit_and_frozen_towers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let recipe = "epochs = 1\nvalidation = 0.0\n[batch]\nhands = 8\nimages = 2\n\
        [optimizer]\nlearning_rate = 5e-5\nwarmup_epochs = 0\n[freeze]\ntext = true\n";
    let run = |name: &str, recipe: &str| train(&request(&data, dir.path().join(name), recipe));
    let (first, second) = (run("a", recipe), run("b", recipe));
    assert_eq!(weights(&first), weights(&second));
    let other = run("c", &format!("seed = 9\n{recipe}"));
    assert_ne!(weights(&first), weights(&other));
    let text = |summary: &FineTuneSummary| {
        let model = OfflineModel::open(&ModelChoice::Directory(summary.model.clone()), "cpu");
        model.unwrap().text("a palmar left hand").unwrap().embedding
    };
    let nano = OfflineModel::open(&ModelChoice::Nano, "cpu").unwrap();
    assert_eq!(text(&first), nano.text("a palmar left hand").unwrap().embedding);
}

/// A folder for each subject, which says nothing of aspect, side or accessories: the pictures of the backs of
/// everybody's right hand, under names that are no numbers.
fn folders(dir: &Path) -> PathBuf {
    let out = dir.join("folders");
    let drawn = handclip::dataset::read(&hands(dir)).unwrap();
    let right = (Some(Aspect::Dorsal), Some(Side::Right));
    for image in &drawn {
        if (image.attributes.aspect, image.attributes.side) != right {
            continue;
        }
        let folder = out.join(format!("p-{}", image.key()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&image.path, folder.join(image.path.file_name().unwrap())).unwrap();
    }
    out
}

fn notices(request: &FineTuneRequest) -> (FineTuneSummary, String) {
    let said = RefCell::new(String::new());
    let listen = |event: FineTuneEvent| {
        if let FineTuneEvent::Notice(text) = event {
            said.borrow_mut().push_str(&format!("{text}\n"));
        }
    };
    let summary = fine_tune_model(request, &listen, &AtomicBool::new(false)).unwrap();
    (summary, said.into_inner())
}

#[test]
fn a_folder_for_each_subject_is_validated_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    let data = folders(dir.path());
    // Steps so small that no epoch is better than the first.
    let recipe = "epochs = 5\npatience = 1\nvalidation = 0.25\n[batch]\nhands = 4\nimages = 2\n\
        [optimizer]\nlearning_rate = 1e-30\nwarmup_epochs = 0\n[freeze]\ntext = true\n";
    let (summary, said) = notices(&request(&data, dir.path().join("run"), recipe));
    assert_eq!(summary.subjects, [6, 2, 4]);
    assert!(summary.stopped_early && summary.best_epoch == 1, "{summary:?}");
    assert!(!said.contains("validated on"), "{said}");
    let (before, after) = (summary.before.unwrap(), summary.after.unwrap());
    assert_eq!((after.subjects, after.images, after.aspect_side), (4, 12, None));
    assert!(before.rank1 > 0.25 && before.rank1 == after.rank1, "{before:?} {after:?}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join("run").join(name)).unwrap();
    let lines: Vec<Value> =
        read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "the second epoch is no better, and the last");
    assert!(lines[0]["validation"]["rank1"].as_f64().unwrap() > 0.0, "{lines:?}");
    let report = read("report.md");
    assert!(report.contains("| not known | 4 | 8 |") && !report.contains("dorsal"), "{report}");
}

#[test]
fn where_nothing_can_be_scored_that_is_said_and_nothing_goes_by_it() {
    let dir = tempfile::tempdir().unwrap();
    // One picture of each hand of everybody.
    let data = dir.path().join("hands");
    let drawing = Drawing { subjects: 12, images: 1, seed: 5, size: 96 };
    draw_hands(drawing, &data, &|_, _| {}).unwrap();
    let recipe = "epochs = 1\nvalidation = 0.25\n[batch]\nhands = 4\nimages = 1\n\
        [optimizer]\nlearning_rate = 1e-5\n[freeze]\ntext = true\n[losses.cross_entropy]\n";
    let (summary, said) = notices(&request(&data, dir.path().join("run"), recipe));
    assert!(said.contains("nothing can be validated on"), "{said}");
    assert!(said.contains("held out") && summary.before.is_none(), "{said}");
    let patient = request(&data, dir.path().join("no"), &format!("patience = 2\n{recipe}"));
    let error = fine_tune_model(&patient, &|_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("`patience` goes by validation"), "{error}");
    assert!(!patient.out.exists(), "it is refused before anything is made");
}

#[test]
fn hands_that_are_never_drawn_do_not_count_as_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = folders(dir.path());
    // Of the first person a single picture is left, of the second two.
    let mut people: Vec<PathBuf> =
        std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    people.sort();
    for (person, fewer) in people.iter().zip([2, 1]) {
        for entry in std::fs::read_dir(person).unwrap().take(fewer) {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    let recipe = "epochs = 1\nvalidation = 0.0\n[batch]\nhands = 4\nimages = 3\n\
        [optimizer]\nlearning_rate = 1e-5\n[freeze]\ntext = true\n";
    let everybody = request(&data, dir.path().join("run"), recipe);
    let (summary, said) = notices(&FineTuneRequest { hold_out: 0.0, ..everybody });
    assert_eq!((summary.subjects[0], summary.images[0]), (11, 32), "{said}");
    assert!(said.contains("no batch holds 1 of 33 images, of 1 hands"), "{said}");
}

#[test]
fn a_cancelled_run_leaves_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let cancel = AtomicBool::new(false);
    let steps = Cell::new(0);
    let stop = |event: FineTuneEvent| {
        if let FineTuneEvent::Step(step) = event {
            steps.set(step.step);
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let endless = RECIPE.replace("epochs = 2", "epochs = 10000");
    let request = request(&data, dir.path().join("run"), &endless);
    let summary = fine_tune_model(&request, &stop, &cancel).unwrap();
    assert!(steps.get() < 10, "cancelling took {} steps", steps.get());
    assert!(OfflineModel::open(&ModelChoice::Directory(summary.model), "cpu").is_ok());
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let failed = |request: &FineTuneRequest| {
        fine_tune_model(request, &|_| {}, &AtomicBool::new(false)).unwrap_err().to_string()
    };
    let diverging = RECIPE.replace("5e-5", "1e30");
    let message = failed(&request(&data, dir.path().join("nan"), &diverging));
    assert!(message.contains("not a number") && message.contains("Hand_"), "{message}");
    let message = failed(&request(&data, dir.path().join("typo"), "epoch = 1"));
    assert!(message.contains("epoch"), "{message}");
    // A picture cut short stops the run, or is left out where that is asked for.
    let picture = std::fs::read_dir(data.join("Hands")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&picture, b"cut short").unwrap();
    let mut strict = request(&data, dir.path().join("strict"), RECIPE);
    strict.hold_out = 0.0;
    let name = picture.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(failed(&strict).contains(&name));
    let lenient =
        FineTuneRequest { skip_unreadable: true, out: dir.path().join("lenient"), ..strict };
    assert_eq!(train(&lenient).skipped, [picture]);
}

/// Starts the real program, kills it in the middle of an epoch, and lets it go on.
#[test]
fn a_run_that_was_killed_goes_on_to_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let recipe = dir.path().join("recipe.toml");
    let text =
        RECIPE.replace("epochs = 2", "epochs = 5").replace("= 5e-5", "= 5e-5\naverage = 0.9");
    std::fs::write(&recipe, text).unwrap();
    let start = |out: &Path, resume: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.arg("train").arg("--recipe").arg(&recipe).arg("--data").arg(&data);
        command.arg("--out").arg(out);
        command.args(["--device", "cpu", "--hold-out", "0.34", "--json"]);
        command.args(resume.then_some("--resume"));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    assert!(start(&whole, false).wait().unwrap().success());
    let state = killed.join("last/state.safetensors");
    let mut kills = 0;
    let mut process = start(&killed, false);
    // Each time a while after an epoch ended, wherever that is.
    for wait in [5, 60, 150] {
        let before = std::fs::metadata(&state).and_then(|file| file.modified()).ok();
        while std::fs::metadata(&state).and_then(|file| file.modified()).ok() == before
            && process.try_wait().unwrap().is_none()
        {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_millis(wait));
        if process.try_wait().unwrap().is_none() {
            process.kill().unwrap();
            kills += 1;
        }
        process.wait().unwrap();
        process = start(&killed, true);
    }
    assert!(process.wait().unwrap().success());
    assert!(kills > 0, "every run ended before it could be killed");
    for file in ["best/model.safetensors", "last/model.safetensors", "last/state.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs");
    }
    let lines = std::fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    let epochs: Vec<u64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["epoch"]["epoch"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5]);
    // Another recipe is another run.
    let other = request(&data, killed, RECIPE);
    let other = FineTuneRequest { resume: true, ..other };
    let error = fine_tune_model(&other, &|_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("another recipe"), "{error}");
}

/// Ctrl-C on the real program: it ends after the step it is at, and what lies there serves and goes on.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_a_model_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let (recipe, out) = (dir.path().join("recipe.toml"), dir.path().join("run"));
    std::fs::write(&recipe, RECIPE.replace("epochs = 2", "epochs = 500")).unwrap();
    let start = |resume: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.args(["train", "--hold-out", "0.34", "--device", "cpu", "--json", "--data"]);
        command.arg(&data).arg("--recipe").arg(&recipe).arg("--out").arg(&out);
        command.args(resume.then_some("--resume"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let interrupt_after_epoch = |process: Child, epochs: usize| {
        let lines = || std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
        while lines().lines().count() < epochs {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let id = process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("stopping after this step") && said.contains("--resume"), "{said}");
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["cancelled"], true);
        assert!(summary["after"].is_null(), "nobody waits for figures");
        lines().lines().count()
    };
    let epochs = interrupt_after_epoch(start(false), 1);
    assert!(epochs < 20, "it took {epochs} epochs to stop");
    assert!(OfflineModel::open(&ModelChoice::Directory(out.join("best")), "cpu").is_ok());
    assert!(OfflineModel::open(&ModelChoice::Directory(out.join("last")), "cpu").is_ok());
    assert!(interrupt_after_epoch(start(true), epochs + 1) > epochs);
}

#[test]
fn every_recipe_that_is_shipped_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let recipe = Recipe::from_toml(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_ne!(recipe, Recipe::default(), "{path:?}");
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    for wanted in ["image-only", "image-text", "both", "prompt-learning", "smoke"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is missing");
    }
}

/// The images of a gallery train as the files do that were enrolled, and none of them is written anywhere.
#[test]
fn a_gallery_that_retains_its_images_can_be_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path());
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.args(arguments).arg("--data-dir").arg(dir.path().join("store"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, said)
    };
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let enrol = |gallery: &str, retain: &[&str]| {
        let mut arguments = vec!["enrol", data.to_str().unwrap(), "--gallery", gallery, "--create"];
        arguments.extend(retain);
        let (ok, _, said) = run(&arguments);
        assert!(ok, "{said}");
    };
    enrol("kept", &["--retain-images"]);
    enrol("forgotten", &[]);
    std::fs::write(path("recipe.toml"), RECIPE).unwrap();
    let train = |gallery: &str| {
        let (recipe, out) = (path("recipe.toml"), path(gallery));
        run(&["train", "--gallery", gallery, "--recipe", &recipe, "--out", &out, "--json"])
    };
    let (ok, json, said) = train("kept");
    assert!(ok, "{said}");
    let summary: Value = serde_json::from_slice(&json).unwrap();
    let of = |key: &str| -> u64 { (0..3).map(|i| summary[key][i].as_u64().unwrap()).sum() };
    assert_eq!((of("subjects"), of("images")), (12, 144));
    let picture = |entry: &Path| {
        entry.extension().is_some_and(|e| ["jpg", "png", "webp"].iter().any(|image| e == *image))
    };
    let mut folders = vec![dir.path().join("kept")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert!(!picture(&path), "{path:?}");
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    let (ok, _, said) = train("forgotten");
    assert!(!ok && said.contains("retain"), "{said}");
}
