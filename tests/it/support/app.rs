//! A real server on a free port with a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handclip::config::{HttpArgs, ListenArgs, TlsArgs};
use handclip::http::Server;
use handclip::image::{Picture, encode_jpeg};
use handclip::service::{Service, ServiceOptions};
use handclip::synth::{SynthSample, SynthSpec};
use serde_json::{Value, json};

/// A status, the headers that tests look at, and a body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text);
        self.json()
    }

    /// Asserts problem+json with this status and code.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.json()["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.content_type, "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["status"], status);
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"));
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }
}

pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    pub(crate) options: ServiceOptions,
    http: HttpArgs,
    _dir: Option<tempfile::TempDir>,
    stop: handclip::http::ServerHandle,
    thread: Option<JoinHandle<()>>,
    agent: ureq::Agent,
}

pub(crate) fn http_args() -> HttpArgs {
    HttpArgs {
        server: ListenArgs { listen: SocketAddr::from(([127, 0, 0, 1], 0)) },
        tls: TlsArgs::default(),
        workers: 2,
        max_upload_bytes: 4 * 1024 * 1024,
        max_requests: 64,
        rate_limit: None,
        request_timeout_s: 5,
        shutdown_s: 10,
    }
}

/// Errors that a server logs stand in the output of the test that failed: an answer of 500 keeps its
/// reason to the log.
fn keep_log() {
    // There is one log in a process; the test before may have started it.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_test_writer()
        .try_init();
}

impl TestApp {
    pub(crate) fn spawn() -> Self {
        Self::spawn_with(|_, _| {})
    }

    pub(crate) fn spawn_with(change: impl FnOnce(&mut ServiceOptions, &mut HttpArgs)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServiceOptions::new(dir.path().join("data"));
        let mut http = http_args();
        change(&mut options, &mut http);
        Self::start(options, http, Some(dir))
    }

    fn start(options: ServiceOptions, http: HttpArgs, dir: Option<tempfile::TempDir>) -> Self {
        keep_log();
        let (sender, started) = mpsc::channel();
        let (for_thread, args) = (options.clone(), http.clone());
        let thread = std::thread::spawn(move || {
            let service = Service::open(&for_thread).unwrap();
            actix_web::rt::System::new().block_on(async {
                let server = Server::bind(service.clone(), &args, false).unwrap();
                let handle = server.handle();
                server.run(|address| sender.send((address, handle)).unwrap()).await.unwrap();
                service.close().await.unwrap();
            });
        });
        let (address, stop) = started.recv().expect("the server starts");
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        Self { address, options, http, _dir: dir, stop, thread: Some(thread), agent }
    }

    /// Stops gracefully and starts again on the same folder.
    pub(crate) fn restart(mut self) -> Self {
        self.halt();
        let (options, http, dir) = (self.options.clone(), self.http.clone(), self._dir.take());
        Self::start(options, http, dir)
    }

    pub(crate) fn halt(&mut self) {
        // The server's thread runs the stop; nothing here waits on the future.
        drop(self.stop.stop(true));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server stops in good order");
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        read(self.agent.get(self.url(path)).call())
    }

    /// Any request, with a key or without.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let request = ureq::http::Request::builder().method(method).uri(self.url(path));
        let request = match key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        read(match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body.to_string()).unwrap())
            }
            None => self.agent.run(request.body(()).unwrap()),
        })
    }

    /// A body that is no text.
    pub(crate) fn get_bytes(&self, path: &str) -> Vec<u8> {
        let mut response = self.agent.get(self.url(path)).call().unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap()
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        read(self.agent.delete(self.url(path)).call())
    }

    pub(crate) fn put(&self, path: &str) -> Answer {
        read(self.agent.put(self.url(path)).send_empty())
    }

    pub(crate) fn put_json(&self, path: &str, body: &Value) -> Answer {
        read(self.agent.put(self.url(path)).send_json(body))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        read(self.agent.post(self.url(path)).send_json(body))
    }

    pub(crate) fn post_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        read(self.agent.post(self.url(path)).content_type(content_type).send(body))
    }

    /// A JSON question answered in bytes: status, content type and body.
    pub(crate) fn post_accepting(
        &self,
        path: &str,
        accept: &str,
        body: &Value,
    ) -> (u16, String, Vec<u8>) {
        let asked = self.agent.post(self.url(path)).header("accept", accept).send_json(body);
        let mut response = asked.expect("the server answers");
        let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        (response.status().as_u16(), content_type, response.body_mut().read_to_vec().unwrap())
    }

    pub(crate) fn post_encoded(&self, path: &str, encoding: &str, body: &[u8]) -> Answer {
        let request = self.agent.post(self.url(path)).content_type("image/jpeg");
        read(request.header("content-encoding", encoding).send(body))
    }

    pub(crate) fn get_with(&self, path: &str, header: &str, value: &str) -> Answer {
        read(self.agent.get(self.url(path)).header(header, value).call())
    }

    pub(crate) fn create_gallery(&self, id: &str) {
        self.post("/v1/galleries", &json!({ "id": id })).ok();
    }

    /// Enrols a generated hand as JSON.
    pub(crate) fn enrol(&self, gallery: &str, hand: &Hand) -> Value {
        let body = json!({"image": hand.base64(), "attributes": hand.attributes()});
        self.post(&format!("/v1/galleries/{gallery}/subjects/{}/samples", hand.subject), &body).ok()
    }

    pub(crate) fn samples(&self, gallery: &str) -> u64 {
        self.get(&format!("/v1/galleries/{gallery}")).ok()["samples"].as_u64().unwrap()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        drop(self.stop.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.expect("the server answers");
    let headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap_or("").to_owned()))
        .collect();
    let content_type = headers.iter().find(|(n, _)| n == "content-type");
    Answer {
        status: response.status().as_u16(),
        content_type: content_type.map(|(_, v)| v.clone()).unwrap_or_default(),
        text: String::from_utf8_lossy(&response.body_mut().read_to_vec().unwrap()).into_owned(),
        headers,
    }
}

/// A generated picture, encoded.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) subject: String,
    pub(crate) jpeg: Vec<u8>,
    pub(crate) sample: SynthSample,
}

impl Hand {
    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(&self.jpeg)
    }

    pub(crate) fn attributes(&self) -> Value {
        serde_json::to_value(self.sample.attributes()).unwrap()
    }
}

/// Generated hands, drawn once for all tests: 6 people, 2 pictures of each of their four hands, in order.
pub(crate) fn hands() -> &'static [Hand] {
    static HANDS: OnceLock<Vec<Hand>> = OnceLock::new();
    HANDS.get_or_init(|| {
        let spec = SynthSpec { first: 0, subjects: 6, images: 2, seed: 99, size: 128 };
        spec.samples()
            .map(|sample| {
                let drawn = sample.render(spec.size);
                let picture = Picture::from_rgb(drawn.width, drawn.height, drawn.rgb).unwrap();
                let jpeg = encode_jpeg(&picture, 92).unwrap();
                Hand { subject: format!("person-{}", sample.subject), jpeg, sample }
            })
            .collect()
    })
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Writes generated hands as a folder for each subject.
pub(crate) fn write_folders(root: &Path) -> Vec<PathBuf> {
    hands()
        .iter()
        .enumerate()
        .map(|(i, hand)| {
            let folder = root.join(&hand.subject);
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("{i}.jpg"));
            std::fs::write(&path, &hand.jpeg).unwrap();
            path
        })
        .collect()
}
