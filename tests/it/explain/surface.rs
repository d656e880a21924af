//! `handclip explain` and `POST /v1/explain`.

use std::path::Path;
use std::process::{Command, Output};

use handclip::image::{DecodeLimits, decode};
use serde_json::{Value, json};

use crate::support::app::{Hand, TestApp, base64, hands, write_folders};

fn rows_and_values(answer: &Value) -> (Vec<usize>, Vec<f32>) {
    let map: Vec<Vec<f32>> = serde_json::from_value(answer["map"].clone()).unwrap();
    let shape = vec![map.len(), map[0].len()];
    assert_eq!(json!(shape), json!([answer["rows"], answer["cols"]]));
    (shape, map.concat())
}

#[test]
fn rest_explains_against_an_image_a_subject_and_words() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    hands().iter().step_by(2).for_each(|hand| drop(app.enrol("g", hand)));
    let (probe, other) = (&hands()[1], &hands()[0]);
    let ask = |mut body: Value| {
        body["image"] = json!(probe.base64());
        app.post("/v1/explain", &body).ok()
    };

    let compared = {
        let body = json!({"image_a": probe.base64(), "image_b": other.base64()});
        app.post("/v1/compare", &body).ok()["similarity"].as_f64().unwrap()
    };
    let by_image = ask(json!({"with": other.base64()}));
    assert!((by_image["similarity"].as_f64().unwrap() - compared).abs() < 1.1e-4);
    assert_eq!(
        (&by_image["method"], &by_image["target"]),
        (&json!("relevance"), &json!({"kind": "image"}))
    );
    let (shape, values) = rows_and_values(&by_image);
    assert_eq!(shape, [6, 6]);
    assert!(values.iter().any(|value| *value > 0.0) && values.iter().all(|value| *value >= 0.0));
    assert!(by_image["curves"].is_null() && !by_image["fingerprint"].is_null());

    let verified = {
        let body = json!({"subject": other.subject, "image": probe.base64()});
        app.post("/v1/galleries/g:verify", &body).ok()
    };
    let by_subject = ask(json!({"gallery": "g", "subject": other.subject, "method": "grad-cam"}));
    let best = &verified["samples"][0];
    let target = json!({"kind": "subject", "gallery": "g", "subject": other.subject, "sample": best["sample"]});
    assert_eq!(by_subject["target"], target);
    let similarity = |answer: &Value| answer["similarity"].as_f64().unwrap();
    assert!((similarity(&by_subject) - similarity(best)).abs() < 1e-5);

    // What measures somebody's template has two digits.
    let (_, values) = rows_and_values(&by_subject);
    assert!(values.iter().copied().fold(0.0, f32::max) == 1.0, "{values:?}");
    let coarse = |value: &f32| (value * 100.0 - (value * 100.0).round()).abs() < 1e-4;
    assert!(values.iter().all(coarse), "{values:?}");

    let by_prompt = ask(json!({"prompt": "a left hand", "method": "rollout"}));
    assert_eq!(by_prompt["target"], json!({"kind": "prompt", "prompt": "a left hand"}));
    // The same question beside a raw body.
    let raw =
        app.post_bytes("/v1/explain?prompt=a+left+hand&method=rollout", "image/jpeg", &probe.jpeg);
    assert_eq!(raw.ok()["map"], by_prompt["map"]);
    assert_eq!(raw.header("vary").map(|v| v.contains("accept")), Some(true));
}

#[test]
fn rest_answers_with_the_overlay_where_png_is_wanted() {
    let app = TestApp::spawn();
    let body = json!({"image": hands()[0].base64(), "prompt": "a hand"});
    for accept in ["image/png", "application/json;q=0.5, image/*"] {
        let (status, content_type, png) = app.post_accepting("/v1/explain", accept, &body);
        assert_eq!((status, content_type.as_str()), (200, "image/png"), "{accept}");
        let picture = decode(&png, &DecodeLimits::default()).unwrap();
        assert_eq!((picture.width(), picture.height()), (128, 128));
    }
    for accept in ["*/*", "application/json", "image/png;q=0.1, application/json"] {
        let (status, content_type, _) = app.post_accepting("/v1/explain", accept, &body);
        assert_eq!((status, content_type.as_str()), (200, "application/json"), "{accept}");
    }
}

