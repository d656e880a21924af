//! What commands say to people: their notes, their hints, and what they refuse before they do anything.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cli::{Serving, done, failed, handclip, parse};
use crate::deployment::write_variant;
use crate::support::app::{hands, write_folders};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_command_whose_notes_cannot_be_written_ends_as_it_would() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let unheard = |args: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.args(args).env_remove("HANDCLIP_DATA_DIR").env("HANDCLIP_LOG", "off").stderr(full);
        command.output().unwrap()
    };
    // Says that it made a master key, and what the key is called.
    let create = ["keys", "create", "--data-dir", &data, "--name", "ops", "--scope", "admin"];
    assert!(!done(&unheard(&create)).trim().is_empty());
    failed(&unheard(&["embed", "/absent.jpg"]), 1);
    failed(&unheard(&["no-such-command"]), 2);
}

#[test]
fn a_server_whose_notes_nobody_reads_serves_and_stops_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut serving = Serving::start_with(&dir.path().display().to_string(), writer.into());
    let ready = ureq::get(format!("{}/readyz", serving.url)).call().unwrap();
    assert_eq!(ready.status(), 200);
    send("-TERM", serving.child.id());
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_enrolment_in_doubt_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_folders(&dir.path().join("photos"));
    let data = dir.path().join("data").display().to_string();
    let enrol = |n: usize| {
        let attributes = hands()[n].sample.attributes();
        let (aspect, side) =
            (attributes.aspect.unwrap().to_string(), attributes.side.unwrap().to_string());
        let path = files[n].display().to_string();
        let on = ["--data-dir", &data, "--gallery", "g", "--create", "--json"];
        let who = ["--subject", "ada", "--aspect", &aspect, "--side", &side, &path];
        handclip(&[&["enrol"], &on[..], &who[..]].concat())
    };
    let first = enrol(0);
    assert_eq!(parse(&done(&first))["flagged"], json!([]));

    let serving = Serving::start(&data);
    let model: Value = {
        let url = format!("{}/v1/models/champion", serving.url);
        ureq::get(url).call().unwrap().body_mut().read_json().unwrap()
    };
    // So strict that no other picture of a hand is taken for that hand.
    let one = json!({"target": 0.01, "similarity": 0.9999, "rate": 0.0, "upper": 0.01});
    let calibration = json!({"fingerprint": model["fingerprint"], "subjects": 9,
        "samples_per_subject": 9, "gallery_subjects": 9, "verification": [one],
        "identification": [one], "made_at_ms": 1});
    let url = format!("{}/v1/galleries/g/calibration", serving.url);
    ureq::put(url).send_json(&calibration).unwrap();
    drop(serving);

    let second = enrol(1);
    let flagged = &parse(&done(&second))["flagged"];
    let path = files[1].display().to_string();
    assert_eq!(*flagged, json!([{"path": path, "flags": ["far_from_subject"]}]));
    let said = said(&second);
    assert!(said.contains("warning") && said.contains(&path), "{said}");
}

#[test]
fn a_model_is_found_by_its_name_and_where_it_was_exported() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, files, out) = (path("data"), path("variant"), path("out"));
    write_variant(Path::new(&files), 1);
    let on = ["--data-dir", &data];
    let model = |rest: &[&str]| handclip(&[&["model"], rest, &on[..]].concat());
    for name in ["b", "a-longer-name"] {
        done(&model(&["import", name, &files]));
    }
    let list = done(&model(&["list"]));
    let column = |line: &str| line.find("  ").map(|at| line[at..].trim_start().len());
    let lengths: Vec<_> = list.lines().map(column).collect();
    assert_eq!(lengths.len(), 2);
    assert_eq!(lengths[0], lengths[1], "{list}");
    assert_eq!(list.lines().map(str::len).min(), list.lines().map(str::len).max(), "{list}");

    let embed = |model: &str| {
        let ask = ["embed", "--json", "--model", model, "--text", "a palm"];
        parse(&done(&handclip(&[&ask[..], &on[..]].concat())))["fingerprint"].clone()
    };
    let fingerprint = embed("b");
    done(&model(&["export", "b", "--out", &out]));
    assert_eq!(embed(&out), fingerprint);
    let seen = parse(&done(&handclip(&["model", "inspect", "--json", &out])));
    assert_eq!(seen["problems"], json!([]));
    let ask = ["embed", "--model", "no-such", "--text", "a palm"];
    let none = failed(&handclip(&[&ask[..], &on[..]].concat()), 1);
    assert!(none.contains("there are `nano, a-longer-name, b`"), "{none}");

    let kept = failed(&model(&["delete", "nano"]), 1);
    assert!(kept.contains("inside the program and cannot be deleted"), "{kept}");
    let kept = failed(&model(&["show", "nano"]), 1);
    assert!(kept.contains("not of the registry"), "{kept}");
}

