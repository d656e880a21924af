//! Who gets in: every operation of the OpenAPI document, asked with every sort of key.

mod command_line;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp, hands};

const SCOPES: [&str; 9] =
    ["identify", "embed", "read", "enrol", "erase", "train", "deploy", "monitor", "admin"];
const SERVER_WIDE: [&str; 4] = ["train", "deploy", "monitor", "admin"];
const NOBODY: &str = "0123456789abcdef";

/// An operation, with names in its path that nothing has.
struct Operation {
    method: String,
    path: String,
    of_gallery: bool,
    /// One of them is needed; `None` for everybody.
    scopes: Option<Vec<String>>,
}

impl Operation {
    fn ask(&self, app: &TestApp, key: Option<&str>) -> Answer {
        let body = matches!(self.method.as_str(), "POST" | "PUT").then(|| json!({}));
        app.ask(&self.method, &self.path, key, body.as_ref())
    }
}

fn operations(app: &TestApp) -> Vec<Operation> {
    let document = app.get("/openapi.json").ok();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array();
            let scopes = security.map(|all| {
                let names = all[0]["key"].as_array().unwrap().iter();
                names.map(|name| name.as_str().unwrap().to_owned()).collect()
            });
            let named = path
                .replace("{gallery}", "staff")
                .replace("{key}", NOBODY)
                .replace("{job}", "01980f3e-5b5c-7d2e-9a43-0e6f6b1c2d3e")
                .replace("{run}", "01980f3e-5b5c-7d2e-9a43-0e6f6b1c2d3e")
                .replace("{evaluation}", "01980f3e-5b5c-7d2e-9a43-0e6f6b1c2d3e");
            let named = ["subject", "sample", "model", "dataset", "file"]
                .iter()
                .fold(named, |path, name| path.replace(&format!("{{{name}}}"), "nothing"));
            assert!(!named.contains('{'), "{named}: a name in a path that this test does not know");
            let (method, of_gallery) = (method.to_uppercase(), path.contains("{gallery}"));
            all.push(Operation { method, path: named, of_gallery, scopes });
        }
    }
    all
}

fn make(app: &TestApp, admin: Option<&str>, key: Value) -> (String, String) {
    let made = app.ask("POST", "/v1/keys", admin, Some(&key)).ok();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("key"), text("token"))
}

fn first(app: &TestApp) -> String {
    make(app, None, json!({"name": "ops", "scopes": ["admin"]})).1
}

#[test]
fn every_operation_answers_every_sort_of_key_as_it_should() {
    let app = TestApp::spawn();
    let operations = operations(&app);
    assert!(operations.len() > 55, "{}", operations.len());
    // The control: without keys nobody is refused.
    for operation in operations.iter().filter(|o| o.path != "/v1/keys") {
        let status = operation.ask(&app, None).status;
        assert!(!matches!(status, 401 | 403), "{} {}: {status}", operation.method, operation.path);
    }

    let admin_key = first(&app);
    let admin = Some(admin_key.as_str());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let soon = now.as_millis() as u64 + 1_000;
    let (_, expired) =
        make(&app, admin, json!({"name": "e", "scopes": ["admin"], "expires_at_ms": soon}));
    let (id, revoked) = make(&app, admin, json!({"name": "r", "scopes": ["admin"]}));
    assert_eq!(app.ask("DELETE", &format!("/v1/keys/{id}"), admin, None).ok()["state"], "revoked");
    let single = SCOPES.map(|scope| make(&app, admin, json!({"name": scope, "scopes": [scope]})).1);
    let bounded = |gallery: &str| {
        let scopes: Vec<&str> = SCOPES.into_iter().filter(|s| !SERVER_WIDE.contains(s)).collect();
        make(&app, admin, json!({"name": "b", "scopes": scopes, "galleries": [gallery]})).1
    };
    let (here, elsewhere) = (bounded("staff"), bounded("other"));
    let mut unknown = admin_key.clone();
    let last = if unknown.pop() == Some('A') { 'Q' } else { 'A' };
    unknown.push(last);
    std::thread::sleep(std::time::Duration::from_millis(1_100));

    for operation in &operations {
        let about = format!("{} {}", operation.method, operation.path);
        println!("{about}");
        let Some(scopes) = &operation.scopes else {
            assert_eq!(operation.ask(&app, None).status, 200, "{about}");
            continue;
        };
        operation.ask(&app, None).refused(401, "key_missing");
        assert_eq!(
            operation.ask(&app, None).header("www-authenticate").map(|h| &h[..6]),
            Some("Bearer")
        );
        operation.ask(&app, Some("hck_nonsense")).refused(401, "key_malformed");
        operation.ask(&app, Some(&unknown)).refused(401, "key_unknown");
        operation.ask(&app, Some(&revoked)).refused(401, "key_revoked");
        operation.ask(&app, Some(&expired)).refused(401, "key_expired");
        for (scope, key) in SCOPES.into_iter().zip(&single) {
            let answer = operation.ask(&app, Some(key));
            if scope == "admin" || scopes.iter().any(|needed| needed == scope) {
                assert!(!matches!(answer.status, 401 | 403), "{about} as {scope}: {}", answer.text);
            } else {
                answer.refused(403, "scope_missing");
            }
        }
        let server_wide = scopes.iter().all(|scope| SERVER_WIDE.contains(&scope.as_str()));
        match (operation.of_gallery, server_wide) {
            (_, true) => operation.ask(&app, Some(&here)).refused(403, "scope_missing"),
            (true, false) => {
                operation.ask(&app, Some(&elsewhere)).refused(403, "gallery_forbidden");
                let allowed = operation.ask(&app, Some(&here));
                assert!(!matches!(allowed.status, 401 | 403), "{about}: {}", allowed.text);
            }
            (false, false) => assert_ne!(operation.ask(&app, Some(&here)).status, 403, "{about}"),
        }
    }
}

