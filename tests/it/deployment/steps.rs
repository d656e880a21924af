use serde_json::json;

use super::oracle::Oracle;
use super::{create, deploy, ended, first, live, overridden, register};
use crate::support::app::{TestApp, hands};

fn ready() -> TestApp {
    let app = TestApp::spawn_with(|options, _| options.job_threads = 1);
    register(&app.options.data_dir, "b", 1);
    app
}

#[test]
fn a_model_takes_the_place_of_another_and_gives_it_back() {
    let app = ready();
    create(&app, "g", true);
    for hand in &hands()[..24] {
        app.enrol("g", hand);
    }
    let (subject, similarity, before) = first(&app, "g", &hands()[3]);
    assert_eq!(
        (subject.as_str(), before["generation"].as_u64()),
        (hands()[3].subject.as_str(), Some(1))
    );
    assert!(similarity > 0.999);

    let job = deploy(&app, "b", &overridden(3600));
    assert_eq!(job["output"]["samples"], 24);
    assert_eq!(job["output"]["shadow"]["probes"], 24);
    assert_eq!(live(&app), ("b".into(), 2));
    let (subject, similarity, after) = first(&app, "g", &hands()[3]);
    assert_eq!(subject, hands()[3].subject);
    assert!(similarity > 0.999);
    assert_eq!(after["generation"], 2);
    assert_eq!(after["model"], "b");
    assert_ne!(after["fingerprint"], before["fingerprint"]);
    let gallery = app.get("/v1/galleries/g").ok();
    assert_eq!(
        (&gallery["generation"], &gallery["fingerprint"]),
        (&json!(2), &after["fingerprint"])
    );

    // A gallery made now, and one enrolled into now, go back too.
    create(&app, "later", false);
    app.enrol("later", &hands()[30]);
    app.enrol("g", &hands()[30]);
    let deployment = app.get("/v1/deployment").ok();
    assert_eq!(deployment["previous"]["generation"], 1);
    app.post("/v1/models/b:deploy", &overridden(0)).refused(409, "soaking");

    let rolled_back = app.post("/v1/deployment:rollback", &json!({})).ok();
    assert_eq!(rolled_back["live"]["generation"], 1);
    for (gallery, hand) in [("g", 3), ("g", 30), ("later", 30)] {
        let (subject, similarity, answer) = first(&app, gallery, &hands()[hand]);
        assert_eq!(subject, hands()[hand].subject, "{gallery}");
        assert!(similarity > 0.999);
        assert_eq!(answer["generation"], 1);
        assert_eq!(answer["fingerprint"], before["fingerprint"]);
    }
    app.post("/v1/deployment:rollback", &json!({})).refused(409, "nothing_to_roll_back");
    let steps: Vec<_> = app.get("/v1/deployment").ok()["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["step"].clone(), entry["override_reason"].clone()))
        .collect();
    let reason = json!("a test");
    assert_eq!(
        steps,
        [
            (json!("began"), reason.clone()),
            (json!("promoted"), reason),
            (json!("rolled_back"), json!(null))
        ]
    );

    // What was undone can be done again, under a generation that was never given before.
    let mut again = overridden(3600);
    again["without_images"] = json!("keep_old_generation");
    deploy(&app, "b", &again);
    assert_eq!(live(&app), ("b".into(), 3));
    assert_eq!(first(&app, "later", &hands()[30]).2["generation"], 1);
    let app = app.restart();
    assert_eq!(live(&app), ("b".into(), 3));
    assert_eq!(first(&app, "g", &hands()[3]).0, hands()[3].subject);
    app.post("/v1/deployment:rollback", &json!({})).ok();
    let app = app.restart();
    assert_eq!(live(&app), ("nano".into(), 1));
    let (_, similarity, answer) = first(&app, "g", &hands()[3]);
    assert!(similarity > 0.999 && answer["fingerprint"] == before["fingerprint"]);
}

#[test]
fn a_soak_ends_by_itself_and_leaves_no_template_of_the_model_before() {
    let app = ready();
    register(&app.options.data_dir, "c", 2);
    create(&app, "g", true);
    for hand in &hands()[..6] {
        app.enrol("g", hand);
    }
    deploy(&app, "b", &overridden(0));
    let begun = std::time::Instant::now();
    while app.get("/v1/deployment").ok()["previous"] != json!(null) {
        assert!(begun.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    app.post("/v1/deployment:rollback", &json!({})).refused(409, "nothing_to_roll_back");
    app.post("/v1/deployment:retire", &json!({})).refused(409, "nothing_to_roll_back");
    app.post("/v1/models/b:deploy", &overridden(0)).refused(409, "already_serves");
    deploy(&app, "c", &overridden(3600));
    app.post("/v1/deployment:retire", &json!({})).ok();
    assert_eq!(live(&app), ("c".into(), 3));
    let mut app = app;
    app.halt();
    // Six templates, six samples, nothing else: looked at as the store has it.
    let galleries = crate::gallery::open_as_server(&app.options.data_dir);
    let gallery = galleries.list().pop().unwrap();
    assert_eq!(gallery.info().samples, 6);
    assert_eq!(gallery.templates_kept().unwrap(), 6);
}

#[test]
fn what_cannot_be_deployed_is_refused_at_once() {
    let app = ready();
    create(&app, "g", true);
    app.post("/v1/models/none:deploy", &overridden(0)).refused(404, "model_not_found");
    app.post("/v1/models/b:deploy", &json!({})).refused(409, "gate_missing");
    app.post("/v1/models/nano:deploy", &overridden(0)).refused(409, "already_serves");
    for bad in [
        json!({"override": {"reason": " "}}),
        json!({"override": {"reason": "x"}, "soak_s": 2_592_001}),
        json!({"override": {"reason": "x"}, "shadow_probes": 100_001}),
        json!({"override": {"reason": "x"}, "images_per_second": 0}),
        json!({"override": {"reason": "x"}, "unknown": 1}),
        json!({"override": {}}),
        json!({"without_images": "perhaps"}),
    ] {
        let answer = app.post("/v1/models/b:deploy", &bad);
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text);
    }
    app.post("/v1/models/b:deploy", &json!({"evaluation": "x"})).refused(400, "invalid_id");
    assert_eq!(app.get("/v1/deployment").ok()["history"], json!([]));
}

#[test]
fn samples_without_an_image_block_or_are_dropped_or_stay_with_their_model() {
    let app = ready();
    create(&app, "kept", true);
    create(&app, "bare", false);
    app.enrol("kept", &hands()[0]);
    app.enrol("bare", &hands()[8]);
    let with = |policy: &str| json!({"override": {"reason": "x"}, "soak_s": 3600, "without_images": policy});
    app.post("/v1/models/b:deploy", &with("block")).refused(409, "samples_without_image");

    deploy(&app, "b", &with("keep_old_generation"));
    assert_eq!(first(&app, "kept", &hands()[0]).2["generation"], 2);
    let (subject, similarity, answer) = first(&app, "bare", &hands()[8]);
    assert_eq!((subject, answer["generation"].as_u64()), (hands()[8].subject.clone(), Some(1)));
    assert!(similarity > 0.999);
    app.enrol("bare", &hands()[16]);
    app.post("/v1/deployment:retire", &json!({})).ok();
    let app = app.restart();
    let (subject, similarity, answer) = first(&app, "bare", &hands()[16]);
    assert_eq!((subject, answer["model"].as_str()), (hands()[16].subject.clone(), Some("nano")));
    assert!(similarity > 0.999);
    assert_eq!(app.get("/v1/deployment").ok()["kept"][0]["generation"], 1);

    // Dropped: not found any more, there again after a rollback, gone once there is no way back.
    register(&app.options.data_dir, "c", 2);
    deploy(&app, "c", &with("drop"));
    let (subject, _, answer) = first(&app, "bare", &hands()[8]);
    assert_eq!((subject.as_str(), answer["generation"].as_u64()), ("", Some(3)));
    let samples = |app: &TestApp| app.get("/v1/galleries/bare").ok()["samples"].clone();
    assert_eq!(samples(&app), 2);
    app.post("/v1/deployment:rollback", &json!({})).ok();
    let (subject, _, answer) = first(&app, "bare", &hands()[8]);
    assert_eq!((subject, answer["generation"].as_u64()), (hands()[8].subject.clone(), Some(1)));
    deploy(&app, "c", &with("drop"));
    let again = app.enrol("bare", &hands()[8]);
    assert_eq!(again["created"], true, "the same file counts as new where it cannot be found");
    app.post("/v1/deployment:retire", &json!({})).ok();
    let begun = std::time::Instant::now();
    while samples(&app) != 1 {
        assert!(begun.elapsed().as_secs() < 20, "{}", samples(&app));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(first(&app, "bare", &hands()[8]).0, hands()[8].subject);
    let app = app.restart();
    assert_eq!(samples(&app), 1);
    assert_eq!(first(&app, "bare", &hands()[8]).2["generation"], 4);
}

#[test]
fn a_server_that_keeps_weights_in_fewer_bits_deploys_models_of_the_registry() {
    deploys_on("cpu:bf16");
    deploys_on("cpu:int8");
}

fn deploys_on(device: &str) {
    let app = TestApp::spawn_with(|options, _| {
        options.job_threads = 1;
        device.clone_into(&mut options.device);
    });
    register(&app.options.data_dir, "b", 1);
    create(&app, "g", true);
    for hand in &hands()[..3] {
        app.enrol("g", hand);
    }
    let (_, _, before) = first(&app, "g", &hands()[0]);
    let exact = Oracle::of(None, "x");
    assert_ne!(before["fingerprint"], exact.fingerprint(), "the precision is part of it");
    deploy(&app, "b", &overridden(3600));
    let app = app.restart();
    assert_eq!(live(&app), ("b".into(), 2));
    let (subject, similarity, after) = first(&app, "g", &hands()[0]);
    assert_eq!(subject, hands()[0].subject);
    assert!(similarity > 0.999 && after["fingerprint"] != before["fingerprint"]);
    let models = app.get("/v1/models").ok()["models"].clone();
    let seen: Vec<_> =
        models.as_array().unwrap().iter().map(|m| (&m["name"], &m["deployed"])).collect();
    assert_eq!(seen, [(&json!("b"), &json!(true)), (&json!("nano"), &json!(true))], "{models}");
    app.post("/v1/deployment:rollback", &json!({})).ok();
    assert_eq!(first(&app, "g", &hands()[0]).2["fingerprint"], before["fingerprint"]);
}

/// One threshold for everything.
fn calibration(fingerprint: &serde_json::Value, similarity: f64) -> serde_json::Value {
    let threshold = json!({"target": 0.01, "similarity": similarity, "rate": 0.0, "upper": 0.01});
    json!({"fingerprint": fingerprint, "subjects": 9, "samples_per_subject": 9, "gallery_subjects": 9,
        "verification": [threshold], "identification": [threshold], "made_at_ms": 1})
}

#[test]
fn the_shadow_counts_the_decisions_that_differ() {
    const ENROLLED: usize = 16;
    let app = ready();
    create(&app, "g", true);
    // The last one is of somebody who has no other.
    for hand in &hands()[..=ENROLLED] {
        app.enrol("g", hand);
    }
    assert_ne!(hands()[ENROLLED].subject, hands()[ENROLLED - 1].subject);
    let dir = app.options.data_dir.join("models/b/files");
    let (old, new) = (Oracle::of(None, "x"), Oracle::of(Some(&dir), "x"));
    // What each finds closest, asked about without itself.
    let best = |oracle: &Oracle| -> Vec<f64> {
        let others = |i| (0..=ENROLLED).filter(move |j| *j != i);
        let closest = |i| others(i).map(|j| oracle.similarity(i, j)).fold(-1.0, f64::max);
        (0..ENROLLED).map(closest).collect()
    };
    // The widest gap, so that a last digit does not matter.
    let mut sorted = best(&old);
    sorted.sort_by(f64::total_cmp);
    let gap = sorted.windows(2).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0]))).unwrap();
    let threshold = f64::midpoint(gap[0], gap[1]);
    let matched = sorted.iter().filter(|best| **best >= threshold).count();
    assert!((1..ENROLLED).contains(&matched), "{sorted:?}");
    assert!(best(&new).iter().all(|best| *best < 0.9999));

    let (_, _, answer) = first(&app, "g", &hands()[0]);
    let before = calibration(&answer["fingerprint"], threshold);
    app.put_json("/v1/galleries/g/calibration", &before).ok();
    let mut body = overridden(3600);
    body["calibration"] = calibration(&json!(new.fingerprint()), 0.9999);
    let shadow = deploy(&app, "b", &body)["output"]["shadow"].clone();
    assert_eq!((&shadow["probes"], &shadow["decided"]), (&json!(ENROLLED), &json!(ENROLLED)));
    assert_eq!(shadow["flips"], matched, "{shadow}");
}

