//! Jobs over REST, asked of a real server; events read from the socket itself.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{TestApp, hands};

/// A server that keeps jobs and does not run them, so that a test decides what happens to one.
fn app_that_runs_nothing() -> TestApp {
    TestApp::spawn_with(|options, _| options.job_threads = 0)
}

#[track_caller]
fn ended(app: &TestApp, location: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let job = app.get(location).ok();
        if !job["finished_at_ms"].is_null() {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}");
    }
}

#[track_caller]
fn queue(app: &TestApp, path: &str) -> String {
    let answer = app.post(path, &json!({}));
    assert_eq!(answer.status, 202, "{}", answer.text);
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/v1/jobs/{}", answer.json()["job"].as_str().unwrap()));
    assert_eq!(answer.json()["state"], "queued");
    location
}

/// A stream of events, asked for and its head read.
struct Stream {
    lines: BufReader<TcpStream>,
    head: String,
}

/// An event as it came: number, name, data.
type Sent = (u64, String, Value);

impl Stream {
    fn open(app: &TestApp, location: &str, last: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(app.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let last = last.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        // Compression is offered: a stream must not be held back by it. HTTP/1.0 has no chunks.
        write!(
            socket,
            "GET {location}/events HTTP/1.0\r\nhost: {}\r\naccept-encoding: gzip\r\n{last}\r\n",
            app.address
        )
        .unwrap();
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Self { lines, head }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Sent> {
        let (mut id, mut name) = (None, None);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", number)) => id = Some(number.parse().unwrap()),
                Some(("event", what)) => name = Some(what.to_owned()),
                Some(("data", data)) => {
                    let data: Value = serde_json::from_str(data).unwrap();
                    let (id, name) = (id.unwrap(), name.unwrap());
                    assert_eq!((&data["id"], &data["event"]), (&json!(id), &json!(name)));
                    return Some((id, name, data));
                }
                Some(_) | None => {}
            }
        }
    }

    fn rest(mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

#[test]
fn a_gallery_is_audited_and_merged_by_jobs() {
    let app = TestApp::spawn();
    app.create_gallery("staff");
    hands()[..12].iter().for_each(|hand| drop(app.enrol("staff", hand)));
    let audit = ended(&app, &queue(&app, "/v1/galleries/staff:audit"));
    assert_eq!(audit["state"], "succeeded", "{audit}");
    assert_eq!(audit["output"], json!({"samples": 12, "found": 12, "missed": 0}));
    assert_eq!((&audit["attempts"], &audit["kind"]), (&json!(1), &json!("audit_gallery")));
    assert_eq!(audit["input"], json!({"gallery": "staff"}));
    assert_eq!((&audit["progress"]["done"], &audit["progress"]["total"]), (&json!(12), &json!(12)));
    let merged = ended(&app, &queue(&app, "/v1/galleries/staff:compact"));
    assert_eq!(merged["state"], "succeeded", "{merged}");
    assert_eq!(merged["output"]["removed"], 0);
    app.post("/v1/galleries/nobody:audit", &json!({})).refused(404, "gallery_not_found");
    app.post("/v1/galleries/nobody:compact", &json!({})).refused(404, "gallery_not_found");

    let names = |path: &str| {
        let page = app.get(path).ok();
        let kinds = page["jobs"].as_array().unwrap().iter().map(|job| job["kind"].clone());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(names("/v1/jobs"), ["compact_gallery", "audit_gallery"], "the newest first");
    assert_eq!(names("/v1/jobs?kind=audit_gallery&state=succeeded"), ["audit_gallery"]);
    assert_eq!(names("/v1/jobs?state=failed"), [""; 0]);
    let first = app.get("/v1/jobs?limit=1").ok();
    let token = first["next_page_token"].as_str().unwrap();
    let second = app.get(&format!("/v1/jobs?limit=1&page_token={token}")).ok();
    assert_eq!(second["jobs"][0]["job"], audit["job"]);
    assert_eq!(second["next_page_token"], Value::Null);
}

#[test]
fn events_of_a_job_that_ended_are_read_again_from_any_number() {
    let app = TestApp::spawn();
    app.create_gallery("g");
    app.enrol("g", &hands()[0]);
    let location = queue(&app, "/v1/galleries/g:audit");
    ended(&app, &location);
    let stream = Stream::open(&app, &location, None);
    assert_eq!(stream.status(), 200);
    let head = stream.head.to_lowercase();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(!head.contains("gzip"), "{head}");
    let all = stream.rest();
    let what: Vec<(&str, &Value)> =
        all.iter().map(|(_, name, data)| (name.as_str(), &data["stage"])).collect();
    let (state, none) = ("state", &Value::Null);
    assert_eq!(
        what,
        [
            (state, &json!("queued")),
            (state, &json!("running")),
            ("progress", none),
            ("log", none),
            (state, &json!("succeeded"))
        ]
    );
    assert_eq!(all[3].2["line"], "1 of 1 samples find themselves");
    for (at, (id, _, _)) in all.iter().enumerate() {
        let rest = Stream::open(&app, &location, Some(&id.to_string()));
        if at + 1 == all.len() {
            assert_eq!(rest.status(), 204, "a browser gives up at this");
        }
        assert_eq!(rest.rest(), all[at + 1..], "after {id}");
    }
    let app = app.restart();
    assert_eq!(Stream::open(&app, &location, Some("2")).rest(), all[2..], "after a restart");
}

#[test]
fn an_open_stream_tells_what_happens_and_ends_with_the_job() {
    let app = app_that_runs_nothing();
    app.create_gallery("g");
    let location = queue(&app, "/v1/galleries/g:compact");
    let mut stream = Stream::open(&app, &location, None);
    let (first, _, data) = stream.next().unwrap();
    assert_eq!(data["stage"], "queued");
    let mut later = Stream::open(&app, &location, Some(&first.to_string()));
    let answer = app.post(&format!("{location}:cancel"), &json!({}));
    assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("cancelled")));
    for stream in [&mut stream, &mut later] {
        assert_eq!(stream.next().unwrap().2["stage"], "cancelled");
        assert_eq!(stream.next(), None);
    }
}

#[test]
fn open_streams_are_bounded_and_a_place_is_free_again_when_one_ends() {
    let app = app_that_runs_nothing();
    app.create_gallery("g");
    let location = queue(&app, "/v1/galleries/g:audit");
    let streams: Vec<Stream> = (0..32).map(|_| Stream::open(&app, &location, None)).collect();
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = app.get(&format!("{location}/events"));
    refused.refused(503, "busy");
    assert!(refused.header("retry-after").is_some());
    app.post(&format!("{location}:cancel"), &json!({})).ok();
    for stream in streams {
        assert_eq!(stream.rest().last().unwrap().2["stage"], "cancelled");
    }
    assert_eq!(Stream::open(&app, &location, None).rest().len(), 2);
}

#[test]
fn a_stop_ends_open_streams_at_once() {
    let mut app = app_that_runs_nothing();
    app.create_gallery("g");
    let location = queue(&app, "/v1/galleries/g:audit");
    let mut stream = Stream::open(&app, &location, None);
    assert_eq!(stream.next().unwrap().2["stage"], "queued");
    let begun = Instant::now();
    app.halt();
    assert_eq!(stream.next(), None);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn what_waits_runs_after_a_restart_and_a_failed_job_can_be_retried() {
    let mut app = app_that_runs_nothing();
    app.create_gallery("kept");
    app.create_gallery("gone");
    let kept = queue(&app, "/v1/galleries/kept:audit");
    let gone = queue(&app, "/v1/galleries/gone:audit");
    app.delete("/v1/galleries/gone");
    app.options.job_threads = 1;
    let app = app.restart();
    assert_eq!(ended(&app, &kept)["state"], "succeeded");
    let failed = ended(&app, &gone);
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&json!("failed"), &json!("gallery_not_found"))
    );
    app.post(&format!("{gone}:cancel"), &json!({})).refused(409, "job_not_cancellable");
    app.post(&format!("{kept}:retry"), &json!({})).refused(409, "job_not_retryable");
    app.create_gallery("gone");
    let again = app.post(&format!("{gone}:retry"), &json!({}));
    assert_eq!((again.status, again.header("location")), (202, Some(gone.as_str())));
    assert_eq!(ended(&app, &gone)["state"], "succeeded");
}