#[test]
fn a_bounded_key_sees_and_reaches_its_gallery_only() {
    let app = TestApp::spawn();
    let admin = first(&app);
    for gallery in ["staff", "other"] {
        app.ask("POST", "/v1/galleries", Some(&admin), Some(&json!({"id": gallery}))).ok();
    }
    let key = make(
        &app,
        Some(&admin),
        json!({"name": "door", "scopes": ["identify", "read"], "galleries": ["staff"]}),
    );
    let key = Some(key.1.as_str());
    let seen = app.ask("GET", "/v1/galleries", key, None).ok();
    let names: Vec<&str> =
        seen["galleries"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["staff"]);
    let image = json!({"image": hands()[0].base64()});
    app.ask("POST", "/v1/galleries/staff:identify", key, Some(&image)).ok();
    app.ask("POST", "/v1/galleries/other:identify", key, Some(&image))
        .refused(403, "gallery_forbidden");
    app.ask("GET", "/v1/galleries/none", key, None).refused(403, "gallery_forbidden");
    // One that names its gallery in the body, or in the query.
    for gallery in ["staff", "other"] {
        let path = format!("/v1/galleries/{gallery}/subjects/ann/samples");
        app.ask("POST", &path, Some(&admin), Some(&image)).ok();
    }
    let explain = |gallery: &str| {
        let mut body = json!({"gallery": gallery, "subject": "ann"});
        body["image"] = image["image"].clone();
        app.ask("POST", "/v1/explain", key, Some(&body))
    };
    explain("staff").ok();
    explain("other").refused(403, "gallery_forbidden");
    explain("none").refused(403, "gallery_forbidden");
}

/// Their templates would go with it, as if they had been erased.
#[test]
fn a_key_that_may_not_erase_does_not_have_a_consent_end_sooner() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let app = TestApp::spawn();
    let admin = first(&app);
    let clerk = make(&app, Some(&admin), json!({"name": "clerk", "scopes": ["enrol"]})).1;
    app.ask("POST", "/v1/galleries", Some(&admin), Some(&json!({"id": "staff"}))).ok();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_millis() as u64;
    let until = |at: u64| json!({"purpose": "entry", "given_at_ms": 1, "expires_at_ms": at});
    let agree = |key: &str, who: &str, at: u64| {
        let path = format!("/v1/galleries/staff/subjects/{who}/consent");
        app.ask("PUT", &path, Some(key), Some(&until(at)))
    };
    let enrol = |who: &str, n: usize, consent: Option<u64>| {
        let mut body = json!({"image": hands()[n].base64()});
        if let Some(at) = consent {
            body["consent"] = until(at);
        }
        let path = format!("/v1/galleries/staff/subjects/{who}/samples");
        app.ask("POST", &path, Some(&clerk), Some(&body))
    };
    // Somebody new agrees to whatever they like.
    enrol("ann", 0, Some(now + 3 * DAY_MS)).ok();
    enrol("bob", 8, None).ok();
    agree(&clerk, "ann", now + 4 * DAY_MS).ok();
    agree(&clerk, "ann", now + 2 * DAY_MS).refused(403, "scope_missing");
    enrol("ann", 1, Some(now + 1_000)).refused(403, "scope_missing");
    enrol("ann", 0, Some(now + 1_000)).refused(403, "scope_missing");
    agree(&clerk, "bob", now + 60_000).refused(403, "scope_missing");
    agree(&clerk, "bob", now + 2 * DAY_MS).ok();
    agree(&admin, "ann", now + 2 * DAY_MS).ok();
}

