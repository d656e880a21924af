use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{admin, key};
use crate::cli::{done, failed, handclip, parse};
use crate::support::app::{TestApp, hands};

/// What changes something is in the audit log, or stands here with a reason.
const NOT_AUDITED: [&str; 12] = [
    // They ask and change nothing.
    "POST /v1/galleries/{gallery}:identify",
    "POST /v1/galleries/{gallery}:verify",
    "POST /v1/galleries/{gallery}:search",
    "POST /v1/compare",
    "POST /v1/explain",
    "POST /v1/embeddings",
    "POST /v1/models/{model}:verify",
    "POST /v1/erasures:verify",
    "POST /v1/audit:verify",
    // They look at, or arrange anew, what is derived from records.
    "POST /v1/galleries/{gallery}:audit",
    "POST /v1/galleries/{gallery}:compact",
    // It is the other half of the calibration's PUT and writes the same line.
    "DELETE /v1/galleries/{gallery}/calibration",
];
const AUDITED: [&str; 25] = [
    "POST /v1/galleries",
    "DELETE /v1/galleries/{gallery}",
    "PUT /v1/galleries/{gallery}/policy",
    "PUT /v1/galleries/{gallery}/calibration",
    "POST /v1/galleries/{gallery}/subjects/{subject}/samples",
    "POST /v1/galleries/{gallery}/samples:batch",
    "PUT /v1/galleries/{gallery}/subjects/{subject}/consent",
    "DELETE /v1/galleries/{gallery}/subjects/{subject}/samples/{sample}",
    "DELETE /v1/galleries/{gallery}/subjects/{subject}",
    "POST /v1/keys",
    "DELETE /v1/keys/{key}",
    "POST /v1/keys/{key}:rotate",
    "POST /v1/models",
    "DELETE /v1/models/{model}",
    "POST /v1/models/{model}:deploy",
    "POST /v1/deployment:rollback",
    "POST /v1/deployment:retire",
    "POST /v1/training-runs",
    "POST /v1/training-runs/{run}:cancel",
    "POST /v1/datasets",
    "DELETE /v1/datasets/{dataset}",
    "POST /v1/evaluations",
    "POST /v1/evaluations/{evaluation}:cancel",
    "POST /v1/jobs/{job}:cancel",
    "POST /v1/jobs/{job}:retry",
];

#[test]
fn every_operation_that_is_no_read_is_audited_or_said_not_to_be() {
    let app = TestApp::spawn();
    let document = app.get("/openapi.json").ok();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|method| *method != "get") {
            operations.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let decided: BTreeSet<String> =
        NOT_AUDITED.into_iter().chain(AUDITED).map(str::to_owned).collect();
    assert_eq!(operations, decided);
}

fn lines(app: &TestApp, key: &str, query: &str) -> Vec<Value> {
    let page = app.ask("GET", &format!("/v1/audit{query}"), Some(key), None).ok();
    page["entries"].as_array().unwrap().iter().map(|entry| entry["line"].clone()).collect()
}

