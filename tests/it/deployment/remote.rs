//! The command line, asking a server that runs.

use std::path::Path;
use std::process::{Command, Output};

use handclip::synth::{SynthSpec, write_dataset};
use serde_json::{Value, json};

use super::{create, live, register};
use crate::support::app::{TestApp, hands};

fn handclip(app: &TestApp, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
    command.args(args).arg("--server").arg(format!("http://{}", app.address)).output().unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_model_is_deployed_and_rolled_back_from_the_command_line() {
    let app = TestApp::spawn_with(|options, _| options.job_threads = 1);
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    app.enrol("g", &hands()[0]);
    let refused = handclip(&app, &["deploy", "b"]);
    let (_, errors) = said(&refused);
    assert!(!refused.status.success() && errors.contains("gate_missing"), "{errors}");
    let done = handclip(&app, &["deploy", "b", "--override", "a test"]);
    let (out, errors) = said(&done);
    assert!(done.status.success() && out.contains("b serves as generation 2"), "{out}{errors}");
    assert!(errors.contains("find themselves"), "the job's log is shown: {errors}");
    let back = handclip(&app, &["rollback"]);
    assert!(said(&back).0.contains("nano serves again, as generation 1"), "{back:?}");
    let again = handclip(&app, &["rollback"]);
    assert!(!again.status.success() && said(&again).1.contains("nothing_to_roll_back"));
    assert_eq!(live(&app), ("nano".into(), 1));
}

#[test]
fn training_and_evaluation_from_the_command_line() {
    let data = tempfile::tempdir().unwrap();
    let draw = |dir: &Path, first: u64, subjects: u64| {
        let spec = SynthSpec { first, subjects, images: 2, seed: 80, size: 96 };
        write_dataset(&spec, dir, &|_, _| {}).unwrap();
    };
    draw(&data.path().join("train"), 0, 12);
    draw(&data.path().join("test"), 50, 12);
    let recipe = data.path().join("recipe.toml");
    std::fs::write(&recipe, "epochs = 1\nvalidation = 0.0\n[batch]\nhands = 4\nimages = 2\n[freeze]\ntext = true\n[losses.sup_con]\ntemperature = 0.1\n").unwrap();
    let app = TestApp::spawn_with(|options, _| {
        options.job_threads = 2;
        options.data_roots = vec![format!("lab={}", data.path().display()).parse().unwrap()];
    });
    let recipe = recipe.to_str().unwrap();
    let trained = handclip(
        &app,
        &["train", "--data", "lab/train", "--recipe", recipe, "--name", "tuned", "--json"],
    );
    assert!(trained.status.success(), "{trained:?}");
    let output: Value = serde_json::from_slice(&trained.stdout).unwrap();
    assert_eq!((&output["model"], &output["best_epoch"]), (&json!("tuned"), &json!(1)));

    let common = ["--data", "lab/test", "--runs", "2", "--replicates", "200"];
    let found =
        handclip(&app, &[&["evaluate", "--model", "tuned", "--json"][..], &common].concat());
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert!(found["result"]["overall"]["rank1"]["mean"].as_f64().unwrap() > 0.5);
    let found = handclip(&app, &[&["compare", "champion", "tuned"][..], &common].concat());
    let (out, errors) = said(&found);
    assert!(
        found.status.success() && out.contains("gate:") && out.contains("rank1"),
        "{out}{errors}"
    );
    let bad = handclip(&app, &[&["evaluate", "--model", "none"][..], &common].concat());
    assert!(!bad.status.success() && said(&bad).1.contains("model_not_found"), "{bad:?}");
}