/// A request as it is written, which a client library would tidy up. Gives the status.
fn raw(app: &TestApp, line: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(app.address).unwrap();
    let head =
        format!("{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}\r\n", app.address);
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[test]
fn no_spelling_of_a_path_gets_round_the_key() {
    let app = TestApp::spawn();
    let admin = first(&app);
    for gallery in ["staff", "other"] {
        app.ask("POST", "/v1/galleries", Some(&admin), Some(&json!({"id": gallery}))).ok();
    }
    let bounded = make(
        &app,
        Some(&admin),
        json!({"name": "door", "scopes": ["read"], "galleries": ["staff"]}),
    );
    let header = |key: &str| format!("authorization: Bearer {key}\r\n");
    // The control: spelled plainly, with its key, it is answered.
    assert_eq!(raw(&app, "GET /v1/galleries/other", &header(&admin)), 200);
    let spellings = [
        "/v1/galleries/other",
        "/v1/galleries/%6fther",
        "/v1/galleries/othe%72",
        "//v1/galleries/other",
        "/v1//galleries/other",
        "/v1/./galleries/other",
        "/v1/galleries/staff/../other",
        "/v1/galleries/staff/%2e%2e/other",
        "/v1/galleries/staff%2f..%2fother",
        "/v1/galleries/other/",
        "/v1/galleries/other?x=/livez",
        "/v1/galleries/other#/livez",
        "/livez/../v1/galleries/other",
        "/docs/../v1/galleries/other",
        "/docs/%2e%2e/v1/galleries/other",
        "/v1/galleries/other;/livez",
        "/V1/galleries/other",
        "/v1/galleries/other/subjects",
        "/v1/galleries/%6fther/subjects",
    ];
    for path in spellings {
        for (headers, who) in
            [(String::new(), "nobody"), (header(&bounded.1), "a key for another gallery")]
        {
            let status = raw(&app, &format!("GET {path}"), &headers);
            assert!(!(200..300).contains(&status), "{path} as {who}: {status}");
        }
    }
    for headers in [
        format!("authorization: bearer {admin}\r\nauthorization: Bearer {admin}\r\n"),
        format!("authorization: Basic {admin}\r\n"),
        format!("authorization: {admin}\r\n"),
        format!("x-api-key: {admin}\r\n"),
        format!("authorization: Bearer {admin}x\r\n"),
    ] {
        assert_eq!(raw(&app, "GET /v1/galleries", &headers), 401, "{headers}");
    }
    assert_eq!(
        raw(&app, "GET /v1/galleries", &format!("authorization: bearer   {admin}\r\n")),
        200
    );
    // A page of another origin is not told that it may.
    let origin = "origin: https://elsewhere.example\r\naccess-control-request-method: GET\r\n";
    assert_eq!(raw(&app, "OPTIONS /v1/galleries", origin), 405);
    let answer = app.get_with("/livez", "origin", "https://elsewhere.example");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn the_history_of_a_deployment_says_whose_key_passed_over_the_gate() {
    let app = TestApp::spawn_with(|options, _| options.job_threads = 1);
    crate::deployment::register(&app.options.data_dir, "b", 1);
    let admin = first(&app);
    let passing = json!({"override": {"reason": "because"}, "soak_s": 3600});
    let job = app.ask("POST", "/v1/models/b:deploy", Some(&admin), Some(&passing)).ok();
    let path = format!("/v1/jobs/{}", job["job"].as_str().unwrap());
    let begun = std::time::Instant::now();
    while app.ask("GET", &path, Some(&admin), None).ok()["state"] != "succeeded" {
        assert!(begun.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    app.ask("POST", "/v1/deployment:rollback", Some(&admin), Some(&json!({}))).ok();
    let history = app.ask("GET", "/v1/deployment", Some(&admin), None).ok()["history"].clone();
    let by = json!(format!("{} (ops)", &admin[4..20]));
    let steps: Vec<_> = history.as_array().unwrap().iter().map(|step| &step["step"]).collect();
    assert_eq!(steps, ["began", "promoted", "rolled_back"]);
    for step in history.as_array().unwrap() {
        assert_eq!(step["by"], by, "{history}");
    }
    assert_eq!(history[1]["override_reason"], "because");
}

#[test]
fn keys_outlive_a_restart_and_passing_over_the_gate_takes_an_admin() {
    let app = TestApp::spawn();
    app.post("/v1/keys", &json!({"name": "x", "scopes": ["identify"]})).refused(409, "first_key");
    let admin = first(&app);
    let app = app.restart();
    app.get("/v1/keys").refused(401, "key_missing");
    let (id, deployer) =
        make(&app, Some(&admin), json!({"name": "deployer", "scopes": ["deploy"]}));
    let passing = json!({"override": {"reason": "because"}});
    let deploy =
        |key: &str, body: &Value| app.ask("POST", "/v1/models/nano:deploy", Some(key), Some(body));
    deploy(&deployer, &passing).refused(403, "scope_missing");
    deploy(&deployer, &json!({})).refused(409, "already_serves");
    deploy(&admin, &passing).refused(409, "already_serves");

    // Rotated, with the old secret for a while; then revoked.
    let rotate = format!("/v1/keys/{id}:rotate");
    let turned = app.ask("POST", &rotate, Some(&admin), Some(&json!({"overlap_s": 60}))).ok();
    let newer = turned["token"].as_str().unwrap();
    for key in [deployer.as_str(), newer] {
        app.ask("GET", "/v1/deployment", Some(key), None).ok();
    }
    let listed = app.ask("GET", "/v1/keys", Some(&admin), None);
    for secret in [&admin[21..], &deployer[21..], &newer[21..]] {
        assert!(!listed.text.contains(secret), "a list of keys lets nobody in");
    }
    let key = format!("/v1/keys/{id}");
    assert!(app.ask("GET", &key, Some(&admin), None).ok()["rotating_until_ms"].is_u64());
    app.ask("DELETE", &key, Some(&admin), None).ok();
    for key in [deployer.as_str(), newer] {
        app.ask("GET", "/v1/deployment", Some(key), None).refused(401, "key_revoked");
    }
    app.ask("POST", &rotate, Some(&admin), Some(&json!({}))).refused(409, "key_is_revoked");
    let own = format!("/v1/keys/{}", &admin[4..20]);
    app.ask("DELETE", &own, Some(&admin), None).refused(409, "last_admin_key");
    app.ask("GET", &format!("/v1/keys/{NOBODY}"), Some(&admin), None).refused(404, "key_not_found");
    app.ask("GET", "/v1/keys/ABC", Some(&admin), None).refused(400, "invalid_id");
    let unwanted = json!({"name": "x", "scopes": ["root"]});
    app.ask("POST", "/v1/keys", Some(&admin), Some(&unwanted)).refused(400, "invalid_request");
}

#[test]
fn a_key_that_asks_too_often_is_told_when_to_come_back() {
    let app = TestApp::spawn_with(|_, http| http.rate_limit = std::num::NonZeroU32::new(5));
    let admin = first(&app);
    let reader = json!({"name": "reader", "scopes": ["read"]});
    let (_, reader) = make(&app, Some(&admin), reader);
    let ask = |key: &str, path: &str| app.ask("GET", path, Some(key), None);
    let answers: Vec<Answer> = (0..40).map(|_| ask(&reader, "/v1/galleries")).collect();
    let first_refused = answers.iter().position(|answer| answer.status == 429);
    // Five at once; a slow machine may take a second for them, in which there are five more.
    assert!(first_refused.is_some_and(|at| at >= 5), "{first_refused:?}");
    for answer in &answers {
        assert_eq!(answer.header("ratelimit-policy"), Some("\"key\";q=5;w=1"));
        let left = answer.header("ratelimit").unwrap();
        match answer.status {
            200 => assert!(left.starts_with("\"key\";r="), "{left}"),
            _ => {
                assert!(left.starts_with("\"key\";r=0;t="), "{left}");
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert_eq!(answer.json()["code"], "rate_limited");
            }
        }
    }
    // What a key may not do counts as well; another key and those without one are not touched.
    let refused = (0..40).map(|_| ask(&reader, "/v1/keys").status);
    assert!(refused.collect::<Vec<_>>().contains(&429));
    assert_eq!(ask(&admin, "/v1/galleries").status, 200);
    assert_eq!(app.get("/livez").header("ratelimit"), None);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(ask(&reader, "/v1/galleries").status, 200);
}