#[test]
fn thresholds_go_with_the_generation() {
    let app = ready();
    create(&app, "g", true);
    app.enrol("g", &hands()[0]);
    let (_, _, answer) = first(&app, "g", &hands()[0]);
    let old = calibration(&answer["fingerprint"], 0.25);
    app.put_json("/v1/galleries/g/calibration", &old).ok();
    app.post("/v1/models/b:deploy", &overridden(3600)).refused(409, "uncalibrated");
    let mut body = overridden(3600);
    body["calibration"] = old.clone();
    app.post("/v1/models/b:deploy", &body).refused(409, "model_mismatch");

    let dir = app.options.data_dir.join("models/b/files");
    let oracle = Oracle::of(Some(&dir), "x");
    body["calibration"] = calibration(&json!(oracle.fingerprint()), 0.75);
    deploy(&app, "b", &body);
    let threshold =
        |app: &TestApp| first(app, "g", &hands()[0]).2["threshold"]["similarity"].clone();
    assert_eq!(threshold(&app), 0.75);
    let app = app.restart();
    assert_eq!(threshold(&app), 0.75);
    app.post("/v1/deployment:rollback", &json!({})).ok();
    assert_eq!(threshold(&app), 0.25);
    let mut body = overridden(3600);
    body["allow_uncalibrated"] = json!(true);
    deploy(&app, "b", &body);
    assert_eq!(threshold(&app), json!(null));
}