#[test]
fn rest_refuses_no_target_two_targets_and_what_is_not_there() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    let image = hands()[0].base64();
    let refused = |mut body: Value, status: u16, code: &str| {
        body["image"] = json!(image);
        let answer = app.post("/v1/explain", &body);
        answer.refused(status, code);
        answer.json()["errors"][0]["field"].as_str().map(str::to_owned)
    };
    let field = |name: &str| Some(name.to_owned());
    assert_eq!(refused(json!({}), 400, "invalid_request"), field("with"));
    let two = json!({"prompt": "a hand", "with": image});
    assert_eq!(refused(two, 400, "invalid_request"), field("with"));
    let three = json!({"prompt": "a hand", "gallery": "g", "subject": "ann"});
    assert_eq!(refused(three, 400, "invalid_request"), field("with"));
    let half = json!({"subject": "ann"});
    assert_eq!(refused(half, 400, "invalid_request"), field("gallery"));
    assert_eq!(refused(json!({"gallery": "g"}), 400, "invalid_request"), field("subject"));
    let magic = json!({"prompt": "a hand", "method": "magic"});
    assert_eq!(refused(magic, 400, "invalid_request"), field("method"));
    let curves = json!({"prompt": "a hand", "curves": true});
    assert_eq!(refused(curves, 400, "invalid_request"), field("curves"));
    refused(json!({"gallery": "g", "subject": "ann"}), 404, "subject_not_found");
    refused(json!({"gallery": "h", "subject": "ann"}), 404, "gallery_not_found");
    refused(json!({"gallery": "a b", "subject": "ann"}), 400, "invalid_id");
    refused(json!({"prompt": " "}), 422, "prompt_refused");
    let cut = base64(&hands()[0].jpeg[..600]);
    refused(json!({"with": cut}), 422, "image_truncated");
    let body = json!({"image": cut, "prompt": "a hand"});
    app.post("/v1/explain", &body).refused(422, "image_truncated");
    app.post("/v1/explain", &json!({"prompt": "a hand"})).refused(400, "invalid_request");
}

