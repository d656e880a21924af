//! What the command line promises to scripts, asked of the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::app::{hands, write_folders};

pub(crate) fn handclip(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
    command.args(args).env_remove("HANDCLIP_DATA_DIR").env("HANDCLIP_LOG", "warn");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stderr)
}

pub(crate) fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running server, killed at the end.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn start(data: &str) -> Self {
        Self::start_with(data, Stdio::null())
    }

    /// One whose notes go somewhere else than nowhere.
    pub(crate) fn start_with(data: &str, notes: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
            .args(["serve", "--data-dir", data, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(notes)
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
    let summary = parse(&text(&first.stdout));
    assert_eq!((&summary["enrolled"], &summary["already_enrolled"]), (&48.into(), &0.into()));

    std::fs::remove_file(&broken).unwrap();
    let summary = parse(&done(&enrol()));
    assert_eq!((&summary["enrolled"], &summary["already_enrolled"]), (&0.into(), &48.into()));

    let probe = files[5].display().to_string();
    let on = ["--data-dir", &data, "--gallery", "g"];
    let ask = |command: &str, rest: &[&str]| handclip(&[&[command], &on[..], rest].concat());
    let answer = parse(&done(&ask("identify", &[&probe, "--json", "--limit", "2"])));
    assert_eq!(answer["candidates"][0]["subject"], hands()[5].subject.as_str());
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 2);
    let verify = ask("verify", &["--subject", &hands()[5].subject, "--threshold", "0.99", &probe]);
    assert!(done(&verify).contains("decision: match\n"), "{}", done(&verify));
    let hits = parse(&done(&ask("search", &["--prompt", "a left hand", "--json"])));
    assert_eq!(hits["hits"].as_array().unwrap().len(), 10);
    assert!(
        failed(&ask("verify", &["--subject", "nobody", &probe]), 1).contains("no subject `nobody`")
    );

    let gallery = |rest: &[&str]| handclip(&[&["gallery", "--data-dir", &data], rest].concat());
    let audit = parse(&done(&gallery(&["check", "g"])));
    assert_eq!((&audit["samples"], &audit["found"]), (&48.into(), &48.into()));
    let receipt = parse(&done(&gallery(&["erase", "g", "person-2"])));
    assert_eq!(receipt["samples"], 8);
    assert!(
        done(&gallery(&["list"])).contains("        5        40"),
        "{}",
        done(&gallery(&["list"]))
    );
}

/// A new one would open nothing, and lie where the right one is looked for.
#[test]
fn a_master_key_that_is_missing_beside_a_store_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let list = |more: &[&str]| {
        let data = data.display().to_string();
        handclip(&[&["gallery", "--data-dir", &data], more, &["list"]].concat())
    };
    let data_dir = data.display().to_string();
    done(&handclip(&["gallery", "--data-dir", &data_dir, "create", "g"]));
    let (key, elsewhere) = (data.join("master.key"), dir.path().join("kept.key"));
    std::fs::rename(&key, &elsewhere).unwrap();
    assert!(failed(&list(&[]), 1).contains("there is no master key at"));
    let typo = dir.path().join("kpet.key");
    let named = ["--master-key-file", &typo.display().to_string()];
    assert!(failed(&list(&named), 1).contains("kpet.key"));
    assert!(!key.exists() && !typo.exists());
    done(&list(&["--master-key-file", &elsewhere.display().to_string()]));
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
fn what_the_command_line_enrols_a_server_finds_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let file = write_folders(&dir.path().join("photos")).swap_remove(3).display().to_string();
    let data = dir.path().join("data").display().to_string();
    let hand = &hands()[3];
    let attributes = hand.sample.attributes();
    let (aspect, side) =
        (attributes.aspect.unwrap().to_string(), attributes.side.unwrap().to_string());
    let on = ["--data-dir", &data, "--gallery", "g"];
    let known = ["--subject", "ann", "--sample", "first", "--aspect", &aspect, "--side", &side];
    let rest = ["--accessories", "true", "--create", &file];
    let enrolled = handclip(&[&["enrol"], &on[..], &known[..], &rest[..]].concat());
    assert_eq!(done(&enrolled), "enrolled 1, already enrolled 0, failed 0\n");

    let serving = Serving::start(&data);
    let agent = ureq::Agent::new_with_defaults();
    let url = format!("{}/v1/galleries/g", serving.url);
    let read = |path: &str| -> Value {
        agent.get(format!("{url}{path}")).call().unwrap().body_mut().read_json().unwrap()
    };
    let sample = read("/subjects/ann/samples/first");
    assert_eq!(sample["attributes"]["aspect"], aspect.as_str());
    assert_eq!(sample["attributes"]["accessories"], true);
    let other = serde_json::json!({"image": hands()[9].base64()});
    agent.post(format!("{url}/subjects/bob/samples")).send_json(&other).unwrap();
    // Killed, not stopped: what was acknowledged is there.
    drop(serving);

    let identify = |filter: &[&str]| {
        let probe = [&["identify"], &on[..], &["--json", &file], filter].concat();
        let answer = parse(&done(&handclip(&probe)));
        let candidates = answer["candidates"].as_array().unwrap().clone();
        candidates.iter().map(|c| c["subject"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(identify(&[])[0], "ann");
    assert_eq!(identify(&[]).len(), 2);
    assert_eq!(identify(&["--aspect", &aspect, "--side", &side]), ["ann"]);
    let other_side = if side == "left" { "right" } else { "left" };
    assert_eq!(identify(&["--side", other_side]), Vec::<String>::new());
    assert_eq!(identify(&["--accessories", "false"]), Vec::<String>::new());
}

#[test]
fn a_manifest_enrols_and_a_wrong_row_enrols_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_folders(dir.path());
    let manifest = dir.path().join("list.csv");
    let data = dir.path().join("data").display().to_string();
    let enrol = |rows: &str| {
        // As a spreadsheet writes it: with a byte order mark and CRLF.
        let text = format!("\u{feff}path,subject,side,site\r\n{rows}");
        std::fs::write(&manifest, text).unwrap();
        let path = manifest.display().to_string();
        handclip(&["enrol", "--data-dir", &data, "--gallery", "g", "--create", "--json", &path])
    };
    let wrong = failed(&enrol("person-0/0.jpg,ann,left,north\r\nperson-0/1.jpg,bob,up,\r\n"), 1);
    assert!(wrong.contains("row 3") && wrong.contains("up"), "{wrong}");
    assert!(!Path::new(&data).exists(), "nothing is made for a manifest that cannot be read");

    let absent = enrol("person-0/0.jpg,ann,left,north\r\nperson-0/absent.jpg,bob,,\r\n");
    assert!(failed(&absent, 1).contains("absent.jpg"));
    let summary = parse(&text(&absent.stdout));
    assert_eq!(summary["enrolled"], 1);
    assert_eq!(summary["failed"].as_array().unwrap().len(), 1);
    let photo = dir.path().join("person-0/0.jpg").display().to_string();
    let search = ["search", "--data-dir", &data, "--gallery", "g", "--image", &photo, "--json"];
    let hit = parse(&done(&handclip(&search)))["hits"][0].clone();
    assert_eq!((&hit["subject"], &hit["attributes"]["side"]), (&"ann".into(), &"left".into()));
    assert_eq!(hit["attributes"]["extra"]["site"], "north");
    assert!(hit["similarity"].as_f64().unwrap() > 0.999, "{hit}");
}

#[test]
fn a_mistyped_data_folder_is_not_made_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let photo = write_folders(dir.path()).swap_remove(0).display().to_string();
    let data = dir.path().join("typo").display().to_string();
    let on = ["--data-dir", &data];
    for rest in [
        &["identify", "--gallery", "g", &photo][..],
        &["verify", "--gallery", "g", "--subject", "ann", &photo],
        &["search", "--gallery", "g", "--prompt", "a palm"],
        &["enrol", "--gallery", "g", "--subject", "ann", &photo],
        &["gallery", "list"],
        &["gallery", "erase", "g", "ann"],
    ] {
        let args = [&rest[..1], &on[..], &rest[1..]].concat();
        let message = failed(&handclip(&args), 1);
        assert!(message.contains("there is no store in") && message.contains("typo"), "{message}");
        assert!(!Path::new(&data).exists(), "{rest:?}");
    }
    let image = handclip(&["enrol", "--data-dir", &data, "--gallery", "g", "--create", &photo]);
    assert!(failed(&image, 1).contains("--subject"));
    done(&handclip(&["gallery", "--data-dir", &data, "create", "g"]));
    let unknown = failed(&handclip(&["gallery", "--data-dir", &data, "show", "other"]), 1);
    assert!(unknown.contains("no gallery `other`"), "{unknown}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
        .arg("openapi")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The document is larger than a pipe holds, so the write is under way when the reader leaves.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
#[cfg(unix)]
fn the_demo_serves_until_it_is_told_to_stop_and_leaves_nothing() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
        .args(["demo", "--subjects", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let last = line.starts_with("Ctrl-C");
        said.push(line);
        if last {
            break;
        }
    }
    let find = |part: &str| said.iter().find(|line| line.contains(part)).unwrap().trim().to_owned();
    let openapi = find("/openapi.json").split_whitespace().next().unwrap().to_owned();
    let pictures = find("the pictures").split_whitespace().next().unwrap().to_owned();
    let document: Value = ureq::get(&openapi).call().unwrap().body_mut().read_json().unwrap();
    assert!(document["paths"].is_object());
    assert!(Path::new(&pictures).is_dir());
    // The line to paste is sent as it stands there.
    let paste = find("--data-binary");
    let (image, url) = (paste.split_once('@').unwrap().1, paste.rsplit('\'').nth(1).unwrap());
    let image = std::fs::read(image.split_whitespace().next().unwrap()).unwrap();
    let answer: Value = ureq::post(url)
        .content_type("image/jpeg")
        .send(&image[..])
        .unwrap()
        .body_mut()
        .read_json()
        .unwrap();
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 2);

    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let scratch = Path::new(&pictures).ancestors().nth(2).unwrap();
    assert!(scratch.to_string_lossy().contains("handclip-demo") && !scratch.exists());
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
    let lines: Vec<Value> = lines.lines().map(parse).collect();
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
    assert_eq!(parse(texts.lines().next().unwrap())["fingerprint"], lines[0]["fingerprint"]);
    let message = failed(&handclip(&["embed", "--json", &a, "/absent.jpg"]), 1);
    assert!(message.contains("/absent.jpg"), "{message}");
}

#[test]
fn wrong_use_exits_with_2_and_failure_with_1() {
    failed(&handclip(&["no-such-command"]), 2);
    failed(&handclip(&["embed"]), 2);
    failed(&handclip(&["identify", "--gallery", "a/b", "x.jpg"]), 2);
    for (flag, value) in
        [("--limit", "0"), ("--limit", "1001"), ("--threshold", "1.5"), ("--mean-of", "0")]
    {
        let message = failed(&handclip(&["identify", "--gallery", "g", flag, value, "x.jpg"]), 2);
        assert!(message.contains(flag) && message.contains("is taken"), "{message}");
    }
    let weight = ["search", "--gallery", "g", "--prompt", "a palm", "--image-weight", "NaN"];
    failed(&handclip(&weight), 2);
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
    assert_eq!(parse(&done(&synth()))["images"], 8);
    assert!(failed(&synth(), 1).contains("not empty"));
    let report = parse(&done(&handclip(&["model", "inspect", "nano", "--json"])));
    assert_eq!(report["kind"], "clip");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert!(
        parse(&done(&handclip(&["openapi"])))["paths"]["/v1/galleries/{gallery}:identify"]
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
