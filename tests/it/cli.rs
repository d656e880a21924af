//! What the command line promises to scripts, asked of the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::app::{hands, write_folders};

fn handclip(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
    command.args(args).env_remove("HANDCLIP_DATA_DIR").env("HANDCLIP_LOG", "warn");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stderr)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running server, killed at the end.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    fn start(data: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
            .args(["serve", "--data-dir", data, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("the promised line").to_owned();
        Self { child, url }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_folder_is_enrolled_with_errors_by_file_and_again_without_doubling() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    let files = write_folders(&photos);
    let broken = photos.join("person-0/broken.jpg");
    std::fs::write(&broken, &hands()[0].jpeg[..500]).unwrap();
    let data = dir.path().join("data").display().to_string();
    let photos = photos.display().to_string();
    let enrol = || {
        handclip(&["enrol", "--data-dir", &data, "--gallery", "g", "--create", "--json", &photos])
    };

    let first = enrol();
    let message = failed(&first, 1);
    assert!(message.contains("broken.jpg") && message.contains("cut off"), "{message}");
    let summary = json(&text(&first.stdout));
    assert_eq!((&summary["enrolled"], &summary["already_enrolled"]), (&48.into(), &0.into()));

    std::fs::remove_file(&broken).unwrap();
    let summary = json(&done(&enrol()));
    assert_eq!((&summary["enrolled"], &summary["already_enrolled"]), (&0.into(), &48.into()));

    let probe = files[5].display().to_string();
    let on = ["--data-dir", &data, "--gallery", "g"];
    let ask = |command: &str, rest: &[&str]| handclip(&[&[command], &on[..], rest].concat());
    let answer = json(&done(&ask("identify", &[&probe, "--json", "--limit", "2"])));
    assert_eq!(answer["candidates"][0]["subject"], hands()[5].subject.as_str());
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 2);
    let verify = ask("verify", &["--subject", &hands()[5].subject, "--threshold", "0.99", &probe]);
    assert!(done(&verify).contains("\"match\""));
    let hits = json(&done(&ask("search", &["--prompt", "a left hand", "--json"])));
    assert_eq!(hits["hits"].as_array().unwrap().len(), 10);
    assert!(
        failed(&ask("verify", &["--subject", "nobody", &probe]), 1).contains("no subject `nobody`")
    );

    let gallery = |rest: &[&str]| handclip(&[&["gallery", "--data-dir", &data], rest].concat());
    let audit = json(&done(&gallery(&["audit", "g"])));
    assert_eq!((&audit["samples"], &audit["found"]), (&48.into(), &48.into()));
    let receipt = json(&done(&gallery(&["erase", "g", "person-2"])));
    assert_eq!(receipt["samples"], 8);
    assert!(
        done(&gallery(&["list"])).contains("        5        40"),
        "{}",
        done(&gallery(&["list"]))
    );
}

#[test]
fn a_store_in_use_is_a_plain_error() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let serving = Serving::start(&data);
    assert!(serving.url.starts_with("http://127.0.0.1:"));
    let message = failed(&handclip(&["gallery", "--data-dir", &data, "list"]), 1);
    assert!(message.contains("in use") && message.contains("stop the server"), "{message}");
    let address = serving.url.trim_start_matches("http://").to_owned();
    assert!(done(&handclip(&["health", "--listen", &address])).contains("\"ready\":true"));
}

#[test]
#[cfg(unix)]
fn a_server_told_to_terminate_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(&dir.path().display().to_string());
    let pid = serving.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn embed_prints_a_json_line_for_each_input() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_folders(dir.path());
    let (a, b) = (files[0].display().to_string(), files[1].display().to_string());
    let lines = done(&handclip(&["embed", "--json", &a, &b]));
    let lines: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(lines.len(), 2);
    for (line, input) in lines.iter().zip([&a, &b]) {
        assert_eq!(line["input"], input.as_str());
        assert_eq!(
            line["embedding"].as_array().unwrap().len() as u64,
            line["dim"].as_u64().unwrap()
        );
        assert_eq!(line["fingerprint"].as_str().unwrap().len(), 64);
    }
    let texts = done(&handclip(&["embed", "--json", "--text", "a left hand", "a palm"]));
    assert_eq!(texts.lines().count(), 2);
    assert_eq!(json(texts.lines().next().unwrap())["fingerprint"], lines[0]["fingerprint"]);
    let message = failed(&handclip(&["embed", "--json", &a, "/absent.jpg"]), 1);
    assert!(message.contains("/absent.jpg"), "{message}");
}

#[test]
fn wrong_use_exits_with_2_and_failure_with_1() {
    failed(&handclip(&["no-such-command"]), 2);
    failed(&handclip(&["embed"]), 2);
    failed(&handclip(&["identify", "--gallery", "a/b", "x.jpg"]), 2);
    let open = failed(&handclip(&["serve", "--listen", "0.0.0.0:0"]), 1);
    assert!(open.contains("no API keys"), "{open}");
    let absent = failed(&handclip(&["embed", "--model", "/absent", "--text", "x"]), 1);
    assert!(absent.contains("cannot load the model"), "{absent}");
    assert!(!Path::new("handclip-data").exists(), "a refused command makes no folder");
}

#[test]
fn synth_and_inspect_and_openapi_print_what_they_promise() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set").display().to_string();
    let synth = || {
        handclip(&[
            "synth",
            "--subjects",
            "2",
            "--images",
            "1",
            "--seed",
            "3",
            "--size",
            "64",
            "--json",
            &out,
        ])
    };
    assert_eq!(json(&done(&synth()))["images"], 8);
    assert!(failed(&synth(), 1).contains("not empty"));
    let report = json(&done(&handclip(&["model", "inspect", "nano", "--json"])));
    assert_eq!(report["kind"], "clip");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert!(
        json(&done(&handclip(&["openapi"])))["paths"]["/v1/galleries/{gallery}:identify"]
            .is_object()
    );
}

#[test]
fn the_demo_tours_everything_over_http() {
    let output = done(&handclip(&["demo", "--once", "--subjects", "3"]));
    for part in ["Enrolled 24 pictures", "Identify", "Verify", "Search by words", "/docs/"] {
        assert!(output.contains(part), "{part} is missing from {output}");
    }
}