#[test]
fn more_questions_than_may_wait_are_told_to_come_back_and_the_others_answered() {
    let app = TestApp::spawn_with(|_, http| http.workers = 4);
    let body = json!({"image": hands()[0].base64(), "with": hands()[1].base64()});
    let statuses: Vec<(u16, bool)> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..48)
            .map(|_| {
                scope.spawn(|| {
                    let answer = app.post("/v1/explain", &body);
                    (answer.status, answer.header("retry-after").is_some())
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |status: u16| statuses.iter().filter(|(s, _)| *s == status).count();
    assert_eq!(count(200) + count(429), statuses.len(), "{statuses:?}");
    // One under way and sixteen waiting are answered whatever the order.
    assert!(count(200) >= 17, "{statuses:?}");
    println!("{} answered, {} told to come back", count(200), count(429));
    assert!(statuses.iter().all(|(status, retry)| *retry == (*status == 429)));
    app.post("/v1/explain", &body).ok();
}

fn handclip(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
    command.args(args).env_remove("HANDCLIP_DATA_DIR").env("HANDCLIP_LOG", "warn");
    command.output().unwrap()
}

#[track_caller]
fn done(args: &[&str]) -> String {
    let output = handclip(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn failed(args: &[&str], code: i32) -> String {
    let output = handclip(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

/// Writes a hand's file and gives its path.
fn file(dir: &Path, name: &str, hand: &Hand) -> String {
    let path = dir.join(name);
    std::fs::write(&path, &hand.jpeg).unwrap();
    path.display().to_string()
}

#[test]
fn the_command_writes_an_overlay_a_numpy_file_and_json_that_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (file(dir.path(), "a.jpg", &hands()[0]), file(dir.path(), "b.jpg", &hands()[1]));
    let out = dir.path().join("out");
    let to = out.display().to_string();
    let said = done(&["explain", &a, "--with", &b, "--out", &to, "--curves"]);
    assert!(said.contains("similarity to") && said.contains("area under deletion"), "{said}");
    let json: Value = {
        let text = std::fs::read_to_string(out.join("explanation.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(json["target"], json!({"kind": "image", "file": b}));
    let curves = &json["curves"];
    assert_eq!(curves["deletion"].as_array().unwrap().len(), 37);
    let first = curves["deletion"][0].as_f64().unwrap();
    assert!((first - json["similarity"].as_f64().unwrap()).abs() < 1.1e-4, "the whole picture");
    assert!((curves["insertion"][36].as_f64().unwrap() - first).abs() < 1e-5);

    let npy = std::fs::read(out.join("map.npy")).unwrap();
    assert_eq!(&npy[..6], b"\x93NUMPY");
    let npy = npyz::NpyFile::new(&npy[..]).unwrap();
    let (shape, values) = rows_and_values(&json);
    assert_eq!(npy.shape(), shape.iter().map(|n| *n as u64).collect::<Vec<_>>());
    assert_eq!(npy.into_vec::<f32>().unwrap(), values);

    let png = std::fs::read(out.join("overlay.png")).unwrap();
    let overlay = decode(&png, &DecodeLimits::default()).unwrap();
    let original = decode(&hands()[0].jpeg, &DecodeLimits::default()).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (original.width(), original.height()));
    assert_ne!(overlay.rgb(), original.rgb());

    let printed = done(&["explain", &a, "--text", "a left hand", "--method", "grad-cam", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["method"], &printed["curves"]), (&json!("grad-cam"), &Value::Null));
}

#[test]
fn the_command_explains_against_an_enrolled_subject_as_verify_does() {
    let dir = tempfile::tempdir().unwrap();
    write_folders(&dir.path().join("photos"));
    let probe = file(dir.path(), "probe.jpg", &hands()[9]);
    let (photos, data) = (
        dir.path().join("photos").display().to_string(),
        dir.path().join("data").display().to_string(),
    );
    let on = ["--data-dir", &data, "--gallery", "g"];
    done(&[&["enrol"], &on[..], &["--create", &photos]].concat());
    let about = ["--subject", "person-1", &probe, "--json"];
    let json = |command: &str| -> Value {
        serde_json::from_str(&done(&[&[command], &on[..], &about].concat())).unwrap()
    };
    let (verified, explained) = (json("verify"), json("explain"));
    assert_eq!(explained["target"]["sample"], verified["samples"][0]["sample"]);
    let similarity = |answer: &Value| answer["similarity"].as_f64().unwrap();
    assert!((similarity(&explained) - similarity(&verified)).abs() < 1.1e-4);
    let nobody = [&["explain"], &on[..], &["--subject", "nobody", &probe, "--json"]].concat();
    assert!(failed(&nobody, 1).contains("no subject `nobody`"));
}

#[test]
fn wrong_use_of_the_command_is_told_apart_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    let a = file(dir.path(), "a.jpg", &hands()[0]);
    assert!(failed(&["explain", &a], 2).contains("--with"), "no target");
    failed(&["explain", &a, "--with", &a, "--text", "a hand"], 2);
    failed(&["explain", &a, "--subject", "ann"], 2);
    failed(&["explain", &a, "--gallery", "g"], 2);
    let message = failed(&["explain", &a, "--text", "a hand", "--method", "magic"], 2);
    assert!(message.contains("rollout, grad-cam or relevance"), "{message}");
    let missing = dir.path().join("none.jpg").display().to_string();
    assert!(failed(&["explain", &missing, "--text", "a hand", "--json"], 1).contains("none.jpg"));
    assert!(failed(&["explain", &a, "--text", " ", "--json"], 1).contains("prompt is empty"));
}
