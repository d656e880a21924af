//! What the REST API promises, asked of a real server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{TestApp, base64, hands};

#[test]
fn a_hand_is_enrolled_identified_verified_searched_and_still_there_after_a_restart() {
    let app = TestApp::spawn();
    app.create_gallery("staff");
    for hand in hands().iter().step_by(2) {
        let enrolled = app.enrol("staff", hand);
        assert_eq!(enrolled["created"], true);
        assert_eq!(enrolled["subject"], hand.subject.as_str());
    }
    // The very picture that was enrolled finds itself, at similarity 1.
    let hand = &hands()[4];
    let ask = |app: &TestApp| {
        app.post("/v1/galleries/staff:identify", &json!({"image": hand.base64(), "limit": 3})).ok()
    };
    let answer = ask(&app);
    let first = &answer["candidates"][0];
    assert_eq!((&first["subject"], &first["rank"]), (&json!(hand.subject), &json!(1)));
    assert!(first["similarity"].as_f64().unwrap() > 0.999, "{first}");
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 3);
    assert_eq!(answer["decision"], Value::Null, "no threshold, no decision");
    for field in ["gallery", "generation", "model", "fingerprint", "timings", "quality"] {
        assert!(!answer[field].is_null(), "{field} is missing from {answer}");
    }

    let verify = |subject: &str, threshold: f32| {
        let body = json!({"subject": subject, "image": hand.base64(), "threshold": threshold});
        app.post("/v1/galleries/staff:verify", &body).ok()
    };
    assert_eq!(verify(&hand.subject, 0.99)["decision"], "match");
    assert_eq!(verify("person-3", 0.9999)["decision"], "no_match");
    assert_eq!(verify(&hand.subject, 0.99)["samples"].as_array().unwrap().len(), 4);

    let found = app
        .post("/v1/galleries/staff:search", &json!({"prompt": "a dorsal right hand", "limit": 5}))
        .ok();
    assert_eq!(found["hits"].as_array().unwrap().len(), 5);

    let app = app.restart();
    let again = ask(&app);
    assert_eq!(again["candidates"], answer["candidates"], "the same answers after a restart");
    assert_eq!(app.samples("staff"), 24);
}

#[test]
fn the_filter_admits_only_what_it_names_and_never_under_returns() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    hands().iter().for_each(|hand| drop(app.enrol("g", hand)));
    let body =
        json!({"prompt": "a hand", "limit": 1000, "filter": {"aspect": "palmar", "side": "left"}});
    let hits = app.post("/v1/galleries/g:search", &body).ok()["hits"].as_array().unwrap().clone();
    assert_eq!(hits.len(), 12, "six people, two pictures of that hand each");
    assert!(
        hits.iter()
            .all(|h| h["attributes"]["aspect"] == "palmar" && h["attributes"]["side"] == "left")
    );
    let raw = "/v1/galleries/g:identify?limit=50&aspect=dorsal&side=right";
    let answer = app.post_bytes(raw, "image/jpeg", &hands()[0].jpeg).ok();
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 6);
    let nobody = json!({"prompt": "a hand", "filter": {"extra": {"site": "moon"}}});
    assert_eq!(app.post("/v1/galleries/g:search", &nobody).ok()["hits"], json!([]));
}

#[test]
fn json_multipart_and_a_raw_body_enrol_the_same() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    let hand = &hands()[0];
    let path = "/v1/galleries/g/subjects/ann/samples";
    let raw = app.post_bytes(
        &format!("{path}?aspect=dorsal&side=right&accessories=false&sample=one"),
        "image/jpeg",
        &hand.jpeg,
    );
    assert_eq!(raw.status, 201, "{}", raw.text);
    assert_eq!(raw.header("location"), Some("/v1/galleries/g/subjects/ann/samples/one"));

    let mut form = Vec::new();
    let boundary = "a-boundary";
    for (name, value) in [("aspect", "dorsal"), ("side", "right")] {
        write!(
            form,
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
        .unwrap();
    }
    write!(form, "--{boundary}\r\ncontent-disposition: form-data; name=\"image\"; filename=\"x.jpg\"\r\ncontent-type: image/jpeg\r\n\r\n").unwrap();
    form.extend_from_slice(&hand.jpeg);
    write!(form, "\r\n--{boundary}--\r\n").unwrap();
    let multipart =
        app.post_bytes(path, &format!("multipart/form-data; boundary={boundary}"), &form);
    assert_eq!(multipart.status, 200, "known by its content: {}", multipart.text);
    assert_eq!(multipart.ok()["sample"], "one");

    let as_json = app.post(path, &json!({"image": hand.base64()}));
    assert_eq!((as_json.status, &as_json.ok()["created"]), (200, &json!(false)));
    assert_eq!(app.samples("g"), 1);
    let sample = app.get("/v1/galleries/g/subjects/ann/samples/one").ok();
    assert_eq!(
        sample["attributes"],
        json!({"aspect": "dorsal", "side": "right", "accessories": false})
    );
}

