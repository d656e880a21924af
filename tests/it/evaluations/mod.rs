//! Evaluations over REST, and the gate that stands before a deployment.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use handclip::model::{ClipConfig, Parameters, Trainable};
use handclip::service::OfflineRegistry;
use handclip::synth::{SynthSpec, write_dataset};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::deployment::{create, ended, live, register, write_variant};
use crate::support::app::{TestApp, hands};

/// Drawn people in the layout of 11k Hands.
fn draw(dir: &Path, subjects: u64) {
    let spec = SynthSpec { first: 500, subjects, images: 3, seed: 77, size: 96 };
    write_dataset(&spec, dir, &|_, _| {}).unwrap();
}

fn app(data: &Path) -> TestApp {
    TestApp::spawn_with(|options, _| {
        options.job_threads = 2;
        options.data_roots = vec![format!("lab={}", data.display()).parse().unwrap()];
    })
}

/// The embedded model with the weights of its image tower in another order: it knows nobody.
fn register_untrained(data_dir: &Path, name: &str) {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano");
    let config = std::fs::read_to_string(nano.join("config.json")).unwrap();
    let config = ClipConfig::from_json(&config).unwrap();
    let parameters = Parameters::load(&config, &nano, &Device::Cpu).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (name, var) in parameters.vars() {
        if name.starts_with("vis") {
            let mut values = var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.shuffle(&mut rng);
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let start = Trainable::nano(&Device::Cpu).unwrap();
    start.save(&parameters, dir.path(), DType::F32).unwrap();
    OfflineRegistry::open(data_dir).unwrap().import(name, dir.path()).unwrap();
}

fn evaluated(app: &TestApp, body: &Value) -> Value {
    let started = app.post("/v1/evaluations", body);
    assert_eq!(started.status, 202, "{}", started.text);
    let job = started.json();
    let id = job["job"].as_str().unwrap();
    assert_eq!(started.header("location"), Some(format!("/v1/evaluations/{id}").as_str()));
    ended(app, &job);
    app.get(&format!("/v1/evaluations/{id}")).ok()
}

fn of(models: &[&str]) -> Value {
    json!({"models": models, "data": {"directory": "lab"}, "runs": 2, "replicates": 200})
}

#[test]
fn a_model_is_evaluated_and_its_report_can_be_read() {
    let data = tempfile::tempdir().unwrap();
    draw(data.path(), 8);
    let app = app(data.path());
    let found = evaluated(&app, &of(&["champion"]));
    assert_eq!(found["job"]["state"], "succeeded", "{found}");
    let system = &found["job"]["output"]["systems"][0];
    assert_eq!((&system["model"], &system["subjects"]), (&json!("nano"), &json!(8)));
    let rank1 = found["result"]["overall"]["rank1"]["mean"].as_f64().unwrap();
    assert!(rank1 > 0.8, "{rank1}");
    assert_eq!(found["gate"], json!(null));
    let id = found["job"]["job"].as_str().unwrap().to_owned();
    let page = app.get(&format!("/v1/evaluations/{id}/report.html"));
    assert_eq!(page.status, 200);
    assert!(page.text.contains("<html") && page.content_type.starts_with("text/html"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    // Of a model that makes no error there is no DET curve.
    for chart in ["cmc.svg", "scores.svg", found["charts"][0].as_str().unwrap()] {
        let answer = app.get(&format!("/v1/evaluations/{id}/{chart}"));
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (200, "image/svg+xml"),
            "{chart}"
        );
    }
    for bad in ["run.json", "evaluation.json", "..%2f..%2fmaster.key", "none.svg", ".svg"] {
        let answer = app.get(&format!("/v1/evaluations/{id}/{bad}"));
        assert_eq!(answer.status, 404, "{bad}: {}", answer.text);
    }
    let listed = app.get("/v1/evaluations").ok();
    assert_eq!(listed["jobs"][0]["job"], id.as_str());
    // No path of the machine in anything that is told.
    let path = data.path().to_string_lossy().into_owned();
    for text in [found.to_string(), page.text] {
        assert!(!text.contains(&path));
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused_or_says_why() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("empty")).unwrap();
    std::fs::create_dir(data.path().join("linked")).unwrap();
    std::os::unix::fs::symlink("/etc", data.path().join("linked/ann")).unwrap();
    let app = app(data.path());
    let with = |key: &str, value: Value| {
        let mut body = of(&["nano"]);
        body[key] = value;
        body
    };
    for body in [
        with("models", json!([])),
        with("models", json!(["nano", "nano"])),
        with("models", json!(["nano", "champion"])),
        with("data", json!({"directory": "elsewhere"})),
        with("data", json!({"directory": "lab/../x"})),
        with("data", json!({"directory": "lab/linked"})),
        with("protocol", json!("x")),
        with("runs", json!(0)),
        with("runs", json!(101)),
        with("replicates", json!(1)),
        with("hold_out", json!(1.0)),
        with("unknown", json!(1)),
    ] {
        let answer = app.post("/v1/evaluations", &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
    }
    app.post("/v1/evaluations", &of(&["none"])).refused(404, "model_not_found");
    let mut body = of(&["nano"]);
    body["data"] = json!({"directory": "lab/empty"});
    let found = evaluated(&app, &body);
    assert_eq!(
        (&found["job"]["state"], &found["job"]["error"]["code"]),
        (&json!("failed"), &json!("dataset"))
    );
    let id = found["job"]["job"].as_str().unwrap();
    app.get(&format!("/v1/evaluations/{id}/report.html")).refused(404, "file_not_found");
    // A job of another kind is no evaluation.
    create(&app, "g", true);
    let audit = app.post("/v1/galleries/g:audit", &json!({})).json();
    let path = format!("/v1/evaluations/{}", audit["job"].as_str().unwrap());
    app.get(&path).refused(404, "job_not_found");
}

#[test]
fn the_gate_lets_an_equal_through_and_stops_one_that_was_never_trained() {
    let data = tempfile::tempdir().unwrap();
    draw(data.path(), 40);
    let app = app(data.path());
    // The same model but for a pixel's worth of preprocessing.
    let near = tempfile::tempdir().unwrap();
    write_variant(near.path(), 1);
    let name = "preprocessor_config.json";
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano").join(name);
    let text = std::fs::read_to_string(nano).unwrap().replace("0.4814", "0.4815");
    std::fs::write(near.path().join(name), text).unwrap();
    let registry = OfflineRegistry::open(&app.options.data_dir).unwrap();
    registry.import("near", near.path()).unwrap();
    register_untrained(&app.options.data_dir, "raw");
    create(&app, "g", true);
    app.enrol("g", &hands()[0]);

    let found = evaluated(&app, &of(&["champion", "raw"]));
    let table = &found["gate"];
    assert_eq!(table["passed"], false, "{found}");
    let failed = |table: &Value| -> Vec<String> {
        let rows = table["rows"].as_array().unwrap().iter();
        let failed = rows.filter(|row| row["passed"] == false);
        failed.map(|row| row["criterion"].as_str().unwrap().to_owned()).collect()
    };
    for criterion in ["rank1", "map", "fnir", "text_recall"] {
        assert!(failed(table).iter().any(|f| f == criterion), "{criterion}: {table}");
    }
    let id = found["job"]["job"].as_str().unwrap();
    let page = app.get(&format!("/v1/evaluations/{id}/report.html")).text;
    assert!(page.contains("), FRR "), "beside FNMR, which leaves out what was refused");
    let deploy = |name: &str, evaluation: &Value| {
        let body = json!({"evaluation": evaluation["job"]["job"], "soak_s": 3600});
        app.post(&format!("/v1/models/{name}:deploy"), &body)
    };
    let refused = deploy("raw", &found);
    refused.refused(409, "gate_failed");
    assert_eq!(refused.json()["gate"], *table);
    assert_eq!(live(&app), ("nano".into(), 1));
    // An evaluation of one model says nothing of another.
    deploy("near", &found).refused(409, "gate_missing");

    // Whom a model may have been trained on is no witness.
    let mut leaky = of(&["champion", "near"]);
    leaky["allow_leak"] = json!(true);
    let found = evaluated(&app, &leaky);
    assert_eq!((&found["job"]["state"], &found["gate"]), (&json!("succeeded"), &json!(null)));
    deploy("near", &found).refused(409, "gate_missing");

    let found = evaluated(&app, &of(&["champion", "near"]));
    assert_eq!(failed(&found["gate"]).iter().filter(|f| *f != "latency").count(), 0, "{found}");
    if found["gate"]["passed"] == true {
        let job = deploy("near", &found);
        assert_eq!(job.status, 202, "{}", job.text);
        assert_eq!(ended(&app, &job.json())["state"], "succeeded");
        assert_eq!(live(&app), ("near".into(), 2));
        // What was found against the model before does not count against this one.
        app.post("/v1/deployment:retire", &json!({})).ok();
        register(&app.options.data_dir, "b", 1);
        deploy("raw", &found).refused(409, "gate_missing");
    }
}

#[test]
fn a_cancelled_evaluation_ends() {
    let data = tempfile::tempdir().unwrap();
    draw(data.path(), 60);
    let app = app(data.path());
    let started = app.post("/v1/evaluations", &of(&["nano"])).json();
    let id = started["job"].as_str().unwrap();
    app.post(&format!("/v1/evaluations/{id}:cancel"), &json!({}));
    let job = ended(&app, &started);
    assert!(["cancelled", "succeeded"].contains(&job["state"].as_str().unwrap()), "{job}");
}
