use serde_json::{Value, json};

use super::{admin, key};
use crate::support::app::{Answer, TestApp, hands};

/// The first picture of somebody else that shows the same hand from the same side as picture 0.
fn alike() -> usize {
    let same = |n: &usize| {
        let (a, b) = (hands()[0].sample.attributes(), hands()[*n].sample.attributes());
        (a.aspect, a.side) == (b.aspect, b.side) && hands()[*n].subject != hands()[0].subject
    };
    (0..hands().len()).find(same).unwrap()
}

fn similarity(app: &TestApp, a: usize, b: usize) -> f64 {
    let body = json!({"image_a": hands()[a].base64(), "image_b": hands()[b].base64()});
    app.post("/v1/compare", &body).ok()["similarity"].as_f64().unwrap()
}

#[test]
fn an_enrolment_that_looks_like_somebody_else_is_refused_or_marked() {
    let app = TestApp::spawn();
    let other = alike();
    let (own, foreign) = (similarity(&app, 0, 1), similarity(&app, 0, other));
    assert!(own > foreign + 0.02, "{own} {foreign}");
    let threshold = f64::midpoint(own, foreign);
    app.post("/v1/galleries", &json!({"id": "g"})).ok();
    let body =
        |n: usize| json!({"image": hands()[n].base64(), "attributes": hands()[n].attributes()});
    let enrol = |who: &str, body: &Value, key: Option<&str>| -> Answer {
        let path = format!("/v1/galleries/g/subjects/{who}/samples");
        app.ask("POST", &path, key, Some(body))
    };
    let fingerprint = enrol("ada", &body(0), None).ok()["fingerprint"].clone();
    // Without thresholds nothing can be said, and nothing is.
    let marked = enrol("eve", &body(1), None).ok();
    assert!(marked["flags"].is_null(), "{marked}");
    app.delete("/v1/galleries/g/subjects/eve").ok();
    let one = json!({"target": 0.01, "similarity": threshold, "rate": 0.0, "upper": 0.01});
    let calibration = json!({"fingerprint": fingerprint, "subjects": 9, "samples_per_subject": 9,
        "gallery_subjects": 9, "verification": [one], "identification": [one], "made_at_ms": 1});
    app.put_json("/v1/galleries/g/calibration", &calibration).ok();

    let (_, admin) = admin(&app);
    let (_, desk) = key(&app, Some(&admin), &json!({"name": "desk", "scopes": ["enrol"]}));
    let (admin, desk) = (Some(admin.as_str()), Some(desk.as_str()));
    let refused = enrol("eve", &body(1), admin);
    refused.refused(409, "matches_another_subject");
    assert!(
        refused.text.contains("ada") && refused.text.contains("allow_match"),
        "{}",
        refused.text
    );
    // Whoever may only enrol does not learn who is enrolled.
    let refused = enrol("eve", &body(1), desk);
    refused.refused(409, "matches_another_subject");
    assert!(!refused.text.contains("ada"), "{}", refused.text);
    let mut item = body(1);
    item["subject"] = json!("eve");
    let batch = json!({"samples": [item]});
    let batch = app.ask("POST", "/v1/galleries/g/samples:batch", admin, Some(&batch)).ok();
    assert_eq!(batch["results"][0]["error"]["code"], "matches_another_subject");
    let read = |path: &str| app.ask("GET", path, admin, None).ok();
    assert_eq!(read("/v1/galleries/g")["samples"], 1);
    // Their own second picture is no match with another.
    assert!(enrol("ada", &body(1), desk).ok()["flags"].is_null());

    let mut allowed = body(1);
    allowed["allow_match"] = json!(true);
    enrol("eve", &allowed, desk).refused(403, "scope_missing");
    let marked = enrol("eve", &allowed, admin).ok();
    assert_eq!(marked["flags"], json!(["matches_another"]));
    let sample = marked["sample"].as_str().unwrap();
    let kept = read(&format!("/v1/galleries/g/subjects/eve/samples/{sample}"));
    assert_eq!(kept["flags"], json!(["matches_another"]));
    let policy = json!({"on_match": "flag"});
    app.ask("PUT", "/v1/galleries/g/policy", admin, Some(&policy)).ok();
    assert_eq!(enrol("mal", &body(1), desk).ok()["flags"], json!(["matches_another"]));

    // Another's hand under ada's name, of the same side and aspect.
    let far = enrol("ada", &body(other), desk).ok();
    assert_eq!(far["flags"], json!(["far_from_subject"]));
    // A hand of hers that was never seen from this side is unlike all, and nothing follows from that.
    let aspect = |n: usize| hands()[n].sample.attributes().aspect;
    let unseen = (0..8).find(|n| aspect(*n) != aspect(0)).unwrap();
    let answer = enrol("ada", &body(unseen), desk).ok();
    assert!(!answer.to_string().contains("far_from_subject"), "{answer}");
}
