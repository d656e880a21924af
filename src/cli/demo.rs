//! The tour: generated hands, a real server, everything through HTTP.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{HttpArgs, ListenArgs, TlsArgs};
use crate::http::{Server, ServerHandle};
use crate::service::tools::{Drawing, draw_hands};
use crate::service::{LabelledImage, Service, ServiceOptions, read_dataset};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// People to draw
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(2..=500))]
    subjects: u64,
    /// Names the population
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Stop after the tour instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
}

/// A folder that goes when the demo ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("handclip-demo-{}", std::process::id()));
        // Not `create_dir_all`: a folder that another user put there is no place for a store's key.
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to tell anyone at this point: the folder holds generated hands only.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether somebody wants the demo to end, by Ctrl-C, SIGTERM or a terminal that was closed.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    server: OnceLock<ServerHandle>,
}

impl Stop {
    /// Heeds signals from now on: the folder is to go whenever they come. Where they cannot be heeded they end the process.
    fn heed() -> Arc<Self> {
        let stop = Arc::new(Self::default());
        let heeding = Arc::clone(&stop);
        let (ready, heeded) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(mut signals) = Signals::heed() else { return };
                let _ = ready.send(());
                for graceful in [true, false] {
                    signals.next().await;
                    heeding.asked.store(true, Ordering::Release);
                    if let Some(server) = heeding.server.get() {
                        drop(server.stop(graceful));
                    }
                }
            });
        });
        // The thread says so, or ends and lets go of the channel.
        let _ = heeded.recv();
        stop
    }

    fn check(&self) -> Result<(), Failure> {
        if self.asked.load(Ordering::Acquire) {
            return Err("interrupted; nothing of the demo is left".into());
        }
        Ok(())
    }

    /// Has the server hear of signals from now on, and of one that came before.
    fn reaches(&self, server: ServerHandle) {
        let handle = self.server.get_or_init(|| server);
        if self.asked.load(Ordering::Acquire) {
            drop(handle.stop(true));
        }
    }
}

struct Signals([Signal; 3]);

impl Signals {
    fn heed() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::heed();
    let scratch = Scratch::new()?;
    say!("Drawing the hands of {} people who do not exist …", args.subjects)?;
    let hands = scratch.0.join("hands");
    let bar = output::bar(0, "drawing");
    let drawing = Drawing { subjects: args.subjects, images: 3, seed: args.seed, size: 224 };
    let drawn = draw_hands(drawing, &hands, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if stop.check().is_err() {
            // Ends the drawing: the next picture has no folder.
            let _ = std::fs::rename(&hands, scratch.0.join("half-drawn"));
        }
    });
    bar.finish_and_clear();
    stop.check()?;
    drawn?;
    let images = read_dataset(&hands)?;

    let service = Service::open(&ServiceOptions::new(scratch.0.join("data")))?;
    let http = HttpArgs {
        server: ListenArgs { listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)) },
        tls: TlsArgs::default(),
        workers: 2,
        max_upload_bytes: 32 * 1024 * 1024,
        max_requests: 256,
        rate_limit: None,
        request_timeout_s: 10,
        shutdown_s: 5,
    };
    actix_web::rt::System::new().block_on(async {
        let server = Server::bind(service.clone(), &http, false)?;
        let (address, handle) = (server.address(), server.handle());
        let to_stop = server.handle();
        let url = format!("http://{address}");
        let (report, tour) = mpsc::channel();
        let once = args.once;
        let folder = scratch.0.clone();
        // The tour blocks on HTTP, so it has a thread of its own beside the server's.
        std::thread::spawn(move || {
            let result = Tour::new(url).and_then(|tour| tour.go(&images, &folder));
            let failed = result.is_err();
            // The receiver lives until the server has stopped.
            let _ = report.send(result);
            if once || failed {
                drop(handle.stop(true));
            }
        });
        server.run(|_| stop.reaches(to_stop)).await?;
        service.close().await?;
        // A tour that the signal cut short did not fail by itself.
        let toured = tour.recv_timeout(Duration::from_secs(1)).unwrap_or(Ok(()));
        toured.map_err(|error| stop.check().err().unwrap_or(error))
    })
}

struct Tour {
    url: String,
    agent: ureq::Agent,
}

