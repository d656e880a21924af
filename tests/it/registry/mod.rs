//! Models by name: brought, listed, checked, taken along, and gone.

mod hostile;

use std::path::Path;
use std::process::Command;

use handclip::service::OfflineRegistry;
use serde_json::{Value, json};

use crate::deployment::{deploy, overridden, write_variant};
use crate::support::app::TestApp;

fn app(roots: &Path) -> TestApp {
    TestApp::spawn_with(|options, http| {
        options.job_threads = 1;
        options.data_roots = vec![format!("lab={}", roots.display()).parse().unwrap()];
        // Smaller than a model: what is streamed is not held to it.
        http.max_upload_bytes = 1 << 20;
    })
}

#[test]
fn a_model_is_imported_exported_and_imported_again() {
    let roots = tempfile::tempdir().unwrap();
    write_variant(&roots.path().join("b"), 1);
    let app = app(roots.path());
    let body = json!({"name": "b", "directory": "lab/b"});
    let made = app.post("/v1/models", &body);
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("/v1/models/b")),
        "{}",
        made.text
    );
    let model = made.json();
    app.post("/v1/models", &body).refused(409, "model_exists");
    for (name, directory, status, code) in [
        ("nano", "lab/b", 400, "invalid_request"),
        ("champion", "lab/b", 400, "invalid_request"),
        (".x", "lab/b", 400, "invalid_id"),
        ("../x", "lab/b", 400, "invalid_id"),
        ("c", "lab/../b", 400, "invalid_request"),
        ("c", "elsewhere/b", 400, "invalid_request"),
        ("c", "lab", 422, "model_refused"),
    ] {
        let body = json!({"name": name, "directory": directory});
        app.post("/v1/models", &body).refused(status, code);
    }

    let archive = app.get_bytes("/v1/models/b/archive");
    let again = app.post_bytes("/v1/models?name=c", "application/x-tar", &archive);
    assert_eq!(again.status, 201, "{}", again.text);
    let again = again.json();
    for field in ["fingerprint", "files", "dim", "parameters"] {
        assert_eq!(again[field], model[field], "{field}");
    }
    let listed = app.get("/v1/models").ok();
    let names: Vec<&str> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b", "c", "nano"]);
    assert_eq!(app.get("/v1/models/champion").ok()["name"], "nano");
    app.get("/v1/models/previous").refused(404, "model_not_found");
    app.get("/v1/models/none").refused(404, "model_not_found");
    app.get("/v1/models/none/archive").refused(404, "model_not_found");

    // The same files, in another order of bits.
    app.post("/v1/models/c:verify", &json!({})).ok();
    let weights = app.options.data_dir.join("models/c/files/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    app.post("/v1/models/c:verify", &json!({})).refused(409, "model_damaged");
    app.post("/v1/models/c:deploy", &overridden(0)); // queued, or refused: it must not serve
    assert_eq!(app.delete("/v1/models/b").status, 204);
    app.get("/v1/models/b").refused(404, "model_not_found");
}

#[test]
fn a_model_in_use_is_not_deleted() {
    let roots = tempfile::tempdir().unwrap();
    write_variant(&roots.path().join("b"), 1);
    let app = app(roots.path());
    app.post("/v1/models", &json!({"name": "b", "directory": "lab/b"}));
    deploy(&app, "b", &overridden(3600));
    app.delete("/v1/models/b").refused(409, "model_deployed");
    assert_eq!(app.get("/v1/models/champion").ok()["name"], "b");
    // Nor by another process.
    let other = handclip("delete", &app.options.data_dir, &["b"]);
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("is deployed"), "{other:?}");
    deploy_back(&app);
    app.delete("/v1/models/b").refused(409, "model_deployed");
    assert_eq!(app.get("/v1/models/previous").ok()["name"], "b");
    app.post("/v1/deployment:retire", &json!({})).ok();
    assert_eq!(app.delete("/v1/models/b").status, 204);
}

/// The embedded model again, with a way back to the other.
fn deploy_back(app: &TestApp) {
    app.post("/v1/deployment:retire", &json!({})).ok();
    deploy(app, "nano", &overridden(3600));
}

fn handclip(action: &str, data_dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
    command.args(["model", action]).args(args).arg("--data-dir").arg(data_dir).output().unwrap()
}

#[test]
fn the_command_line_keeps_the_same_registry() {
    let dir = tempfile::tempdir().unwrap();
    let (data, files, tar) =
        (dir.path().join("data"), dir.path().join("b"), dir.path().join("b.tar"));
    write_variant(&files, 1);
    let files = files.to_str().unwrap();
    let made = handclip("import", &data, &["b", files, "--json"]);
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&made["name"], &made["origin"]), (&json!("b"), &json!("imported")));
    assert!(!handclip("import", &data, &["b", files]).status.success(), "the name is taken");
    let tar = tar.to_str().unwrap();
    assert!(handclip("export", &data, &["b", "--out", tar]).status.success());
    assert!(handclip("import", &data, &["c", tar]).status.success());
    assert!(handclip("verify", &data, &["c"]).status.success());
    let listed = handclip("list", &data, &["--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["fingerprint"], listed[1]["fingerprint"]);
    assert!(handclip("delete", &data, &["c"]).status.success());
    assert!(!handclip("show", &data, &["c"]).status.success());
}

#[test]
fn uploads_that_are_no_model_leave_nothing() {
    let roots = tempfile::tempdir().unwrap();
    write_variant(&roots.path().join("b"), 1);
    let app = app(roots.path());
    app.post("/v1/models", &json!({"name": "b", "directory": "lab/b"}));
    let archive = app.get_bytes("/v1/models/b/archive");
    let import = |bytes: &[u8]| app.post_bytes("/v1/models?name=c", "application/x-tar", bytes);
    import(&archive[..archive.len() / 2]).refused(422, "model_refused");
    import(b"").refused(422, "model_refused");
    import(&[0; 4096]).refused(422, "model_refused");
    app.post_bytes("/v1/models", "application/x-tar", &archive).refused(400, "invalid_request");
    app.post_bytes("/v1/models?name=c", "application/zip", &archive)
        .refused(415, "unsupported_media_type");
    app.post_bytes("/v1/models?name=b", "application/x-tar", &archive).refused(409, "model_exists");
    // Damaged in the weights' header.
    let mut damaged = archive.clone();
    let at = damaged.windows(11).position(|window| window == b"projection\"").unwrap_or(9000);
    damaged[at..at + 8].fill(0xff);
    let answer = import(&damaged);
    assert!([201, 422].contains(&answer.status), "{}", answer.text);
    let left: Vec<String> = std::fs::read_dir(app.options.data_dir.join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".unfinished"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn of_two_imports_of_one_name_one_wins_and_a_crashed_one_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (data, files) = (dir.path().join("data"), dir.path().join("b"));
    write_variant(&files, 1);
    let registry = OfflineRegistry::open(&data).unwrap();
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let import = || registry.import("b", &files).is_ok();
        let all: Vec<_> = (0..3).map(|_| scope.spawn(import)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1, "{outcomes:?}");
    registry.verify("b").unwrap();
    let left = data.join("models/.unfinished-left");
    std::fs::create_dir_all(left.join("files")).unwrap();
    OfflineRegistry::open(&data).unwrap();
    assert!(!left.exists());
}