/// Waits for the lines on how things went, which nobody waits for.
fn settled(app: &TestApp, key: &str) -> Vec<Value> {
    for _ in 0..200 {
        let all = lines(app, key, "?limit=1000");
        let outcomes: BTreeSet<u64> =
            all.iter().filter_map(|line| line["outcome_of"].as_u64()).collect();
        let open = (1_u64..)
            .zip(&all)
            .filter(|(number, line)| line["outcome_of"].is_null() && !outcomes.contains(number));
        if open.count() == 0 {
            return all;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("something has no outcome");
}

#[test]
fn who_did_what_is_written_down_before_it_is_done() {
    let app = TestApp::spawn();
    let (ops, admin) = admin(&app);
    let (door, token) =
        key(&app, Some(&admin), &json!({"name": "door", "scopes": ["enrol", "erase"]}));
    let ask = |method: &str, path: &str, key: &str, body: Option<Value>| {
        app.ask(method, path, Some(key), body.as_ref())
    };
    ask("POST", "/v1/galleries", &admin, Some(json!({"id": "staff"}))).ok();
    ask("POST", "/v1/galleries", &admin, Some(json!({"id": "staff"})))
        .refused(409, "gallery_exists");
    let image = |n: usize| json!({"image": hands()[n].base64(), "sample": format!("s{n}")});
    let at = "/v1/galleries/staff/subjects/ada/samples";
    ask("POST", at, &token, Some(image(0))).ok();
    let batch = json!({"samples": [
        {"subject": "bob", "image": hands()[8].base64()},
        {"subject": "ada", "image": hands()[1].base64()},
        {"subject": "bob", "image": hands()[9].base64()},
    ]});
    ask("POST", "/v1/galleries/staff/samples:batch", &token, Some(batch)).ok();
    ask("DELETE", &format!("{at}/s0"), &token, None).ok();
    ask("DELETE", "/v1/galleries/staff/subjects/ada", &token, None).ok();
    ask("DELETE", "/v1/galleries/staff/subjects/ada", &token, None)
        .refused(404, "subject_not_found");
    ask("DELETE", &format!("/v1/keys/{door}"), &admin, None).ok();
    // Questions leave no line.
    ask("POST", "/v1/galleries/staff:identify", &admin, Some(image(0)))
        .refused(400, "invalid_request");
    ask(
        "POST",
        "/v1/galleries/staff:identify",
        &admin,
        Some(json!({"image": hands()[0].base64()})),
    )
    .ok();

    let all = settled(&app, &admin);
    let begun: Vec<(String, String)> = all
        .iter()
        .filter(|line| line["outcome_of"].is_null())
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("by"), text("action"))
        })
        .collect();
    let expected = [
        ("local", "key.create"),
        (&ops, "key.create"),
        (&ops, "gallery.create"),
        (&ops, "gallery.create"),
        (&door, "enrol"),
        (&door, "enrol"),
        (&door, "enrol"),
        (&door, "sample.remove"),
        (&door, "subject.erase"),
        (&door, "subject.erase"),
        (&ops, "key.revoke"),
    ];
    let expected: Vec<(String, String)> =
        expected.map(|(by, action)| (by.to_owned(), action.to_owned())).to_vec();
    assert_eq!(begun, expected);
    let refused = all.iter().filter(|line| line["outcome"] == "refused").count();
    assert_eq!(refused, 2);

    // By the person, whom only the store's key can name.
    let ada = lines(&app, &admin, "?subject=ada&gallery=staff");
    let actions: Vec<&str> = ada.iter().filter_map(|line| line["action"].as_str()).collect();
    assert_eq!(actions, ["enrol", "enrol", "sample.remove", "subject.erase", "subject.erase"]);
    let bob = lines(&app, &admin, "?subject=bob");
    let said = |line: &Value| (line["about"].clone(), line["outcome"].clone());
    assert_eq!(
        bob.iter().map(said).collect::<Vec<_>>(),
        [(json!("2 images"), json!(null)), (json!(null), json!("done"))]
    );
    assert_ne!(bob[0]["subject"], ada[0]["subject"]);
    assert!(lines(&app, &admin, "?subject=nobody").is_empty());
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains("ada") && !text.contains("bob"), "{text}");

    // Page by page it is the same.
    let mut paged = Vec::new();
    let mut after = json!(0);
    while let Some(next) = after.as_u64() {
        let page = ask("GET", &format!("/v1/audit?limit=3&after={next}"), &admin, None).ok();
        paged.extend(page["entries"].as_array().unwrap().iter().map(|e| e["line"].clone()));
        after = page["next_after"].clone();
    }
    assert_eq!(paged, all);
    ask("GET", "/v1/audit?limit=0", &admin, None).refused(400, "invalid_request");
    ask("GET", "/v1/audit?since=3", &admin, None).refused(400, "invalid_request");
    ask("GET", "/v1/audit", &token, None).refused(401, "key_revoked");
}

