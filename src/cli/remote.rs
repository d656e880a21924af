//! Asking a running server, and following what its jobs do.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::{ApiKeyArgs, RemoteArgs};

use super::evaluate::quoted;
use super::{Failure, output};

/// How often in a row a stream of events is opened and says nothing before the server counts as gone.
const TRIES: usize = 30;

/// A server.
#[derive(Clone)]
pub(super) struct Remote {
    base: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl Remote {
    /// A server, and the key to ask it with.
    pub(super) fn new(url: &str, key: &ApiKeyArgs) -> Result<Self, Failure> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(format!("`{url}` is not the address of a server: http://HOST:PORT").into());
        }
        let agent = ureq::Agent::config_builder()
            .tls_config(tls(key)?)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        let key = key.api_key().map_err(|error| format!("cannot read the API key: {error}"))?;
        let authorization = key.map(|key| format!("Bearer {key}"));
        Ok(Self { base: url.trim_end_matches('/').to_owned(), agent, authorization })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.signed(self.agent.get(self.url(path))).call())
    }

    /// A body of any length, if the server gives it.
    pub(super) fn download(&self, path: &str) -> Result<ureq::Body, Failure> {
        let sent = self.signed(self.agent.get(self.url(path))).call();
        match sent {
            Ok(response) if response.status().is_success() => Ok(response.into_body()),
            other => {
                Err(self.answer(other).err().unwrap_or_else(|| "the server gave nothing".into()))
            }
        }
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.signed(self.agent.delete(self.url(path))).call())
    }

    fn signed<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request =
            self.signed(self.agent.post(self.url(path))).header("content-type", "application/json");
        self.answer(request.send(body.to_string()))
    }

    fn answer(
        &self,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        answer(sent.map_err(|error| format!("cannot reach the server {}: {error}", self.base))?)
    }

    /// Shows what a job does until it has ended, and gives it. Ctrl-C asks it to end.
    pub(super) fn follow(&self, job: &Value, what: &'static str) -> Result<Value, Failure> {
        let id = job["job"].as_str().ok_or("the server named no job")?.to_owned();
        let over = Arc::new(AtomicBool::new(false));
        self.cancel_on_interrupt(&id, &over);
        let bar = output::bar(0, what);
        let mut last = 0;
        let mut silent = 0;
        while silent < TRIES {
            silent += 1;
            let events = self.signed(self.agent.get(self.url(&format!("/v1/jobs/{id}/events"))));
            let events = events.header("last-event-id", last.to_string());
            if let Ok(mut stream) = events.call()
                && stream.status().as_u16() == 200
            {
                let lines = BufReader::new(stream.body_mut().as_reader()).lines();
                for line in lines.map_while(Result::ok) {
                    let Some(data) = line.strip_prefix("data: ") else { continue };
                    let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
                    silent = 0;
                    last = event["id"].as_u64().unwrap_or(last);
                    match event["event"].as_str() {
                        Some("log") => {
                            let line = event["line"].as_str().unwrap_or_default().to_owned();
                            bar.suspend(|| note!("{line}"));
                        }
                        Some("progress") => {
                            bar.set_length(event["total"].as_u64().unwrap_or(0));
                            bar.set_position(event["done"].as_u64().unwrap_or(0));
                        }
                        Some(_) | None => {}
                    }
                }
            }
            // A stream that breaks says nothing of the job: the server may have been started again.
            match self.get(&format!("/v1/jobs/{id}")) {
                Ok(now) if !matches!(now["state"].as_str(), Some("queued" | "running")) => {
                    over.store(true, Ordering::Relaxed);
                    bar.finish_and_clear();
                    return succeeded(now);
                }
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
        bar.finish_and_clear();
        Err(format!("the server does not answer any more; `GET /v1/jobs/{id}` says how it went")
            .into())
    }

    fn cancel_on_interrupt(&self, id: &str, over: &Arc<AtomicBool>) {
        let (remote, id, over) = (self.clone(), id.to_owned(), Arc::clone(over));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            if runtime.block_on(tokio::signal::ctrl_c()).is_err() || over.load(Ordering::Relaxed) {
                return;
            }
            note!("asking the server to end the job; once more to leave it to itself");
            let path = format!("/v1/jobs/{id}:cancel");
            if let Err(error) = remote.post(&path, &Value::Object(serde_json::Map::new())) {
                note!("{error}");
            }
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                // As a shell reports a program that SIGINT ended.
                std::process::exit(130);
            }
        });
    }
}

/// What has another command ask the same server with the same key.
pub(super) fn options(args: &RemoteArgs) -> String {
    let ApiKeyArgs { ca, client_cert, client_key, api_key_file } = &args.key;
    let files = [
        ("--ca", ca),
        ("--client-cert", client_cert),
        ("--client-key", client_key),
        ("--api-key-file", api_key_file),
    ];
    let mut text = format!("--server {}", quoted(&args.server));
    for (name, file) in files {
        if let Some(file) = file {
            text.push_str(&format!(" {name} {}", quoted(&file.to_string_lossy())));
        }
    }
    text
}

fn tls(args: &ApiKeyArgs) -> Result<TlsConfig, Failure> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
    };
    let certificates = |path: &Path| -> Result<Vec<Certificate<'static>>, Failure> {
        let mut found = Vec::new();
        for item in parse_pem(&read(path)?) {
            if let PemItem::Certificate(certificate) = item? {
                found.push(certificate);
            }
        }
        Ok(found)
    };
    let mut config = TlsConfig::builder();
    if let Some(path) = &args.ca {
        config = config.root_certs(RootCerts::Specific(Arc::new(certificates(path)?)));
    }
    if let (Some(cert), Some(key)) = (&args.client_cert, &args.client_key) {
        let key = PrivateKey::from_pem(&read(key)?)?;
        let shown = ClientCert::new_with_certs(&certificates(cert)?, key);
        config = config.client_cert(Some(shown));
    }
    Ok(config.build())
}

/// The job, unless it failed or was cancelled.
fn succeeded(job: Value) -> Result<Value, Failure> {
    match job["state"].as_str() {
        Some("succeeded") => Ok(job),
        Some("cancelled") => Err("the job was cancelled".into()),
        _ => {
            let error = &job["error"];
            let text = |name: &str| error[name].as_str().unwrap_or("?").to_owned();
            Err(format!("the job failed: {} ({})", text("message"), text("code")).into())
        }
    }
}

/// What a server says no with.
#[derive(Debug, thiserror::Error)]
#[error("{detail} ({code})")]
pub(super) struct Refused {
    /// Stable.
    pub(super) code: String,
    detail: String,
    /// The whole answer.
    pub(super) problem: Value,
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Value, Failure> {
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if response.status().is_success() {
        return Ok(body);
    }
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    Err(Box::new(Refused {
        code: text("code").unwrap_or_else(|| response.status().to_string()),
        detail: text("detail").unwrap_or_else(|| "the server refused".to_owned()),
        problem: body,
    }))
}