#[test]
fn a_mistyped_data_folder_passes_for_no_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let typo = dir.path().join("typo").display().to_string();
    for args in [
        &["model", "list"][..],
        &["keys", "list"],
        &["keys", "revoke", "0123456789abcdef"],
        &["keys", "rotate", "0123456789abcdef"],
        &["keys", "rotate-master", "--new-master-key-file", "/absent"],
    ] {
        let message = failed(&handclip(&[args, &["--data-dir", &typo]].concat()), 1);
        assert!(message.contains("typo"), "{message}");
        assert!(!Path::new(&typo).exists(), "{args:?}");
    }
    // A file cannot be looked into, as a folder cannot that somebody else owns.
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let file = file.display().to_string();
    for args in [&["model", "list"][..], &["keys", "list"], &["gallery", "list"]] {
        let message = failed(&handclip(&[args, &["--data-dir", &file]].concat()), 1);
        assert!(message.contains("Not a directory"), "{message}");
        assert!(!message.contains("there is no store"), "{message}");
    }
}

#[test]
fn what_is_said_to_be_typed_next_works_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, backup) = (path("data"), path("b1.hcb"));
    // Options before the action and after it.
    done(&handclip(&["gallery", "--data-dir", &data, "create", "g"]));
    assert!(done(&handclip(&["gallery", "list", "--data-dir", &data])).contains("\ng "));
    let made = handclip(&["gallery", "backup", &backup, "--data-dir", &data]);
    done(&made);
    let hint = said(&made);
    let typed: Vec<&str> = hint.split('`').nth(1).unwrap().split(' ').skip(1).collect();
    assert!(done(&handclip(&typed)).contains("every one whole"), "{hint}");

    let gone = failed(&handclip(&["rollback", "--server", "http://127.0.0.1:1"]), 1);
    assert!(gone.contains("cannot reach the server http://127.0.0.1:1: "), "{gone}");
    let help = done(&handclip(&["compare", "--help"]));
    assert!(help.contains("column `path`") && help.contains("column `embedding`"), "{help}");
}

#[test]
fn thresholds_are_measured_only_for_a_gallery_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let calibrate = |data: &str| {
        // Of no pictures at all, which would be said if they were looked at.
        handclip(&["calibrate", "--data", "/absent", "--gallery", "g", "--data-dir", data])
    };
    assert!(failed(&calibrate(&data), 1).contains("there is no store"));
    done(&handclip(&["gallery", "create", "other", "--data-dir", &data]));
    assert!(failed(&calibrate(&data), 1).contains("no gallery `g`"));
    let serving = Serving::start(&data);
    assert!(failed(&calibrate(&data), 1).contains("in use"));
    drop(serving);
    for refused in ["--server=http://127.0.0.1:1", "--show-images"] {
        failed(&handclip(&["calibrate", "--data", "/absent", refused]), 2);
    }
}

#[test]
fn a_demo_that_is_hung_up_on_leaves_nothing() {
    // At the first line it draws, at the last one it serves.
    for (people, last, code) in [("500", "Drawing", 1), ("2", "Ctrl-C", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
            .args(["demo", "--subjects", people])
            .env("TMPDIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut lines = lines.skip_while(|line| !line.starts_with(last));
        assert!(lines.next().is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        send("-HUP", child.id());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
