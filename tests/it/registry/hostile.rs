//! What a registry must not take, and what it must not tell.

use std::path::Path;

use handclip::service::{KeySource, ModelChoice};
use serde_json::{Value, json};

use super::{app, handclip};
use crate::deployment::{deploy, overridden, write_variant};
use crate::support::app::TestApp;

/// A training run's folder: a model, what it was trained on, and how.
fn write_run(dir: &Path, version: usize) {
    write_variant(&dir.join("best"), version);
    let data = json!({"format": 1, "trained": ["ab"], "validated": [], "held_out": []});
    std::fs::write(dir.join("data.json"), data.to_string()).unwrap();
    std::fs::write(dir.join("recipe.toml"), "epochs = 1\n").unwrap();
    let summary =
        json!({"subjects": [6, 2, 4], "images": [18, 6, 12], "before": null, "after": null});
    std::fs::write(dir.join("summary.json"), summary.to_string()).unwrap();
}

/// Names of the entries of a tar archive with where each begins, and where the last ends.
fn entries(archive: &[u8]) -> (Vec<(String, usize)>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while archive[at] != 0 {
        let text = |from: usize, len: usize| {
            let bytes = &archive[at + from..at + from + len];
            String::from_utf8(bytes.iter().copied().take_while(|b| *b != 0).collect()).unwrap()
        };
        let size = usize::from_str_radix(text(124, 12).trim(), 8).unwrap();
        found.push((text(0, 100), at));
        at += 512 + size.next_multiple_of(512);
    }
    (found, at)
}

fn without(archive: &[u8], name: &str) -> Vec<u8> {
    let (found, end) = entries(archive);
    let at = found.iter().position(|(entry, _)| entry.ends_with(name)).unwrap();
    let after = found.get(at + 1).map_or(end, |(_, begins)| *begins);
    [&archive[..found[at].1], &archive[after..]].concat()
}

fn upload(app: &TestApp, name: &str, archive: &[u8]) -> crate::support::app::Answer {
    app.post_bytes(&format!("/v1/models?name={name}"), "application/x-tar", archive)
}

/// Nothing but these models is there, and nothing half-made.
#[track_caller]
fn only(app: &TestApp, expected: &[&str]) {
    let entries = std::fs::read_dir(app.options.data_dir.join("models")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    assert_eq!(names, expected);
}

#[test]
fn an_upload_that_stops_between_two_entries_is_refused() {
    let roots = tempfile::tempdir().unwrap();
    write_run(&roots.path().join("run"), 1);
    let app = app(roots.path());
    app.post("/v1/models", &json!({"name": "b", "directory": "lab/run"})).ok();
    let archive = app.get_bytes("/v1/models/b/archive");
    let (found, end) = entries(&archive);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.ends_with(&["b/data.json", "b/recipe.toml"]), "{names:?}");
    // Whole entries, a model that opens, and no word of whom it was trained on.
    for cut in [found[found.len() - 2].1, found[found.len() - 1].1, end] {
        upload(&app, "c", &archive[..cut]).refused(422, "model_refused");
    }
    only(&app, &["b"]);
    upload(&app, "c", &archive).ok();
    assert!(app.options.data_dir.join("models/c/data.json").is_file());
}

/// The client leaves after whole entries: what it sent is not all that it meant to.
#[test]
fn a_client_that_leaves_between_two_entries_registers_nothing() {
    use std::io::Write as _;
    let roots = tempfile::tempdir().unwrap();
    write_run(&roots.path().join("run"), 1);
    let app = app(roots.path());
    app.post("/v1/models", &json!({"name": "b", "directory": "lab/run"})).ok();
    let archive = app.get_bytes("/v1/models/b/archive");
    // Its end is there and more was announced: what is cut off is not the archive but the request.
    let mut stream = std::net::TcpStream::connect(app.address).unwrap();
    let head = format!(
        "POST /v1/models?name=c HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-tar\r\ncontent-length: {}\r\n\r\n",
        app.address,
        archive.len() + 1
    );
    stream.write_all(head.as_bytes()).unwrap();
    let (found, _) = entries(&archive);
    stream.write_all(&archive[..found[found.len() - 2].1]).unwrap();
    drop(stream);
    // The next import waits for nobody, and is of the same name.
    let begun = std::time::Instant::now();
    while std::fs::read_dir(app.options.data_dir.join("models"))
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".unfinished"))
        || begun.elapsed().as_millis() < 500
    {
        assert!(begun.elapsed().as_secs() < 20, "the half-made folder stays");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    only(&app, &["b"]);
}