#[test]
fn a_full_queue_says_so_and_takes_one_more_after_a_cancel() {
    let app = app_that_runs_nothing();
    app.create_gallery("g");
    let jobs: Vec<String> = (0..64).map(|_| queue(&app, "/v1/galleries/g:audit")).collect();
    let full = app.post("/v1/galleries/g:audit", &json!({}));
    full.refused(429, "queue_full");
    assert!(full.header("retry-after").is_some());
    app.post(&format!("{}:cancel", jobs[9]), &json!({})).ok();
    app.post(&format!("{}:retry", jobs[9]), &json!({})).ok();
    app.post("/v1/galleries/g:audit", &json!({})).refused(429, "queue_full");
}

#[test]
fn what_names_no_job_is_refused_with_a_reason() {
    let app = TestApp::spawn();
    let nobody = "01980f3e-5b5c-7d2e-9a43-0e6f6b1c2d3e";
    for bad in ["x", "%2e%2e", "67e55044-10b1-426f-9247-bb680e5fe0c8", &nobody.to_uppercase()] {
        app.get(&format!("/v1/jobs/{bad}")).refused(400, "invalid_id");
        app.get(&format!("/v1/jobs/{bad}/events")).refused(400, "invalid_id");
        app.post(&format!("/v1/jobs/{bad}:cancel"), &json!({})).refused(400, "invalid_id");
        app.post(&format!("/v1/jobs/{bad}:retry"), &json!({})).refused(400, "invalid_id");
    }
    app.get(&format!("/v1/jobs/{nobody}")).refused(404, "job_not_found");
    app.get(&format!("/v1/jobs/{nobody}/events")).refused(404, "job_not_found");
    app.post(&format!("/v1/jobs/{nobody}:cancel"), &json!({})).refused(404, "job_not_found");
    app.post(&format!("/v1/jobs/{nobody}:retry"), &json!({})).refused(404, "job_not_found");
    for id in ["x", "-1", "1.5", "99999999999999999999999"] {
        let events = format!("/v1/jobs/{nobody}/events");
        app.get_with(&events, "last-event-id", id).refused(400, "invalid_request");
    }
    for query in
        ["state=done", "kind=x", "limit=0", "limit=1001", "limit=x", "page_token=x", "odd=1"]
    {
        app.get(&format!("/v1/jobs?{query}")).refused(400, "invalid_request");
    }
    app.delete(&format!("/v1/jobs/{nobody}")).refused(405, "method_not_allowed");
    app.get(&format!("/v1/jobs/{nobody}:cancel")).refused(405, "method_not_allowed");
    app.post("/v1/galleries/a%20b:audit", &json!({})).refused(400, "invalid_id");
}