#[test]
fn thresholds_give_way_to_none_that_reach_less_far_or_are_less_strict() {
    let app = ready();
    create(&app, "g", true);
    // Two people, with two samples and one.
    for hand in [0, 1, 8] {
        app.enrol("g", &hands()[hand]);
    }
    create(&app, "free", true);
    app.enrol("free", &hands()[0]);
    let (_, _, answer) = first(&app, "g", &hands()[0]);
    let threshold =
        |target: f64| json!({"target": target, "similarity": 0.75, "rate": 0.0, "upper": target});
    let old = calibration(&answer["fingerprint"], 0.25);
    app.put_json("/v1/galleries/g/calibration", &old).ok();
    let dir = app.options.data_dir.join("models/b/files");
    let new = calibration(&json!(Oracle::of(Some(&dir), "x").fingerprint()), 0.75);
    let with = |field: &str, value: serde_json::Value| {
        let mut body = overridden(3600);
        body["calibration"] = new.clone();
        body["calibration"][field] = value;
        body
    };
    for worse in [
        with("gallery_subjects", json!(1)),
        with("samples_per_subject", json!(1)),
        with("identification", json!([])),
        with("verification", json!([])),
        with("identification", json!([threshold(0.1)])),
        with("verification", json!([threshold(0.011)])),
    ] {
        let answer = app.post("/v1/models/b:deploy", &worse);
        answer.refused(409, "uncalibrated");
        assert!(answer.text.contains("`g`") && !answer.text.contains("`free`"), "{}", answer.text);
    }
    let mut knowing = with("identification", json!([threshold(0.1)]));
    knowing["allow_uncalibrated"] = json!(true);
    deploy(&app, "b", &knowing);
    app.post("/v1/deployment:rollback", &json!({})).ok();
    deploy(&app, "b", &with("verification", json!([threshold(0.1), threshold(0.001)])));
}