#[test]
fn a_batch_keeps_the_good_and_names_the_bad() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    let good = |i: usize| json!({"subject": hands()[i].subject, "image": hands()[i].base64()});
    let cut = json!({"subject": "x", "image": base64(&hands()[1].jpeg[..900])});
    let items = [
        good(0),
        json!({"subject": "a b", "image": ""}),
        cut,
        json!({"subject": "x"}),
        good(8),
        json!(7),
    ];
    let answer = app.post("/v1/galleries/g/samples:batch", &json!({"samples": items}));
    let number = json!(answer.header("x-request-id").unwrap());
    let answer = answer.ok();
    assert_eq!(answer["results"][1]["error"]["request_id"], number);
    assert_eq!((&answer["enrolled"], &answer["failed"]), (&json!(2), &json!(4)));
    let code = |i: usize| answer["results"][i]["error"]["code"].as_str().map(str::to_owned);
    let codes: Vec<Option<String>> = (0..6).map(code).collect();
    let text = |t: &str| Some(t.to_owned());
    assert_eq!(codes[0], None);
    assert_eq!(codes[1], text("invalid_id"));
    assert_eq!(codes[2], text("image_truncated"));
    assert_eq!(codes[3], text("invalid_request"));
    assert_eq!(codes[4], None);
    assert_eq!(answer["results"][4]["sample"]["subject"], "person-1");
    assert_eq!(app.samples("g"), 2);
}

#[test]
fn erasing_and_removing_leave_nothing_to_be_found() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    hands()[..16].iter().for_each(|hand| drop(app.enrol("g", hand)));
    let victim = &hands()[0];
    let receipt = app.delete(&format!("/v1/galleries/g/subjects/{}", victim.subject)).ok();
    assert_eq!((&receipt["subject"], &receipt["samples"]), (&json!(victim.subject), &json!(8)));
    assert!(!receipt["signature"].as_str().unwrap().is_empty());
    app.get(&format!("/v1/galleries/g/subjects/{}", victim.subject))
        .refused(404, "subject_not_found");
    let body = json!({"image": victim.base64(), "limit": 1000});
    let app = {
        let found = app.post("/v1/galleries/g:identify", &body).ok();
        assert_eq!(found["candidates"].as_array().unwrap().len(), 1);
        app.restart()
    };
    let found = app.post("/v1/galleries/g:identify", &body).ok();
    assert_eq!(found["candidates"].as_array().unwrap().len(), 1, "not back after a restart");

    let subject = app.get("/v1/galleries/g/subjects/person-1").ok();
    let sample = subject["samples"][0]["sample"].as_str().unwrap().to_owned();
    let path = format!("/v1/galleries/g/subjects/person-1/samples/{sample}");
    assert_eq!(app.delete(&path).status, 204);
    app.delete(&path).refused(404, "sample_not_found");
    assert_eq!(app.samples("g"), 7);
    assert_eq!(app.delete("/v1/galleries/g").status, 204);
    app.get("/v1/galleries/g").refused(404, "gallery_not_found");
}

#[test]
fn galleries_do_not_see_each_other() {
    let app = TestApp::spawn();
    app.create_gallery("a");
    app.create_gallery("b");
    app.enrol("a", &hands()[0]);
    let body = json!({"image": hands()[0].base64()});
    assert_eq!(app.post("/v1/galleries/b:identify", &body).ok()["candidates"], json!([]));
    app.get("/v1/galleries/b/subjects/person-0").refused(404, "subject_not_found");
}