/// Of a batch each person has a line on how it went.
#[test]
fn who_was_refused_in_a_batch_is_not_written_down_as_enrolled() {
    let app = TestApp::spawn();
    let (_, admin) = admin(&app);
    let policy = json!({"require_consent": true});
    let made = json!({"id": "staff", "policy": policy});
    app.ask("POST", "/v1/galleries", Some(&admin), Some(&made)).ok();
    let consent = json!({"purpose": "entry", "given_at_ms": 1, "expires_at_ms": u64::MAX});
    let item = |subject: &str, n: usize, sample: &str, agrees: bool| {
        let mut item = json!({"subject": subject, "sample": sample, "image": hands()[n].base64()});
        if agrees {
            item["consent"] = consent.clone();
        }
        item
    };
    let ask = |samples: Value| {
        let body = json!({ "samples": samples });
        app.ask("POST", "/v1/galleries/staff/samples:batch", Some(&admin), Some(&body)).ok()
    };
    let answer = ask(json!([
        item("ada", 0, "s0", true),
        item("bob", 8, "s8", false),
        item("ada", 1, "s1", true),
        // Another sample has that name.
        item("ada", 2, "s1", true),
    ]));
    assert_eq!((&answer["enrolled"], &answer["failed"]), (&json!(2), &json!(2)), "{answer}");
    settled(&app, &admin);
    let outcome = |subject: &str| {
        let of = lines(&app, &admin, &format!("?subject={subject}"));
        assert_eq!(of.len(), 2, "{of:?}");
        (of[0]["about"].clone(), of[1]["outcome"].clone(), of[1]["about"].clone())
    };
    assert_eq!(outcome("ada"), (json!("3 images"), json!("done"), json!("2 of 3 images")));
    assert_eq!(outcome("bob"), (json!("1 images"), json!("refused"), json!(null)));
}

#[test]
fn the_log_is_checked_here_and_anywhere_and_a_changed_line_shows() {
    let app = TestApp::spawn();
    let (_, admin) = admin(&app);
    let ask = |path: &str, body: Value| app.ask("POST", path, Some(&admin), Some(&body));
    for n in 0..5 {
        ask("/v1/galleries", json!({"id": format!("g{n}")})).ok();
    }
    settled(&app, &admin);
    let check = ask("/v1/audit:verify", json!({})).ok();
    assert_eq!((&check["sound"], check["head"]["number"].as_u64()), (&json!(true), Some(12)));
    let seen = ask("/v1/audit:verify", json!({"expect": [check["head"]]})).ok();
    assert_eq!(seen["sound"], true);
    let foreign = json!({"expect": [{"number": 3, "hash": "0".repeat(64)}]});
    assert_eq!(ask("/v1/audit:verify", foreign).ok()["sound"], false);
    ask("/v1/audit:verify", json!({"expect": [{"number": 3, "hash": "x"}]}))
        .refused(400, "invalid_request");

    // The same without the server, then without the store.
    let data = app.options.data_dir.display().to_string();
    let head = format!("{}:{}", check["head"]["number"], check["head"]["hash"].as_str().unwrap());
    let mut app = app;
    app.halt();
    let gallery = |rest: &[&str]| handclip(&[&["gallery", "--data-dir", &data][..], rest].concat());
    let sound = done(&gallery(&["audit", "verify", "--expect", &head]));
    assert_eq!(sound.trim(), head);
    let exported = done(&gallery(&["--json", "audit", "list"]));
    assert_eq!(exported.lines().count(), 12);
    assert!(done(&gallery(&["audit", "list"])).contains("gallery.create"));
    let file = app.options.data_dir.with_file_name("audit.jsonl");
    let checked = |text: &str, expect: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let path = file.display().to_string();
        handclip(&[&["gallery", "audit", "verify", "--file", &path][..], expect].concat())
    };
    assert_eq!(done(&checked(&exported, &["--expect", &head])).trim(), head);
    let lines: Vec<&str> = exported.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    failed(&checked(&without(4), &[]), 1);
    failed(&checked(&exported.replacen("g2", "g7", 1), &[]), 1);
    // Of a log that was cut at its end only a head that was kept tells.
    done(&checked(&without(11), &[]));
    failed(&checked(&without(11), &["--expect", &head]), 1);

    let log = crate::crash::log_of(&app.options.data_dir);
    log.remove([&[0xf0][..], &4_u64.to_be_bytes()].concat()).unwrap();
    log.flush().unwrap();
    drop(log);
    let found = gallery(&["--json", "audit", "verify"]);
    let report = parse(&String::from_utf8_lossy(&found.stdout));
    assert_eq!(report["problems"], json!([{"number": 4, "problem": "missing"}]));
    assert_eq!(found.status.code(), Some(1));
}