#[test]
fn a_gallery_that_is_calibrated_while_a_model_is_brought_keeps_its_thresholds() {
    let app = ready();
    create(&app, "g", true);
    for hand in &hands()[..24] {
        app.enrol("g", hand);
    }
    let (_, _, answer) = first(&app, "g", &hands()[0]);
    let old = calibration(&answer["fingerprint"], 0.25);
    let dir = app.options.data_dir.join("models/b/files");
    let new = calibration(&json!(Oracle::of(Some(&dir), "x").fingerprint()), 0.75);
    let calibrated_meanwhile = |body: &serde_json::Value| {
        let mut slow = body.clone();
        slow["images_per_second"] = json!(8);
        let job = app.post("/v1/models/b:deploy", &slow).json();
        let begun = std::time::Instant::now();
        while app.get("/v1/deployment").ok()["challenger"] == json!(null) {
            assert!(begun.elapsed().as_secs() < 20);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        app.put_json("/v1/galleries/g/calibration", &old).ok();
        assert_eq!(live(&app).0, "nano", "it was over before");
        ended(&app, &job)
    };
    let found = calibrated_meanwhile(&overridden(3600));
    assert_eq!(found["error"]["code"], "uncalibrated", "{found}");
    assert_eq!(live(&app).0, "nano");
    let threshold = || first(&app, "g", &hands()[0]).2["threshold"]["similarity"].clone();
    assert_eq!(threshold(), 0.25);

    app.delete("/v1/galleries/g/calibration");
    let mut body = overridden(3600);
    body["calibration"] = new;
    let found = calibrated_meanwhile(&body);
    assert_eq!(found["state"], "succeeded", "{found}");
    assert_eq!(threshold(), 0.75);
}

#[test]
fn a_cancelled_deployment_leaves_nothing() {
    let app = ready();
    create(&app, "g", true);
    for hand in &hands()[..24] {
        app.enrol("g", hand);
    }
    let mut slow = overridden(3600);
    slow["images_per_second"] = json!(4);
    let job = app.post("/v1/models/b:deploy", &slow).json();
    let begun = std::time::Instant::now();
    while app.get("/v1/deployment").ok()["challenger"] == json!(null) {
        assert!(begun.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    app.post("/v1/models/b:deploy", &overridden(0)).refused(409, "deployment_under_way");
    // Written for both meanwhile.
    app.enrol("g", &hands()[30]);
    app.post(&format!("/v1/jobs/{}:cancel", job["job"].as_str().unwrap()), &json!({}));
    assert_eq!(ended(&app, &job)["state"], "cancelled");
    let deployment = app.get("/v1/deployment").ok();
    assert_eq!(
        (&deployment["challenger"], &deployment["live"]["generation"]),
        (&json!(null), &json!(1))
    );
    assert_eq!(first(&app, "g", &hands()[30]).0, hands()[30].subject);
    // Tried again once another model serves, it is refused: it was compared with the one before.
    register(&app.options.data_dir, "c", 2);
    deploy(&app, "c", &overridden(0));
    app.post(&format!("/v1/jobs/{}:retry", job["job"].as_str().unwrap()), &json!({}));
    let again = ended(&app, &job);
    assert_eq!(again["error"]["code"], "champion_changed", "{again}");
    let _ = app.post("/v1/deployment:retire", &json!({}));
    let mut app = app;
    app.halt();
    let galleries = crate::gallery::open_as_server(&app.options.data_dir);
    assert_eq!(galleries.list().pop().unwrap().templates_kept().unwrap(), 25);
}