/// One byte at a time, never a long pause: it would hold one of two places for as long as it likes.
#[test]
fn an_upload_that_drips_is_ended() {
    use std::io::{Read as _, Write as _};
    let app = TestApp::spawn_with(|_, http| http.request_timeout_s = 1);
    let mut stream = std::net::TcpStream::connect(app.address).unwrap();
    let head = format!(
        "POST /v1/models?name=c HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-tar\r\ncontent-length: 1000000\r\n\r\n",
        app.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let begun = std::time::Instant::now();
    let mut heard = [0; 1024];
    let heard = loop {
        assert!(begun.elapsed().as_secs() < 5, "it goes on");
        let _ = stream.write_all(b"a");
        match stream.read(&mut heard) {
            Ok(read) => break String::from_utf8_lossy(&heard[..read]).into_owned(),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("request_timeout"), "{heard}");
    only(&app, &[]);
}

#[test]
fn what_an_export_says_of_its_files_is_held_against_them() {
    let roots = tempfile::tempdir().unwrap();
    write_run(&roots.path().join("run"), 1);
    let app = app(roots.path());
    let made = app.post("/v1/models", &json!({"name": "b", "directory": "lab/run"})).ok();
    assert_eq!(made["training"]["subjects"], json!([6, 2, 4]));
    let archive = app.get_bytes("/v1/models/b/archive");
    // Without the list of images a model could be measured on people it was trained on.
    upload(&app, "c", &without(&archive, "data.json")).refused(422, "model_refused");
    let mut other = archive.clone();
    let at = other.windows(5).rposition(|window| window == b"\"ab\"]").unwrap();
    other[at + 1..at + 3].copy_from_slice(b"cd");
    upload(&app, "c", &other).refused(422, "model_refused");
    only(&app, &["b"]);
    // Here as well: only a list that somebody was struck from may differ from its record.
    app.post("/v1/models/b:verify", &json!({})).ok();
    let list = app.options.data_dir.join("models/b/data.json");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("\"ab\"", "\"cd\"")).unwrap();
    let found = app.post("/v1/models/b:verify", &json!({}));
    assert!(found.status >= 400, "{}", found.text);
}

#[test]
fn a_list_of_images_that_cannot_be_read_is_refused_with_its_model() {
    let roots = tempfile::tempdir().unwrap();
    let run = roots.path().join("run");
    write_run(&run, 1);
    std::fs::write(run.join("data.json"), "{").unwrap();
    let app = app(roots.path());
    let refused = app.post("/v1/models", &json!({"name": "c", "directory": "lab/run"}));
    refused.refused(422, "model_refused");
    assert!(refused.text.contains("data.json"), "{}", refused.text);
    only(&app, &[]);
}

#[test]
fn a_refusal_names_no_folder_of_the_server() {
    let roots = tempfile::tempdir().unwrap();
    let app = app(roots.path());
    for missing in ["tokenizer.json", "preprocessor_config.json", "model.safetensors"] {
        let dir = roots.path().join("b");
        write_variant(&dir, 1);
        std::fs::remove_file(dir.join(missing)).unwrap();
        let refused = app.post("/v1/models", &json!({"name": "c", "directory": "lab/b"}));
        refused.refused(422, "model_refused");
        for secret in [roots.path(), app.options.data_dir.as_path()] {
            let secret = secret.to_str().unwrap();
            assert!(!refused.text.contains(secret), "{missing}: {}", refused.text);
        }
        assert!(!refused.text.contains(".unfinished"), "{missing}: {}", refused.text);
        std::fs::remove_dir_all(&dir).unwrap();
    }
    only(&app, &[]);
}

#[test]
fn a_link_out_of_the_data_roots_is_not_followed() {
    let (roots, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = roots.path().join("b");
    write_variant(&dir, 1);
    let secret = outside.path().join("tokenizer.json");
    std::fs::rename(dir.join("tokenizer.json"), &secret).unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("tokenizer.json")).unwrap();
    let app = app(roots.path());
    let body = json!({"name": "c", "directory": "lab/b"});
    app.post("/v1/models", &body).refused(422, "model_refused");
    only(&app, &[]);
    // Whoever sits at the machine may: a hub's cache is made of links.
    let data = tempfile::tempdir().unwrap();
    let made = handclip("import", data.path(), &["c", dir.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    // A link within is none of anybody's business.
    std::fs::rename(&secret, roots.path().join("elsewhere.json")).unwrap();
    std::fs::remove_file(dir.join("tokenizer.json")).unwrap();
    std::os::unix::fs::symlink("../elsewhere.json", dir.join("tokenizer.json")).unwrap();
    app.post("/v1/models", &body).ok();
}

#[test]
fn a_model_larger_than_is_taken_is_refused_however_it_comes() {
    let roots = tempfile::tempdir().unwrap();
    write_variant(&roots.path().join("b"), 1);
    let tar = {
        let app = app(roots.path());
        app.post("/v1/models", &json!({"name": "b", "directory": "lab/b"})).ok();
        app.get_bytes("/v1/models/b/archive")
    };
    let small = TestApp::spawn_with(|options, _| {
        options.data_roots = vec![format!("lab={}", roots.path().display()).parse().unwrap()];
        options.max_model_bytes = 1 << 20;
    });
    let body = json!({"name": "b", "directory": "lab/b"});
    small.post("/v1/models", &body).refused(413, "model_too_large");
    upload(&small, "b", &tar).refused(413, "model_too_large");
    // A folder says that it is large, and nothing of it is written.
    let mut filler = vec![0_u8; 512];
    filler[..2].copy_from_slice(b"d/");
    filler[100..107].copy_from_slice(b"0000755");
    filler[124..135].copy_from_slice(b"00400000000"); // 64 MiB
    filler[156] = b'5';
    filler[257..265].copy_from_slice(b"ustar\x0000");
    filler[148..156].fill(b' ');
    let sum: u32 = filler.iter().map(|byte| u32::from(*byte)).sum();
    filler[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    filler.resize(512 + (64 << 20), 1);
    upload(&small, "b", &filler).refused(413, "model_too_large");
    only(&small, &[]);
}

#[test]
fn a_model_that_lost_a_file_is_not_exported_as_if_it_were_whole() {
    let roots = tempfile::tempdir().unwrap();
    write_run(&roots.path().join("run"), 1);
    let app = app(roots.path());
    app.post("/v1/models", &json!({"name": "b", "directory": "lab/run"})).ok();
    std::fs::remove_file(app.options.data_dir.join("models/b/recipe.toml")).unwrap();
    app.get("/v1/models/b/archive").refused(409, "model_damaged");
}

#[test]
fn what_is_not_of_the_registry_is_neither_exported_nor_deleted() {
    let roots = tempfile::tempdir().unwrap();
    let app = app(roots.path());
    for name in ["nano", "champion"] {
        app.get(&format!("/v1/models/{name}/archive")).refused(409, "model_not_registered");
        app.post(&format!("/v1/models/{name}:verify"), &json!({}))
            .refused(409, "model_not_registered");
    }
    app.delete("/v1/models/nano").refused(409, "model_not_registered");
    app.delete("/v1/models/none").refused(404, "model_not_found");
    for name in ["Nano", "CHAMPION"] {
        app.post("/v1/models", &json!({"name": name, "directory": "lab"}))
            .refused(400, "invalid_request");
    }
}

#[test]
fn the_command_line_makes_nothing_where_it_only_looks() {
    let dir = tempfile::tempdir().unwrap();
    let mistyped = dir.path().join("dat");
    // Models that are not there are not the same as none.
    assert!(!handclip("list", &mistyped, &[]).status.success());
    assert!(!handclip("show", &mistyped, &["b"]).status.success());
    assert!(!handclip("delete", &mistyped, &["b"]).status.success());
    assert!(!mistyped.exists());
}

#[test]
fn a_name_that_there_is_no_model_of_is_told_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let (data, files) = (dir.path().join("data"), dir.path().join("b"));
    write_variant(&files, 1);
    assert!(handclip("import", &data, &["hands-v2", files.to_str().unwrap()]).status.success());
    let data = data.to_str().unwrap();
    let create = |model: &str, gallery: &str| {
        let args = ["gallery", "--data-dir", data, "--model", model, "create", gallery];
        crate::cli::handclip(&args)
    };
    let unknown = crate::cli::failed(&create("hands-v3", "g"), 1);
    assert!(unknown.contains("hands-v3") && unknown.contains("hands-v2"), "{unknown}");
    assert!(!Path::new(data).join("store.json").exists(), "nothing was opened");
    crate::cli::done(&create("hands-v2", "g"));
    let shown = ["gallery", "--data-dir", data, "--model", "hands-v2", "--json", "list"];
    let shown: Value = crate::cli::parse(&crate::cli::done(&crate::cli::handclip(&shown)));
    let model = handclip("show", Path::new(data), &["hands-v2", "--json"]);
    let model: Value = serde_json::from_slice(&model.stdout).unwrap();
    assert_eq!(shown[0]["fingerprint"], model["fingerprint"]);
}

#[test]
fn a_model_is_exported_as_a_folder_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run, out) =
        (dir.path().join("data"), dir.path().join("run"), dir.path().join("out"));
    write_run(&run, 1);
    assert!(handclip("import", &data, &["b", run.to_str().unwrap()]).status.success());
    let export = || handclip("export", &data, &["b", "--out", out.to_str().unwrap()]);
    assert!(export().status.success());
    assert!(out.join("files/model.safetensors").is_file() && out.join("data.json").is_file());
    assert!(!export().status.success(), "it is not written onto what is there");
    let made = handclip("import", &data, &["c", out.to_str().unwrap(), "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let model = handclip("show", &data, &["b", "--json"]);
    let model: Value = serde_json::from_slice(&model.stdout).unwrap();
    for field in ["fingerprint", "files", "training"] {
        assert_eq!(made[field], model[field], "{field}");
    }
}

#[test]
fn a_server_starts_though_the_model_of_its_first_start_is_gone() {
    let roots = tempfile::tempdir().unwrap();
    for (name, version) in [("old", 1), ("new", 2)] {
        write_variant(&roots.path().join(name), version);
    }
    let data = roots.path().join("data");
    for name in ["old", "new"] {
        let from = roots.path().join(name);
        assert!(handclip("import", &data, &[name, from.to_str().unwrap()]).status.success());
    }
    let mut app = TestApp::spawn_with(|options, _| {
        options.job_threads = 1;
        options.model = ModelChoice::named_in("old", &data);
        options.master_key = KeySource::File(data.join("master.key"));
        options.data_dir = data.clone();
    });
    assert_eq!(app.get("/v1/models/champion").ok()["name"], "old");
    app.delete("/v1/models/old").refused(409, "model_deployed");
    deploy(&app, "new", &overridden(0));
    app.post("/v1/deployment:retire", &json!({}));
    let begun = std::time::Instant::now();
    while app.delete("/v1/models/old").status != 204 {
        assert!(begun.elapsed().as_secs() < 20, "the old model is still held");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    app = app.restart();
    assert_eq!(app.get("/v1/models/champion").ok()["name"], "new");
}

/// A pipe never ends and a device has no size: neither is waited for, and neither fills the disk.
#[test]
fn pipes_and_devices_are_no_files_of_a_model() {
    let roots = tempfile::tempdir().unwrap();
    let dir = roots.path().join("b");
    let data = tempfile::tempdir().unwrap();
    let import = || handclip("import", data.path(), &["c", dir.to_str().unwrap()]);
    for make in [(|at| std::os::unix::fs::symlink("/dev/zero", at).unwrap()) as fn(&Path), |at| {
        assert!(std::process::Command::new("mkfifo").arg(at).status().unwrap().success())
    }] {
        write_variant(&dir, 1);
        let weights = dir.join("model.safetensors");
        std::fs::remove_file(&weights).unwrap();
        make(&weights);
        let refused = crate::cli::failed(&import(), 1);
        assert!(refused.contains("model.safetensors"), "{refused}");
        std::fs::remove_file(&weights).unwrap();
        write_variant(&dir, 1);
        std::fs::remove_file(dir.join("tokenizer.json")).unwrap();
        make(&dir.join("tokenizer.json"));
        let refused = crate::cli::failed(&import(), 1);
        assert!(refused.contains("plain file"), "{refused}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
