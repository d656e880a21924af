//! One model takes the place of another while the server answers.

mod crash;
mod damage;
mod faults;
mod oracle;
mod remote;
mod steps;
mod swaps;

use std::path::Path;
use std::time::{Duration, Instant};

use handclip::service::OfflineRegistry;
use serde_json::{Value, json};

use crate::support::app::{Hand, TestApp};

/// The embedded model with other numbers in its preprocessing: other embeddings, another fingerprint. `version` 1 and up.
pub(crate) fn write_variant(dir: &Path, version: usize) {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/nano");
    std::fs::create_dir_all(dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(nano.join(name), dir.join(name)).unwrap();
    }
    let name = "preprocessor_config.json";
    let text = std::fs::read_to_string(nano.join(name)).unwrap();
    let changed = text.replace("0.4814", &format!("0.{}", 100 + 7 * version));
    assert_ne!(text, changed);
    std::fs::write(dir.join(name), changed).unwrap();
}

/// Has a variant under a name in the registry of a data directory.
pub(crate) fn register(data_dir: &Path, name: &str, version: usize) {
    let dir = tempfile::tempdir().unwrap();
    write_variant(dir.path(), version);
    OfflineRegistry::open(data_dir).unwrap().import(name, dir.path()).unwrap();
}

/// What passes over the gate and keeps the way back.
pub(crate) fn overridden(soak_s: u64) -> Value {
    json!({"override": {"reason": "a test"}, "soak_s": soak_s})
}

/// Waits for a job's end.
pub(crate) fn ended(app: &TestApp, job: &Value) -> Value {
    let id = job["job"].as_str().unwrap();
    let begun = Instant::now();
    loop {
        let now = app.get(&format!("/v1/jobs/{id}")).ok();
        if !matches!(now["state"].as_str(), Some("queued" | "running")) {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{now}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Deploys and waits until the model serves.
pub(crate) fn deploy(app: &TestApp, model: &str, body: &Value) -> Value {
    let job = app.post(&format!("/v1/models/{model}:deploy"), body);
    assert_eq!(job.status, 202, "{}", job.text);
    let ended = ended(app, &job.json());
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

pub(crate) fn live(app: &TestApp) -> (String, u64) {
    let live = app.get("/v1/deployment").ok()["live"].clone();
    (live["name"].as_str().unwrap().to_owned(), live["generation"].as_u64().unwrap())
}

/// A gallery that keeps its images.
pub(crate) fn create(app: &TestApp, id: &str, retain_images: bool) {
    app.post("/v1/galleries", &json!({"id": id, "retain_images": retain_images})).ok();
}

/// The subject that is found first, and how close.
pub(crate) fn first(app: &TestApp, gallery: &str, hand: &Hand) -> (String, f64, Value) {
    let path = format!("/v1/galleries/{gallery}:identify?limit=1");
    let answer = app.post_bytes(&path, "image/jpeg", &hand.jpeg).ok();
    let top = &answer["candidates"][0];
    (
        top["subject"].as_str().unwrap_or_default().to_owned(),
        top["similarity"].as_f64().unwrap_or(-1.0),
        answer,
    )
}
