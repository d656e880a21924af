//! Fine-tuning over REST: from labelled images to a model that is registered, compared, and stopped at the gate if it is bad.

mod hostile;
mod known;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use handclip::synth::{SynthSpec, write_dataset};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::deployment::{create, ended};
use crate::support::app::{TestApp, hands, write_folders};

/// Small and fast; what it learns is nothing to be proud of.
const RECIPE: &str = r"
seed = 3
epochs = 3
validation = 0.25

[batch]
hands = 6
images = 2

[optimizer]
learning_rate = 2e-4
warmup_epochs = 1

[freeze]
text = true

[losses.sup_con]
temperature = 0.1
";

/// Drawn people in the layout of 11k Hands.
fn draw(dir: &Path, first: u64, subjects: u64) {
    let spec = SynthSpec { first, subjects, images: 3, seed: 78, size: 96 };
    write_dataset(&spec, dir, &|_, _| {}).unwrap();
}

fn app(data: &Path) -> TestApp {
    TestApp::spawn_with(|options, _| {
        options.job_threads = 2;
        options.data_roots = vec![format!("lab={}", data.display()).parse().unwrap()];
    })
}

fn of(name: &str, data: Value) -> Value {
    json!({"name": name, "data": data, "recipe": RECIPE, "hold_out": 0.25})
}

fn trained(app: &TestApp, body: &Value) -> Value {
    let started = app.post("/v1/training-runs", body);
    assert_eq!(started.status, 202, "{}", started.text);
    let job = started.json();
    let id = job["job"].as_str().unwrap();
    assert_eq!(started.header("location"), Some(format!("/v1/training-runs/{id}").as_str()));
    ended(app, &job);
    app.get(&format!("/v1/training-runs/{id}")).ok()
}

#[test]
fn a_run_ends_in_a_model_that_says_where_it_comes_from() {
    let data = tempfile::tempdir().unwrap();
    draw(data.path(), 0, 16);
    let app = app(data.path());
    let run = trained(&app, &of("tuned", json!({"directory": "lab"})));
    assert_eq!(run["job"]["state"], "succeeded", "{run}");
    assert_eq!(run["epochs"].as_array().unwrap().len(), 3, "{run}");
    assert!(run["epochs"][0]["epoch"]["loss"].as_f64().unwrap() > 0.0);
    let id = run["job"]["job"].as_str().unwrap();
    let chart = app.get(&format!("/v1/training-runs/{id}/curves.svg"));
    assert_eq!((chart.status, chart.content_type.as_str()), (200, "image/svg+xml"));
    for file in run["files"].as_array().unwrap() {
        let path = format!("/v1/training-runs/{id}/{}", file.as_str().unwrap());
        assert_eq!(app.get(&path).status, 200, "{path}");
    }
    app.get(&format!("/v1/training-runs/{id}/summary.json")).refused(404, "file_not_found");

    let model = app.get("/v1/models/tuned").ok();
    let nano = app.get("/v1/models/nano").ok();
    let registered = &model["registered"];
    assert_eq!(registered["parent"], json!({"name": "nano", "fingerprint": nano["fingerprint"]}));
    assert_eq!(registered["origin"], json!({"training_run": id}));
    assert_eq!(registered["training"]["subjects"], run["job"]["output"]["subjects"]);
    assert!(registered["training"]["after"]["rank1"].as_f64().unwrap() > 0.5, "{registered}");
    assert!(registered["training"]["recipe_sha256"].is_string());
    assert_ne!(model["fingerprint"], nano["fingerprint"]);
    app.post("/v1/models/tuned:verify", &json!({})).ok();
    app.post("/v1/training-runs", &of("tuned", json!({"directory": "lab"})))
        .refused(409, "model_exists");
    // Whom it was trained on it is not evaluated on; whom it was not, it is.
    let evaluation = |hold_out: Value| {
        let mut body = json!({"models": ["champion", "tuned"], "data": {"directory": "lab"},
            "runs": 2, "replicates": 200});
        if hold_out != json!(null) {
            body["hold_out"] = hold_out;
        }
        let job = app.post("/v1/evaluations", &body).json();
        ended(&app, &job)
    };
    assert_eq!(evaluation(json!(null))["error"]["code"], "leak");
    let found = evaluation(json!(0.25));
    assert_eq!(found["state"], "succeeded", "{found}");
    let path = data.path().to_string_lossy().into_owned();
    for text in [run.to_string(), model.to_string(), found.to_string()] {
        assert!(!text.contains(&path), "{text}");
    }
}

