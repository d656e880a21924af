//! Keys from the command line: before a server is reached from elsewhere, and of one that runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::cli::{done, failed, handclip, parse};

#[test]
fn a_server_is_reached_from_elsewhere_only_once_there_are_keys() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let serve = ["serve", "--data-dir", &data, "--listen", "0.0.0.0:0"];
    let refused = failed(&handclip(&serve), 1);
    assert!(refused.contains("handclip keys create"), "{refused}");
    let create = ["keys", "create", "--data-dir", &data, "--name", "ops", "--scope"];
    let first = failed(&handclip(&[&create[..], &["identify"]].concat()), 1);
    assert!(first.contains("first key"), "{first}");
    failed(&handclip(&[&create[..], &["everything"]].concat()), 2);
    let token = done(&handclip(&[&create[..], &["admin"]].concat())).trim().to_owned();
    assert!(token.starts_with("hck_"), "{token}");
    let listed = parse(&done(&handclip(&["keys", "list", "--data-dir", &data, "--json"])));
    assert_eq!(listed[0]["name"], "ops");
    assert_eq!(listed[0]["key"], token[4..20]);

    let mut child = Command::new(env!("CARGO_BIN_EXE_handclip"))
        .args(serve)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, format!("{token}\n")).unwrap();
    let key_file = key_file.display().to_string();
    let ask = |args: &[&str], key: &[&str]| handclip(&[args, &["--server", &url], key].concat());
    let with = ["--api-key-file", key_file.as_str()];
    let create =
        ["keys", "create", "--name", "door", "--scope", "identify,read", "--gallery", "staff"];
    let missing = failed(&ask(&create, &[]), 1);
    assert!(missing.contains("key_missing"), "{missing}");
    let made =
        parse(&done(&ask(&[&create[..], &["--expires-days", "30", "--json"]].concat(), &with)));
    assert_eq!(made["galleries"], serde_json::json!(["staff"]));
    let id = made["key"].as_str().unwrap();
    let turned = done(&ask(&["keys", "rotate", id], &with));
    assert!(
        turned.starts_with(&format!("hck_{id}_")) && turned.trim() != made["token"],
        "{turned}"
    );
    assert!(done(&ask(&["keys", "revoke", id], &with)).contains("is revoked"));
    let listed = done(&ask(&["keys", "list"], &with));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    child.kill().unwrap();
    child.wait().unwrap();
}
