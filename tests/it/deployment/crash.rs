//! A process that dies at any step of a deployment: what comes up serves the old or the new generation, whole.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{oracle::Oracle, overridden, register};
use crate::support::app::{Hand, hands};

/// Every step that a deployment can be cut off at.
const DEPLOYING: [&str; 6] = [
    "deploy.before_begin",
    "deploy.begun",
    "deploy.backfilling",
    "deploy.filled",
    "deploy.before_promote",
    "deploy.promoted",
];
const ENROLLED: usize = 24;

/// A server of its own, killed when it is dropped.
struct Process {
    child: Child,
    base: String,
    agent: ureq::Agent,
}

impl Process {
    fn start(data_dir: &Path, failpoint: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--job-threads", "1", "--data-dir"]);
        command.arg(data_dir);
        if let Some(step) = failpoint {
            command.args(["--failpoint", step]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("listening on ").expect("the server starts").to_owned();
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(20)))
            .http_status_as_error(false)
            .build()
            .into();
        Self { child, base, agent }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// `None` when the server is gone.
    fn get(&self, path: &str) -> Option<Value> {
        let mut answer = self.agent.get(self.url(path)).call().ok()?;
        answer.body_mut().read_to_string().ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        let mut answer = request.send(body.to_string()).ok()?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().ok()?;
        Some((status, serde_json::from_str(&text).ok()?))
    }

    fn image(&self, path: &str, hand: &Hand) -> Option<Value> {
        let request = self.agent.post(self.url(path)).header("content-type", "image/jpeg");
        let mut answer = request.send(&hand.jpeg).ok()?;
        answer.body_mut().read_to_string().ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    /// Enrols a picture under a subject and a sample of its number; whether that was acknowledged.
    fn enrol(&self, number: usize) -> bool {
        let path = format!("/v1/galleries/g/subjects/p{number}/samples?sample=s{number}");
        self.image(&path, &hands()[number]).is_some_and(|answer| answer["created"] == true)
    }

    fn died(&mut self) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the process reaches its step");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until no job waits or runs.
    fn idle(&self) {
        let begun = Instant::now();
        for state in ["queued", "running"] {
            let path = format!("/v1/jobs?state={state}");
            while self.get(&path).expect("it serves")["jobs"] != json!([]) {
                assert!(begun.elapsed() < Duration::from_secs(30));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both models' words on every pair of pictures.
struct Models(Oracle, Oracle);

impl Models {
    fn new(data_dir: &Path) -> Self {
        let words = "a left hand";
        let files = data_dir.join("models/b/files");
        Self(Oracle::of(None, words), Oracle::of(Some(&files), words))
    }

    /// Everybody enrolled is found first with their own picture, by one model, which is the one that the answer names: the
    /// one that serves, once no deployment is under way any more.
    fn check(&self, server: &Process, enrolled: &[usize]) {
        let gallery = server.get("/v1/galleries/g").expect("it serves");
        assert_eq!(gallery["samples"], enrolled.len(), "{gallery}");
        let live = server.get("/v1/deployment").unwrap()["live"]["fingerprint"].clone();
        for number in enrolled {
            let answer = server
                .image("/v1/galleries/g:identify?limit=20", &hands()[*number])
                .expect("it answers");
            let named = &answer["fingerprint"];
            let now = &server.get("/v1/deployment").unwrap()["live"]["fingerprint"];
            assert!([&live, now].contains(&named), "{named}");
            let of = [&self.0, &self.1].into_iter().find(|o| *named == o.fingerprint()).unwrap();
            let candidates = answer["candidates"].as_array().expect("candidates");
            assert_eq!(candidates.len(), enrolled.len().min(20));
            assert_eq!(candidates[0]["subject"], format!("p{number}"));
            for candidate in candidates {
                let other: usize =
                    candidate["subject"].as_str().unwrap()[1..].parse().expect("a number");
                let similarity = candidate["similarity"].as_f64().unwrap();
                assert!(of.agrees(*number, other, similarity), "{candidate} is not of {named}");
            }
        }
    }
}

fn prepared(dir: &Path) -> Models {
    register(dir, "b", 1);
    let mut server = Process::start(dir, None);
    server.post("/v1/galleries", &json!({"id": "g", "retain_images": true})).unwrap();
    assert!((0..ENROLLED).all(|number| server.enrol(number)));
    server.kill();
    Models::new(dir)
}

#[test]
fn a_deployment_survives_a_kill_at_every_step() {
    for step in DEPLOYING {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let models = prepared(&data);
        let mut server = Process::start(&data, Some(step));
        let (status, job) = server.post("/v1/models/b:deploy", &overridden(3600)).unwrap();
        assert_eq!(status, 202, "{job}");
        server.died();

        let server = Process::start(&data, None);
        // At once, whatever the job does meanwhile: one model or the other, whole.
        let all: Vec<usize> = (0..ENROLLED).collect();
        server.idle();
        let job = server.get(&format!("/v1/jobs/{}", job["job"].as_str().unwrap())).unwrap();
        assert_eq!(job["state"], "succeeded", "{step}: {job}");
        models.check(&server, &all);
        let deployment = server.get("/v1/deployment").unwrap();
        assert_eq!(deployment["live"]["generation"], 2, "{step}");
        let (status, _) = server.post("/v1/deployment:rollback", &json!({})).unwrap();
        assert_eq!(status, 200, "{step}");
        models.check(&server, &all);
    }
}

#[test]
fn a_way_back_survives_a_kill_at_every_step() {
    for (step, path, generation) in [
        ("rollback.before", "/v1/deployment:rollback", 2),
        ("rollback.done", "/v1/deployment:rollback", 1),
        ("retire.done", "/v1/deployment:retire", 2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let models = prepared(&data);
        let mut server = Process::start(&data, None);
        server.post("/v1/models/b:deploy", &overridden(3600)).unwrap();
        server.idle();
        assert!(server.enrol(ENROLLED), "enrolled while there is a way back");
        server.kill();
        let mut server = Process::start(&data, Some(step));
        assert!(server.post(path, &json!({})).is_none(), "{step}: it dies before it answers");
        server.died();
        let server = Process::start(&data, None);
        assert_eq!(
            server.get("/v1/deployment").unwrap()["live"]["generation"],
            generation,
            "{step}"
        );
        models.check(&server, &(0..=ENROLLED).collect::<Vec<_>>());
    }
}

#[test]
fn deployments_survive_kills_at_random() {
    /// More by hand, see benchmarks/README.md.
    const KILLS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let models = prepared(&data);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut enrolled: Vec<usize> = (0..ENROLLED).collect();
    let mut generations = std::collections::BTreeSet::new();
    for _ in 0..KILLS {
        let mut server = Process::start(&data, None);
        let live = server.get("/v1/deployment").unwrap()["live"]["name"].clone();
        let other = if live == "nano" { "b" } else { "nano" };
        // Refused where a deployment or the way back from one is still there; then that goes on.
        let _ = server.post("/v1/deployment:retire", &json!({}));
        let mut slow = overridden(3600);
        slow["images_per_second"] = json!(200);
        server.post(&format!("/v1/models/{other}:deploy"), &slow).unwrap();
        let until = Instant::now() + Duration::from_millis(rng.random_range(0..400));
        while Instant::now() < until {
            let next = enrolled.len();
            if next < hands().len() && server.enrol(next) {
                enrolled.push(next);
            }
        }
        server.kill();
        let server = Process::start(&data, None);
        models.check(&server, &enrolled);
        server.idle();
        models.check(&server, &enrolled);
        generations.insert(server.get("/v1/deployment").unwrap()["live"]["generation"].as_u64());
    }
    assert!(generations.len() > 1, "some deployment came to its end: {generations:?}");
}