#[test]
fn subjects_come_in_pages() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    hands().iter().step_by(8).for_each(|hand| drop(app.enrol("g", hand)));
    let mut seen = Vec::new();
    let mut next = String::new();
    for _ in 0..10 {
        let page = app.get(&format!("/v1/galleries/g/subjects?limit=4{next}")).ok();
        seen.extend(page["subjects"].as_array().unwrap().iter().map(|s| s["subject"].clone()));
        match page["next_page_token"].as_str() {
            Some(token) => next = format!("&page_token={token}"),
            None => break,
        }
    }
    let all: Vec<Value> = (0..6).map(|i| json!(format!("person-{i}"))).collect();
    assert_eq!(seen, all);
    app.get("/v1/galleries/g/subjects?page_token=!!").refused(400, "invalid_request");
    app.get("/v1/galleries/g/subjects?limit=0").refused(400, "invalid_request");
    app.get("/v1/galleries/g/subjects?limit=1&limit=2").refused(400, "invalid_request");
    app.get("/v1/galleries/g/subjects?colour=red").refused(400, "invalid_request");
}

#[test]
fn a_bad_request_gets_a_stable_code_and_changes_nothing() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    let enrol = "/v1/galleries/g/subjects/ann/samples";
    let jpeg = &hands()[0].jpeg;
    let image = hands()[0].base64();
    let raw = |kind: &str, body: &[u8]| app.post_bytes(enrol, kind, body);
    let blank = {
        let picture = handclip::image::Picture::from_rgb(64, 64, vec![200; 64 * 64 * 3]).unwrap();
        handclip::image::encode_png(&picture).unwrap()
    };
    let tiny = {
        let picture = handclip::image::Picture::from_rgb(1, 1, vec![200; 3]).unwrap();
        handclip::image::encode_png(&picture).unwrap()
    };
    raw("image/jpeg", b"").refused(422, "image_empty");
    raw("image/jpeg", b"GIF89a and more").refused(415, "unsupported_media_type");
    raw("image/jpeg", &jpeg[..jpeg.len() / 3]).refused(422, "image_truncated");
    raw("image/jpeg", &[jpeg.as_slice(), b"PK\x03\x04 a zip"].concat())
        .refused(422, "image_trailing_data");
    raw("image/png", &blank).refused(422, "image_blank");
    raw("image/png", &tiny).refused(422, "image_too_small");
    raw("text/plain", jpeg).refused(415, "unsupported_media_type");
    app.post_encoded(enrol, "gzip", jpeg).refused(415, "unsupported_media_type");
    raw("image/jpeg", &vec![0xff; 9 * 1024 * 1024]).refused(413, "body_too_large");
    raw("application/json", b"{").refused(400, "malformed_json");
    raw("application/json", b"[]").refused(400, "invalid_request");
    raw("multipart/form-data; boundary=x", b"--y").refused(400, "malformed_multipart");
    let post = |path: &str, body: Value| app.post(path, &body);
    post(enrol, json!({})).refused(400, "invalid_request");
    post(enrol, json!({"image": "***"})).refused(400, "invalid_request");
    post(enrol, json!({"image": image, "colour": "red"})).refused(400, "invalid_request");
    post(enrol, json!({"image": image, "aspect": "sideways"})).refused(400, "invalid_request");
    post(enrol, json!({"image": image, "attributes": {"finger": 3}}))
        .refused(400, "invalid_request");
    post(enrol, json!({"image": image, "attributes": {"extra": {"note": "x".repeat(300)}}}))
        .refused(400, "invalid_attributes");
    post(enrol, json!({"image": image, "sample": "../x"})).refused(400, "invalid_id");
    post("/v1/galleries/g/subjects/a%20b/samples", json!({"image": image}))
        .refused(400, "invalid_id");
    post("/v1/galleries/none/subjects/ann/samples", json!({"image": image}))
        .refused(404, "gallery_not_found");
    post("/v1/galleries", json!({"id": "g"})).refused(409, "gallery_exists");
    post("/v1/galleries", json!({"id": ".."})).refused(400, "invalid_id");
    post("/v1/galleries", json!({"id": "h", "color": 1})).refused(400, "invalid_request");
    post("/v1/galleries", json!({"id": 5})).refused(400, "invalid_request");
    let identify = "/v1/galleries/g:identify";
    post(identify, json!({"image": image, "limit": 0})).refused(400, "invalid_request");
    post(identify, json!({"image": image, "limit": 1001})).refused(400, "invalid_request");
    post(identify, json!({"image": image, "limit": 1.5})).refused(400, "invalid_request");
    post(identify, json!({"image": image, "threshold": 7})).refused(400, "invalid_request");
    post(identify, json!({"image": image, "mean_of": 1_000_000})).refused(400, "invalid_request");
    let verify = "/v1/galleries/g:verify";
    post(verify, json!({"image": image})).refused(400, "invalid_request");
    post(verify, json!({"image": image, "subject": "nobody"})).refused(404, "subject_not_found");
    let search = "/v1/galleries/g:search";
    post(search, json!({})).refused(400, "invalid_request");
    post(search, json!({"prompt": ""})).refused(422, "prompt_refused");
    post(search, json!({"prompt": "x", "image_weight": 2})).refused(400, "invalid_request");
    post("/v1/compare", json!({"image_a": image})).refused(400, "invalid_request");
    post("/v1/embeddings", json!({"image": image, "text": "both"})).refused(400, "invalid_request");
    app.get("/v1/models/absent").refused(404, "model_not_found");
    app.get("/v1/nothing").refused(404, "not_found");
    app.get("/").refused(404, "not_found");
    let wrong = app.put("/v1/galleries/g");
    wrong.refused(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("DELETE, GET"));
    app.get(identify).refused(405, "method_not_allowed");

    assert_eq!(app.samples("g"), 0);
    assert_eq!(app.get("/v1/galleries").ok()["galleries"].as_array().unwrap().len(), 1);
}