#[test]
fn a_model_of_shuffled_labels_is_stopped_at_the_gate() {
    let data = tempfile::tempdir().unwrap();
    draw(&data.path().join("true"), 100, 40);
    // Everybody's pictures under somebody else's name.
    let drawn = data.path().join("drawn");
    draw(&drawn, 300, 24);
    let mut files: Vec<_> =
        std::fs::read_dir(drawn.join("Hands")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for (at, file) in files.iter().enumerate() {
        // 37 and the number of files have no divisor in common: no subject keeps two pictures of a hand.
        let folder = data.path().join(format!("poison/p{}", at * 37 % files.len() % 24));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let app = app(data.path());
    let mut body = of("poisoned", json!({"directory": "lab/poison"}));
    body["hold_out"] = json!(0.0);
    let recipe = RECIPE.replace("2e-4", "3e-3").replace("epochs = 3", "epochs = 6");
    body["recipe"] = json!(recipe.replace("validation = 0.25", "validation = 0.0"));
    let run = trained(&app, &body);
    assert_eq!(run["job"]["state"], "succeeded", "{run}");
    let body = json!({"models": ["champion", "poisoned"], "data": {"directory": "lab/true"},
        "runs": 2, "replicates": 200});
    let job = app.post("/v1/evaluations", &body).json();
    let found = ended(&app, &job);
    assert_eq!(found["output"]["gate"]["passed"], false, "{found}");
    create(&app, "g", true);
    app.post("/v1/models/poisoned:deploy", &json!({"evaluation": found["job"]}))
        .refused(409, "gate_failed");
}

#[test]
fn what_cannot_be_trained_is_refused_or_says_why() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("empty")).unwrap();
    std::fs::create_dir(data.path().join("linked")).unwrap();
    std::os::unix::fs::symlink("/etc", data.path().join("linked/ann")).unwrap();
    let app = app(data.path());
    create(&app, "private", true);
    let lab = json!({"directory": "lab/empty"});
    for (body, status, code) in [
        (of("nano", lab.clone()), 400, "invalid_request"),
        (of("-", lab.clone()), 400, "invalid_id"),
        (of("x", json!({"directory": "elsewhere"})), 400, "invalid_request"),
        (of("x", json!({"directory": "lab/linked"})), 400, "invalid_request"),
        (of("x", json!({"dataset": "none"})), 404, "dataset_not_found"),
        (of("x", json!({"dataset": "../models"})), 404, "dataset_not_found"),
        (of("x", json!({"gallery": "none"})), 404, "gallery_not_found"),
        (of("x", json!({"gallery": "private"})), 409, "no_training_consent"),
    ] {
        app.post("/v1/training-runs", &body).refused(status, code);
    }
    let with = |key: &str, value: Value| {
        let mut body = of("x", lab.clone());
        body[key] = value;
        app.post("/v1/training-runs", &body)
    };
    with("recipe", json!("epochs = -1")).refused(422, "recipe_refused");
    with("recipe", json!("unknown = 1")).refused(422, "recipe_refused");
    with("recipe", json!("#".repeat(7000))).refused(400, "invalid_request");
    with("model", json!("none")).refused(404, "model_not_found");
    with("hold_out", json!(1.0)).refused(400, "invalid_request");
    with("data", json!({"directory": "lab", "gallery": "g"})).refused(400, "malformed_json");
    with("unknown", json!(1)).refused(400, "invalid_request");
    let run = trained(&app, &of("x", lab));
    assert_eq!(
        (&run["job"]["state"], &run["job"]["error"]["code"]),
        (&json!("failed"), &json!("dataset"))
    );
    app.get("/v1/models/x").refused(404, "model_not_found");
}

