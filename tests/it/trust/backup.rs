use serde_json::{Value, json};

use super::{admin, key};
use crate::cli::{done, failed, handclip, parse};
use crate::support::app::{TestApp, hands};

fn subjects(app: &TestApp, key: &str) -> Vec<String> {
    let page = app.ask("GET", "/v1/galleries/staff/subjects", Some(key), None).ok();
    let subjects = page["subjects"].as_array().unwrap().iter();
    subjects.map(|subject| subject["subject"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_backup_of_a_running_server_comes_back_without_the_erased_and_the_revoked() {
    let app = TestApp::spawn();
    let (_, admin) = admin(&app);
    let (guest, guest_token) =
        key(&app, Some(&admin), &json!({"name": "guest", "scopes": ["read"]}));
    let ask = |app: &TestApp, method: &str, path: &str, body: Option<Value>| {
        app.ask(method, path, Some(&admin), body.as_ref())
    };
    ask(&app, "POST", "/v1/galleries", Some(json!({"id": "staff", "retain_images": true}))).ok();
    for (name, n) in [("ada-lovelace", 0), ("bob", 8), ("cyd", 16)] {
        let body = json!({"image": hands()[n].base64()});
        ask(&app, "POST", &format!("/v1/galleries/staff/subjects/{name}/samples"), Some(body)).ok();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (file, key_file) = (path("backup"), path("key"));
    std::fs::write(&key_file, &admin).unwrap();
    let url = format!("http://{}", app.address);
    let remote = ["--server", &url, "--api-key-file", &key_file];
    done(&handclip(&[&["gallery", "backup", &file][..], &remote].concat()));
    let again = failed(&handclip(&[&["gallery", "backup", &file][..], &remote].concat()), 1);
    assert!(again.contains("there already"), "{again}");
    app.ask("GET", "/v1/backup", Some(&guest_token), None).refused(403, "scope_missing");

    let receipt = ask(&app, "DELETE", "/v1/galleries/staff/subjects/bob", None).ok();
    let checked = ask(&app, "POST", "/v1/erasures:verify", Some(receipt.clone())).ok();
    assert_eq!(checked, json!({"genuine": true, "enrolled": false}));
    let mut forged = receipt.clone();
    forged["subject"] = json!("ada-lovelace");
    let checked = ask(&app, "POST", "/v1/erasures:verify", Some(forged)).ok();
    assert_eq!(checked, json!({"genuine": false, "enrolled": true}));
    ask(&app, "DELETE", &format!("/v1/keys/{guest}"), None).ok();
    let list = path("erasures.json");
    std::fs::write(&list, done(&handclip(&[&["gallery", "erasures"][..], &remote].concat())))
        .unwrap();
    assert!(!std::fs::read_to_string(&list).unwrap().contains("bob"));

    let mut app = app;
    app.halt();
    let data = app.options.data_dir.display().to_string();
    let master = format!("{data}/master.key");
    let gallery = |dir: &str, rest: &[&str]| {
        let at = ["gallery", "--data-dir", dir, "--master-key-file", &master, "--json"];
        handclip(&[&at[..], rest].concat())
    };
    let verified = parse(&done(&gallery(&data, &["verify", &file])));
    assert!(verified["records"].as_u64().unwrap() >= 3 * 3, "{verified}");
    // Sealed: nothing in it says who or what. (Three letters are in one megabyte of sixteen by chance.)
    let bytes = std::fs::read(&file).unwrap();
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(
        !holds(b"ada-lovelace") && !holds(&hands()[0].jpeg[100..132]) && holds(b"handclip-backup1")
    );

    let refused = failed(&gallery(&data, &["restore", &file]), 1);
    assert!(refused.contains("--replace"), "{refused}");
    let restored = parse(&done(&gallery(&data, &["restore", &file, "--replace"])));
    assert_eq!((&restored["erased_again"], &restored["keys_kept"]), (&json!(1), &json!(true)));
    let app = app.restart();
    assert_eq!(subjects(&app, &admin), ["ada-lovelace", "cyd"]);
    app.ask("GET", "/v1/galleries", Some(&guest_token), None).refused(401, "key_revoked");
    let found = json!({"image": hands()[1].base64()});
    let found = ask(&app, "POST", "/v1/galleries/staff:identify", Some(found)).ok();
    assert_eq!(found["candidates"][0]["subject"], "ada-lovelace");
    let audit = ask(&app, "POST", "/v1/audit:verify", Some(json!({}))).ok();
    assert_eq!(audit["sound"], true);
    let lines = ask(&app, "GET", "/v1/audit?limit=1000", None).ok().to_string();
    assert!(lines.contains("\"restore\""), "{lines}");

    // On a machine that has nothing: with what was kept of the erasures, and, the control, without.
    let elsewhere = |name: &str, rest: &[&str]| {
        let target = path(name);
        let restored = gallery(&target, &[&["restore", &file][..], rest].concat());
        let restored = parse(&done(&restored));
        let listed = parse(&done(&gallery(&target, &["show", "staff"])));
        (restored["erased_again"].clone(), listed[0]["subjects"].clone())
    };
    assert_eq!(elsewhere("with", &["--erasures", &list]), (json!(1), json!(2)));
    assert_eq!(elsewhere("without", &[]), (json!(0), json!(3)));
    drop(app);
}

#[test]
fn another_master_key_opens_the_store_and_backups_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, file, second) = (path("data"), path("backup"), path("second.key"));
    let first = path("data/master.key");
    let gallery = |rest: &[&str]| handclip(&[&["gallery", "--data-dir", &data][..], rest].concat());
    done(&gallery(&["create", "staff"]));
    done(&gallery(&["backup", &file]));
    let rotate = ["keys", "rotate-master", "--data-dir", &data, "--new-master-key-file", &second];
    done(&handclip(&rotate));
    let refused = failed(&gallery(&["list"]), 1);
    assert!(refused.contains("master key is not the one"), "{refused}");
    let command = format!("cat {second}");
    let with = ["--data-dir", &data, "--master-key-command", &command];
    let list = handclip(&[&["gallery"][..], &with, &["list"]].concat());
    assert!(done(&list).contains("staff"));
    done(&gallery(&["verify", &file]));
    let other = handclip(&[&["gallery"][..], &with, &["verify", &file]].concat());
    let refused = failed(&other, 1);
    assert!(refused.contains("another master key"), "{refused}");
    // Both keys are needed to put such a backup back, and afterwards the new one opens the store.
    let put = |rest: &[&str]| {
        let command = ["restore", &file, "--backup-master-key-file", &first];
        handclip(&[&["gallery"][..], &with, &command, rest].concat())
    };
    done(&put(&["--replace"]));
    assert!(done(&handclip(&[&["gallery"][..], &with, &["list"]].concat())).contains("staff"));
    failed(&gallery(&["list"]), 1);

    // What is damaged cannot tell who was erased: whoever replaces it has to say that they know.
    std::fs::write(dir.path().join("data/sled/db"), b"no log").unwrap();
    let refused = failed(&put(&["--replace"]), 1);
    assert!(refused.contains("--damaged") && refused.contains("--erasures"), "{refused}");
    done(&put(&["--replace", "--damaged"]));
    assert!(done(&handclip(&[&["gallery"][..], &with, &["list"]].concat())).contains("staff"));
}