#[test]
fn a_sample_name_is_taken_once() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    let post = |subject: &str, i: usize| {
        let body = json!({"image": hands()[i].base64(), "sample": "one"});
        app.post(&format!("/v1/galleries/g/subjects/{subject}/samples"), &body)
    };
    assert_eq!(post("ann", 0).status, 201);
    assert_eq!(post("ann", 0).status, 200);
    post("ann", 1).refused(409, "sample_exists");
    post("bob", 2).refused(409, "sample_exists");
    assert_eq!(app.samples("g"), 1);
}

#[test]
fn embeddings_are_of_unit_length_and_equal_images_compare_as_one() {
    let app = TestApp::spawn();
    let view = app.post("/v1/embeddings", &json!({"text": "a palmar left hand"})).ok();
    let values: Vec<f64> =
        view["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(json!(values.len()), view["dim"]);
    assert!((values.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-4);
    let raw = app.post_bytes("/v1/embeddings", "image/jpeg", &hands()[0].jpeg).ok();
    assert_eq!((&raw["dim"], &raw["fingerprint"]), (&view["dim"], &view["fingerprint"]));
    let image = hands()[0].base64();
    let same = app
        .post("/v1/compare", &json!({"image_a": image, "image_b": image, "threshold": 0.99}))
        .ok();
    assert!(same["similarity"].as_f64().unwrap() >= 0.9999);
    assert_eq!(same["decision"], "match");
}

#[test]
fn health_metrics_models_and_docs_answer() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    assert_eq!(app.get("/livez").ok()["alive"], true);
    let ready = app.get("/readyz").ok();
    assert_eq!(ready["ready"], true);
    // Anybody may ask: not every question is one for the model.
    assert_eq!(app.get("/readyz").ok()["canary_us"], ready["canary_us"]);
    let metrics = app.get("/metrics").text;
    assert!(metrics.contains("handclip_requests_total{"), "{metrics}");
    assert!(metrics.contains("handclip_gallery_samples{gallery=\"g\"} 0"), "{metrics}");
    assert!(metrics.contains("handclip_generation 1"), "{metrics}");
    let models = app.get("/v1/models").ok();
    assert_eq!(models["models"][0]["deployed"], true);
    assert_eq!(app.get("/v1/deployment").ok()["live"], models["models"][0]);
    assert_eq!(app.get("/openapi.json").ok()["openapi"], "3.1.0");
    let page = app.get("/docs/");
    assert_eq!(page.status, 200);
    for text in [&page.text, &app.get("/docs/swagger-initializer.js").text] {
        let outside = text.match_indices("http").filter(|(i, _)| {
            let rest = &text[*i..];
            rest.starts_with("http://") || rest.starts_with("https://")
        });
        assert_eq!(outside.count(), 0, "nothing is loaded from elsewhere: {text}");
    }
}

/// What a client sends that is written by hand, and the first line that comes back.
fn spoken(app: &TestApp, request: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(app.address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = [0; 4096];
    let read = socket.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// Each would stay in the metrics.
#[test]
fn methods_that_a_client_makes_up_are_counted_as_one() {
    let app = TestApp::spawn();
    for method in ["BREW", "BREW-MORE", "get"] {
        let answer =
            spoken(&app, &format!("{method} /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"), &[]);
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    let metrics = app.get("/metrics").text;
    assert!(!metrics.to_lowercase().contains("brew"), "{metrics}");
    let counted = metrics.lines().find(|line| line.contains("requests_total{method=\"other\""));
    assert!(counted.is_some_and(|line| line.ends_with(" 3")), "{metrics}");
}

/// An upgrade makes a stream of a body whose length was announced. Memory is reserved for what was.
#[test]
fn a_body_longer_than_announced_is_refused() {
    let app = TestApp::spawn();
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\ncontent-length: 10\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = spoken(&app, head, &hands()[0].jpeg);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn request_ids_are_echoed_or_made() {
    let app = TestApp::spawn();
    assert_eq!(
        app.get_with("/livez", "x-request-id", "abc-1").header("x-request-id"),
        Some("abc-1")
    );
    let odd = app.get_with("/livez", "x-request-id", "a b<script>");
    assert_ne!(odd.header("x-request-id"), Some("a b<script>"));
    assert!(odd.header("x-request-id").unwrap().len() > 30);
    assert_eq!(app.get("/livez").header("x-content-type-options"), Some("nosniff"));
    assert_eq!(app.get("/v1/galleries").header("cache-control"), Some("no-store"));
}

#[test]
fn a_web_page_cannot_reach_a_server_without_keys() {
    let app = TestApp::spawn();
    app.get_with("/v1/galleries", "origin", "https://evil.example").refused(403, "cross_origin");
    app.get_with("/v1/galleries", "host", "rebound.example").refused(403, "host_not_allowed");
    let own = format!("http://{}", app.address);
    assert_eq!(app.get_with("/v1/galleries", "origin", &own).status, 200);
    assert_eq!(app.get("/v1/galleries").header("access-control-allow-origin"), None);
}

#[test]
fn overload_is_told_to_come_back_and_the_server_lives_on() {
    let app = TestApp::spawn_with(|options, http| {
        options.queue = 1;
        options.decode_queue = 1;
        options.decoders = 1;
        http.max_requests = 4;
    });
    app.create_gallery("g");
    let body = json!({"image": hands()[0].base64()});
    let statuses: Vec<(u16, bool, String)> = std::thread::scope(|scope| {
        let ask = || {
            let answer = app.post("/v1/galleries/g:identify", &body);
            let code = answer.json()["code"].as_str().unwrap_or("").to_owned();
            (answer.status, answer.header("retry-after").is_some(), code)
        };
        let running: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (status, retry, code) in &statuses {
        match status {
            200 => {}
            429 | 503 => assert!(*retry && code == "busy", "{status} {code}"),
            other => panic!("{other} {code}"),
        }
    }
    assert!(statuses.iter().any(|(s, ..)| *s == 200), "{statuses:?}");
    assert!(statuses.iter().any(|(s, ..)| *s != 200), "{statuses:?}");
    app.post("/v1/galleries/g:identify", &body).ok();
}

#[test]
fn a_slow_body_is_given_up_on() {
    let app = TestApp::spawn_with(|_, http| http.request_timeout_s = 1);
    let mut socket = TcpStream::connect(app.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/jpeg\r\ncontent-length: 1000\r\n\r\nabc").unwrap();
    let started = Instant::now();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_graceful_stop_answers_what_is_in_flight() {
    let mut app = TestApp::spawn();
    app.create_gallery("g");
    let (address, hand) = (app.address, &hands()[0]);
    let mut socket = TcpStream::connect(address).unwrap();
    let (first, rest) = hand.jpeg.split_at(100);
    write!(socket, "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", hand.jpeg.len()).unwrap();
    socket.write_all(first).unwrap();
    // The handler has the request once the metrics show it in flight.
    let in_flight = |text: &str| text.contains("handclip_requests_in_flight 2");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !in_flight(&app.get("/metrics").text) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| app.halt());
        socket.write_all(rest).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        stopping.join().unwrap();
    });
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
}

#[test]
fn the_openapi_document_is_the_one_checked_in() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/handclip.json");
    let made = handclip::http::openapi_json();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(made == kept, "run UPDATE_OPENAPI=1 cargo test --release --test it openapi");
    let document: Value = serde_json::from_str(&made).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["operationId"].is_string(), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["responses"]["500"].is_object(), "{method} {path}");
        }
    }
}