#[test]
fn a_gallery_is_trained_on_only_where_its_people_agreed() {
    let data = tempfile::tempdir().unwrap();
    let app = app(data.path());
    let body = json!({"id": "open", "retain_images": true, "allow_training": true});
    assert_eq!(app.post("/v1/galleries", &body).json()["allow_training"], true);
    for hand in hands() {
        app.enrol("open", hand);
    }
    let mut body = of("of-gallery", json!({"gallery": "open"}));
    body["hold_out"] = json!(0.0);
    body["recipe"] = json!(RECIPE.replace("validation = 0.25", "validation = 0.0"));
    let run = trained(&app, &body);
    assert_eq!(run["job"]["state"], "succeeded", "{run}");
    // Nobody's name is in what the run left.
    let id = run["job"]["job"].as_str().unwrap();
    let mut folders = vec![
        app.options.data_dir.join("runs").join(id),
        app.options.data_dir.join("models/of-gallery"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&content);
            assert!(!text.contains(&hands()[0].subject), "{}", path.display());
        }
    }
}

/// Hashes that are in no list but as zeros, and in which files.
fn struck(app: &TestApp, run: &str, image: &[u8]) -> (usize, usize) {
    let hash: String = Sha256::digest(image).iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = &app.options.data_dir;
    let lists = [dir.join("runs").join(run), dir.join("models/of-gallery")];
    let texts = lists.map(|list| std::fs::read_to_string(list.join("data.json")).unwrap());
    let count = |word: &str| texts.iter().map(|text| text.matches(word).count()).sum();
    (count(&hash), count(&"0".repeat(64)))
}

#[test]
fn who_is_erased_is_struck_from_the_lists_of_what_was_trained_on() {
    let data = tempfile::tempdir().unwrap();
    let app = app(data.path());
    let body = json!({"id": "open", "retain_images": true, "allow_training": true});
    app.post("/v1/galleries", &body).ok();
    for hand in hands() {
        app.enrol("open", hand);
    }
    let mut body = of("of-gallery", json!({"gallery": "open"}));
    body["hold_out"] = json!(0.0);
    body["recipe"] = json!(
        RECIPE.replace("validation = 0.25", "validation = 0.0").replace("= 3\n\n", "= 1\n\n")
    );
    let run = trained(&app, &body);
    let run = run["job"]["job"].as_str().unwrap().to_owned();
    let (first, of) =
        (&hands()[0], |name: &str| hands().iter().filter(|h| h.subject == name).count());
    let last = hands().last().unwrap();
    assert_ne!(first.subject, last.subject);
    assert_eq!(struck(&app, &run, &first.jpeg), (2, 0));
    // One sample of somebody: its image is struck from both lists, they are not.
    let samples = app.get(&format!("/v1/galleries/open/subjects/{}", first.subject)).ok();
    let sample = samples["samples"][0]["sample"].as_str().unwrap().to_owned();
    let path = format!("/v1/galleries/open/subjects/{}", first.subject);
    assert_eq!(app.delete(&format!("{path}/samples/{sample}")).status, 204);
    assert_eq!(struck(&app, &run, &first.jpeg), (0, 2));
    // The rest of them, and who they are.
    app.delete(&path).ok();
    assert_eq!(struck(&app, &run, &first.jpeg), (0, 2 * (of(&first.subject) + 1)));
    assert_eq!(struck(&app, &run, &last.jpeg).0, 2);
    // The model is what it was to everybody who checks it.
    app.post("/v1/models/of-gallery:verify", &json!({})).ok();
    let archive = app.get_bytes("/v1/models/of-gallery/archive");
    let made = app.post_bytes("/v1/models?name=copied", "application/x-tar", &archive);
    assert_eq!(made.status, 201, "{}", made.text);
    // Of a gallery that goes everybody goes.
    assert_eq!(app.delete("/v1/galleries/open").status, 204);
    assert_eq!(struck(&app, &run, &last.jpeg).0, 0);
}