impl Tour {
    fn new(url: String) -> Result<Self, Failure> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build();
        Ok(Self { url, agent: config.into() })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut response = self.agent.post(format!("{}{path}", self.url)).send_json(body)?;
        let answer: Value = response.body_mut().read_json()?;
        if response.status().is_success() {
            return Ok(answer);
        }
        Err(format!("{path}: {}", answer["detail"].as_str().unwrap_or("refused")).into())
    }

    fn go(&self, images: &[LabelledImage], folder: &Path) -> Result<(), Failure> {
        say!("Server at {}", self.url)?;
        self.post("/v1/galleries", &json!({"id": "demo", "description": "generated hands"}))?;

        // The first two pictures of every hand are enrolled, the third is kept as a probe.
        let image = |sample: &LabelledImage| -> Result<String, Failure> {
            Ok(STANDARD.encode(std::fs::read(&sample.path)?))
        };
        let (mut enrol, mut probes) = (Vec::new(), Vec::new());
        for (i, sample) in images.iter().enumerate() {
            if i % 3 == 2 { probes.push(sample) } else { enrol.push(sample) }
        }
        let started = Instant::now();
        for chunk in enrol.chunks(32) {
            let items = chunk.iter().map(|sample| {
                Ok(json!({"subject": sample.subject, "image": image(sample)?, "attributes": sample.attributes}))
            });
            let items = items.collect::<Result<Vec<Value>, Failure>>()?;
            let answer =
                self.post("/v1/galleries/demo/samples:batch", &json!({"samples": items}))?;
            if answer["failed"] != 0 {
                return Err(format!("a picture was refused: {}", answer["results"]).into());
            }
        }
        say!("\nEnrolled {} pictures in {:.1} s.", enrol.len(), started.elapsed().as_secs_f64())?;

        say!("\nIdentify: whose hand is it? (pictures that were not enrolled)")?;
        let (mut right, mut total_ms) = (0, 0.0);
        for (i, probe) in probes.iter().enumerate() {
            let filter = json!({"aspect": probe.attributes.aspect, "side": probe.attributes.side});
            let answer = self.post(
                "/v1/galleries/demo:identify",
                &json!({"image": image(probe)?, "filter": filter, "limit": 3}),
            )?;
            let first = &answer["candidates"][0];
            let hit = first["subject"] == probe.subject.as_str();
            right += usize::from(hit);
            total_ms += answer["timings"]["total_us"].as_f64().unwrap_or(0.0) / 1000.0;
            if i % 12 == 0 {
                say!(
                    "  {} is {}: similarity {:.3} {}",
                    probe.subject,
                    first["subject"].as_str().unwrap_or("nobody"),
                    first["similarity"].as_f64().unwrap_or(0.0),
                    if hit { "(right)" } else { "(wrong)" },
                )?;
            }
        }
        say!(
            "  right for {right} of {} at rank 1, {:.1} ms each",
            probes.len(),
            total_ms / probes.len() as f64
        )?;

        say!("\nVerify: is it them?")?;
        let other = images.last().map(|sample| sample.subject.clone());
        for claim in [Some(probes[0].subject.clone()), other].into_iter().flatten() {
            let answer = self.post(
                "/v1/galleries/demo:verify",
                &json!({"subject": claim, "image": image(probes[0])?}),
            )?;
            say!(
                "  a hand of {} against {claim}: similarity {:.3}",
                probes[0].subject,
                answer["similarity"].as_f64().unwrap_or(0.0)
            )?;
        }
        say!("  (no decision is given: thresholds come from a calibration, or from you)")?;

        say!("\nSearch by words:")?;
        for prompt in [
            "a dorsal right hand with a ring",
            "the palm of a left hand",
            "a hand without accessories",
        ] {
            let answer =
                self.post("/v1/galleries/demo:search", &json!({"prompt": prompt, "limit": 3}))?;
            say!("  \"{prompt}\"")?;
            for hit in answer["hits"].as_array().into_iter().flatten() {
                let a = &hit["attributes"];
                let worn = if a["accessories"] == true {
                    "with accessories"
                } else {
                    "without accessories"
                };
                say!(
                    "    {:.3}  {}  {} {} {worn}",
                    hit["similarity"].as_f64().unwrap_or(0.0),
                    hit["subject"].as_str().unwrap_or(""),
                    a["aspect"].as_str().unwrap_or(""),
                    a["side"].as_str().unwrap_or(""),
                )?;
            }
        }
        self.what_next(probes[0], folder)
    }

    fn what_next(&self, probe: &LabelledImage, folder: &Path) -> Result<(), Failure> {
        say!("\nOpen next:")?;
        say!("  {}/docs/         try every request in a browser", self.url)?;
        say!("  {}/openapi.json  the contract", self.url)?;
        say!("  {}/metrics       what is measured", self.url)?;
        say!("  {}  the pictures", folder.join("hands/Hands").display())?;
        say!("\nOr paste:")?;
        let image = probe.path.display();
        say!(
            "  curl -s -H 'content-type: image/jpeg' --data-binary @{image} '{}/v1/galleries/demo:identify?limit=3'",
            self.url
        )?;
        say!(
            "  curl -s -H 'content-type: application/json' -d '{{\"prompt\":\"a palmar left hand\"}}' {}/v1/galleries/demo:search",
            self.url
        )?;
        say!("\nCtrl-C stops the server and removes its data.")
    }
}
