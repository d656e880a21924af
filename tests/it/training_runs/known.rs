//! Whom a model knows: through the models that it comes from too, and not those who are erased while it learns.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{RECIPE, app, draw, of, trained};
use crate::deployment::ended;
use crate::support::app::{TestApp, hands};

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run of so many epochs on everybody.
fn on_all(name: &str, data: Value, epochs: usize) -> Value {
    let mut body = of(name, data);
    body["hold_out"] = json!(0.0);
    let recipe = RECIPE.replace("validation = 0.25", "validation = 0.0");
    body["recipe"] = json!(recipe.replace("epochs = 3", &format!("epochs = {epochs}")));
    body
}

/// A gallery whose people agreed, with these hands.
fn enrolled(app: &TestApp, gallery: &str) {
    let body = json!({"id": gallery, "retain_images": true, "allow_training": true});
    app.post("/v1/galleries", &body).ok();
    for hand in hands() {
        app.enrol(gallery, hand);
    }
}

fn list(app: &TestApp, model: &str) -> String {
    std::fs::read_to_string(app.options.data_dir.join("models").join(model).join("data.json"))
        .unwrap()
}

/// So many that a run is not over by the time that somebody is erased.
const EPOCHS: usize = 15;

#[test]
fn somebody_is_erased_while_a_model_learns_from_their_gallery() {
    let data = tempfile::tempdir().unwrap();
    let app = app(data.path());
    enrolled(&app, "open");
    let job =
        app.post("/v1/training-runs", &on_all("tuned", json!({"gallery": "open"}), EPOCHS)).json();
    let id = job["job"].as_str().unwrap().to_owned();
    let run = || app.get(&format!("/v1/training-runs/{id}")).ok();
    let begun = Instant::now();
    while run()["epochs"].as_array().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    let first = &hands()[0];
    app.delete(&format!("/v1/galleries/open/subjects/{}", first.subject)).ok();
    assert_eq!(run()["job"]["state"], "running", "it was over before");
    let ended = ended(&app, &job);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(run()["epochs"].as_array().unwrap().len(), EPOCHS);
    let of_run = app.options.data_dir.join("runs").join(&id).join("data.json");
    let others = hands().iter().find(|hand| hand.subject != first.subject).unwrap();
    for text in [std::fs::read_to_string(of_run).unwrap(), list(&app, "tuned")] {
        assert!(!text.contains(&hash(&first.jpeg)) && text.contains(&hash(&others.jpeg)));
    }
    app.post("/v1/models/tuned:verify", &json!({})).ok();
}

#[test]
fn a_model_knows_whom_the_models_before_it_learnt() {
    let data = tempfile::tempdir().unwrap();
    draw(&data.path().join("one"), 0, 8);
    draw(&data.path().join("two"), 100, 8);
    draw(&data.path().join("other"), 200, 8);
    let app = app(data.path());
    enrolled(&app, "open");
    let train = |name: &str, from: &str, on: Value| {
        let mut body = on_all(name, on, 1);
        body["model"] = json!(from);
        let run = trained(&app, &body);
        assert_eq!(run["job"]["state"], "succeeded", "{run}");
    };
    let first = &hands()[0];
    train("of-gallery", "nano", json!({"gallery": "open"}));
    train("a", "of-gallery", json!({"directory": "lab/one"}));
    train("b", "a", json!({"directory": "lab/two"}));
    let evaluation = |on: &str| {
        let body = json!({"models": ["champion", "b"], "data": {"directory": on}, "runs": 2,
            "replicates": 200});
        ended(&app, &app.post("/v1/evaluations", &body).json())
    };
    for known in ["lab/one", "lab/two"] {
        let found = evaluation(known);
        assert_eq!(found["error"]["code"], "leak", "{known}: {found}");
    }
    let found = evaluation("lab/other");
    assert_eq!(found["state"], "succeeded", "{found}");

    // It is told that it was exported and brought back, too.
    let archive = app.get_bytes("/v1/models/b/archive");
    let made = app.post_bytes("/v1/models?name=copied", "application/x-tar", &archive);
    assert_eq!(made.status, 201, "{}", made.text);
    // Who is erased is struck from what was inherited.
    for model in ["of-gallery", "a", "b", "copied"] {
        assert!(list(&app, model).contains(&hash(&first.jpeg)), "{model}");
    }
    app.delete(&format!("/v1/galleries/open/subjects/{}", first.subject)).ok();
    for model in ["of-gallery", "a", "b", "copied"] {
        assert!(!list(&app, model).contains(&hash(&first.jpeg)), "{model}");
        app.post(&format!("/v1/models/{model}:verify"), &json!({})).ok();
    }
    assert_eq!(evaluation("lab/one")["error"]["code"], "leak", "of the others all is known");
}
