use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handclip::service::{Service, ServiceOptions};
use serde_json::{Value, json};

use crate::cli::{done, failed, handclip, parse};
use crate::support::app::{TestApp, hands, write_folders};

const DAY_MS: u64 = 24 * 3600 * 1000;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn consent(for_ms: u64) -> Value {
    let now = now_ms();
    json!({"purpose": "entry", "given_at_ms": now, "expires_at_ms": now + for_ms})
}

#[test]
fn consent_is_asked_for_kept_renewed_and_ends() {
    let app = TestApp::spawn();
    let policy = json!({"require_consent": true, "retention_days": 30});
    app.post("/v1/galleries", &json!({"id": "g", "policy": policy})).ok();
    assert_eq!(app.get("/v1/galleries/g").ok()["policy"]["retention_days"], 30);
    let at = |name: &str| format!("/v1/galleries/g/subjects/{name}");
    let enrol = |name: &str, n: usize, consent: Value| {
        let body = json!({"image": hands()[n].base64(), "consent": consent});
        app.post(&format!("{}/samples", at(name)), &body)
    };
    enrol("ada", 0, Value::Null).refused(422, "consent_required");
    enrol("ada", 0, json!({"purpose": "entry"})).refused(400, "invalid_request");
    let mut ended = consent(1_000);
    ended["given_at_ms"] = json!(1);
    ended["expires_at_ms"] = json!(2);
    enrol("ada", 0, ended).refused(400, "invalid_request");
    enrol("ada", 0, consent(DAY_MS)).ok();
    enrol("ada", 1, Value::Null).ok();
    assert_eq!(app.samples("g"), 2);
    let renewed = consent(2 * DAY_MS);
    let subject = app.put_json(&format!("{}/consent", at("ada")), &renewed).ok();
    assert_eq!(subject["consent"], renewed);
    // So does one that comes with an image that is known.
    let longer = consent(3 * DAY_MS);
    assert_eq!(enrol("ada", 0, longer.clone()).ok()["created"], false);
    assert_eq!(app.get(&at("ada")).ok()["consent"], longer);
    app.put_json(&format!("{}/consent", at("nobody")), &renewed).refused(404, "subject_not_found");
    app.put_json("/v1/galleries/g/policy", &json!({"retention_days": 0}))
        .refused(400, "invalid_request");
    app.put_json("/v1/galleries/g/policy", &json!({"on_match": "flag"})).ok();
    enrol("bob", 8, Value::Null).ok();
    assert_eq!(app.get("/v1/galleries/g").ok()["policy"]["on_match"], "flag");

    // The server itself erases who agreed to a moment only.
    enrol("cyd", 16, consent(1_500)).ok();
    let app = {
        std::thread::sleep(Duration::from_millis(1_600));
        app.restart()
    };
    let begun = std::time::Instant::now();
    while app.get(&at("cyd")).status != 404 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody erased cyd");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(app.get(&at("ada")).status, 200);
    let lines = app.get("/v1/audit?subject=cyd").ok();
    let last = lines["entries"].as_array().unwrap().iter().map(|e| &e["line"]);
    let erased = last.clone().find(|line| line["action"] == "subject.erase").unwrap();
    assert_eq!((&erased["by"], &erased["about"]), (&json!("retention"), &json!("consent expired")));
}

/// With a clock that was moved: who is recognised stays, who is not goes.
#[test]
fn who_is_not_seen_for_long_enough_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = ServiceOptions { job_threads: 0, ..ServiceOptions::new(dir.path()) };
    let service = Service::open(&options).unwrap();
    runtime.block_on(async {
        use handclip::domain::{AttributeFilter, GalleryId, GalleryPolicy, SubjectId};
        use handclip::service::{Combine, Enrolment, Identify, NewGallery, Verify};
        let id = GalleryId::new("g").unwrap();
        let retention_days = std::num::NonZeroU32::new(10);
        let policy = GalleryPolicy { retention_days, ..GalleryPolicy::default() };
        let new = NewGallery {
            id: id.clone(),
            retain_images: false,
            allow_training: false,
            description: String::new(),
            policy,
        };
        service.create_gallery(new).await.unwrap();
        for n in [0, 8, 16] {
            let hand = &hands()[n];
            let new = Enrolment {
                subject: SubjectId::new(hand.subject.as_str()).unwrap(),
                sample: None,
                attributes: hand.sample.attributes(),
                image: hand.jpeg.clone(),
                consent: None,
                allow_match: false,
            };
            service.enrol(&id, new).await.unwrap();
        }
        let start = now_ms();
        assert_eq!(service.sweep_retention(start + 9 * DAY_MS).await.unwrap(), 0);
        std::thread::sleep(Duration::from_millis(1_200));
        let seen = now_ms();
        let (image, threshold) = (hands()[0].jpeg.clone(), Some(0.9));
        let identify = Identify {
            image: image.clone(),
            limit: 5,
            filter: AttributeFilter::default(),
            combine: Combine::Best,
            threshold,
        };
        service.identify(&id, identify).await.unwrap();
        let subject = SubjectId::new(hands()[8].subject.as_str()).unwrap();
        // Somebody else's hand is no sign of life.
        let verify = Verify { subject: subject.clone(), image, threshold: Some(0.999) };
        service.verify(&id, verify).await.unwrap();
        assert_eq!(service.sweep_retention(seen + 10 * DAY_MS - 1).await.unwrap(), 2);
        let left = service.gallery(&id).unwrap().subjects;
        assert_eq!(left, 1);
        assert!(service.subject(&id, &subject).is_err());
        assert_eq!(service.sweep_retention(seen + 11 * DAY_MS).await.unwrap(), 1);
        service.close().await.unwrap();
    });
}

#[test]
fn the_command_line_takes_consents_and_policies() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let folders = dir.path().join("hands");
    write_folders(&folders);
    let folders = folders.display().to_string();
    let gallery =
        |rest: &[&str]| handclip(&[&["gallery", "--data-dir", &data, "--json"][..], rest].concat());
    done(&gallery(&["create", "g", "--require-consent", "--retention-days", "365"]));
    let enrol = ["enrol", "--data-dir", &data, "--gallery", "g", &folders];
    let refused = failed(&handclip(&enrol), 1);
    assert!(refused.contains("consent"), "{refused}");
    failed(&handclip(&[&enrol[..], &["--consent-days", "3"]].concat()), 2);
    let with = ["--consent-purpose", "entry", "--consent-days", "30"];
    done(&handclip(&[&enrol[..], &with].concat()));
    let name = hands()[0].subject.as_str();
    let subject =
        parse(&done(&gallery(&["consent", "g", name, "--purpose", "more", "--days", "60"])));
    assert_eq!(subject["consent"]["purpose"], "more");
    let shown = parse(&done(&gallery(&["policy", "g", "--flag-matches"])));
    let expected = json!({"require_consent": false, "retention_days": null, "on_match": "flag"});
    assert_eq!(shown[0]["policy"], expected);
}