#[test]
fn uploaded_images_are_trained_on_and_deleted_when_nobody_needs_them() {
    let data = tempfile::tempdir().unwrap();
    write_folders(&data.path().join("people"));
    let tar = data.path().join("people.tar");
    let packed = Command::new("tar")
        .args(["--format=ustar", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(data.path())
        .arg("people")
        .status();
    if !packed.is_ok_and(|status| status.success()) {
        println!("skipped: there is no tar to make an archive with");
        return;
    }
    let tar = std::fs::read(tar).unwrap();
    let app = app(data.path());
    let upload = |name: &str, bytes: &[u8]| {
        app.post_bytes(&format!("/v1/datasets?name={name}"), "application/x-tar", bytes)
    };
    upload("people", b"nothing").refused(422, "dataset_refused");
    upload("people", &tar[..tar.len() / 2]).refused(422, "dataset_refused");
    upload("..", &tar).refused(400, "invalid_id");
    let made = upload("people", &tar);
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("/v1/datasets/people")),
        "{}",
        made.text
    );
    assert_eq!((&made.json()["images"], &made.json()["subjects"]), (&json!(48), &json!(6)));
    upload("people", &tar).refused(409, "dataset_exists");
    assert_eq!(app.get("/v1/datasets").ok()["datasets"].as_array().unwrap().len(), 1);

    let mut body = of("tuned", json!({"dataset": "people"}));
    body["hold_out"] = json!(0.0);
    body["recipe"] = json!(
        RECIPE
            .replace("validation = 0.25", "validation = 0.0")
            .replace("epochs = 3", "epochs = 30")
    );
    let job = app.post("/v1/training-runs", &body).json();
    app.delete("/v1/datasets/people").refused(409, "dataset_in_use");
    let id = job["job"].as_str().unwrap();
    app.post(&format!("/v1/training-runs/{id}:cancel"), &json!({}));
    assert_eq!(ended(&app, &job)["state"], "cancelled");
    assert_eq!(app.delete("/v1/datasets/people").status, 204);
    app.get("/v1/datasets/people").refused(404, "dataset_not_found");
    let left = std::fs::read_dir(app.options.data_dir.join("datasets")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of what was refused or deleted");
}

/// A server of its own, to be killed.
fn serve(dir: &Path, data: &Path) -> (std::process::Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
        .args(["serve", "--listen", "127.0.0.1:0", "--job-threads", "1", "--data-dir"])
        .arg(dir)
        .arg("--data-root")
        .arg(format!("lab={}", data.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let base = line.trim().strip_prefix("listening on ").expect("the server starts").to_owned();
    (child, base)
}

fn get(url: &str) -> Value {
    let text = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_run_that_is_cut_off_goes_on_and_comes_to_the_same_weights() {
    let data = tempfile::tempdir().unwrap();
    draw(data.path(), 0, 16);
    let dir = tempfile::tempdir().unwrap();
    let begin = |base: &str, name: &str| -> String {
        let body = of(name, json!({"directory": "lab"})).to_string();
        let request = ureq::post(format!("{base}/v1/training-runs"));
        let request = request.header("content-type", "application/json");
        let text = request.send(body).unwrap().body_mut().read_to_string().unwrap();
        let job: Value = serde_json::from_str(&text).unwrap();
        format!("/v1/training-runs/{}", job["job"].as_str().unwrap())
    };
    let until = |base: &str, run: &str, is: &dyn Fn(&Value) -> bool| -> Value {
        let begun = Instant::now();
        loop {
            let found = get(&format!("{base}{run}"));
            if is(&found) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{found}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let over =
        |run: &Value| !["queued", "running"].contains(&run["job"]["state"].as_str().unwrap());

    let (mut child, base) = serve(dir.path(), data.path());
    let whole = begin(&base, "whole");
    let whole = until(&base, &whole, &over);
    assert_eq!(whole["job"]["state"], "succeeded", "{whole}");
    child.kill().unwrap();
    child.wait().unwrap();
    for signal in ["-KILL", "-TERM"] {
        let (mut child, base) = serve(dir.path(), data.path());
        let cut = begin(&base, &signal.replace('-', "cut-").to_lowercase());
        until(&base, &cut, &|run| !run["epochs"].as_array().unwrap().is_empty());
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let begun = Instant::now();
        let ended = child.wait().unwrap();
        // Asked to end, it ends well, and soon: the step at hand is the last.
        assert_eq!(ended.success(), signal == "-TERM", "{signal}: {ended}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{signal}");

        let (mut child, base) = serve(dir.path(), data.path());
        let again = get(&format!("{base}{cut}"));
        assert!(!over(&again), "{signal}: it was over before: {again}");
        let found = until(&base, &cut, &over);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found["job"]["state"], "succeeded", "{signal}: {found}");
        // A stop in good order is no attempt that failed.
        let attempts = if signal == "-TERM" { 1 } else { 2 };
        assert_eq!(found["job"]["attempts"], attempts, "{signal}");
        assert_eq!(found["epochs"].as_array().unwrap().len(), 3, "{signal}");
        assert_eq!(
            found["job"]["output"]["fingerprint"], whole["job"]["output"]["fingerprint"],
            "{signal}: the same weights to the last bit"
        );
    }
}
