//! The log and the metrics. Never sees an image, an embedding or a key.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

/// Starts the log on standard error. A filter that cannot be read becomes `info`.
pub fn start_log(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would be written to where nothing can be written, and panic for that in the middle of a request.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A log that was started before (in a test) stays.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GalleryLabels {
    gallery: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JobLabels {
    kind: String,
    state: String,
}

/// What `/metrics` shows.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RequestLabels, Histogram>,
    in_flight: Gauge,
    queue: Gauge,
    samples: Family<GalleryLabels, Gauge<i64>>,
    jobs: Family<JobLabels, Gauge<i64>>,
    generation: Gauge<i64>,
    uptime: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("handclip");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let buckets = || {
            Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ])
        };
        let seconds = Family::<RequestLabels, Histogram>::new_with_constructor(buckets);
        registry.register_with_unit(
            "request_duration",
            "Time to answer",
            Unit::Seconds,
            seconds.clone(),
        );
        let (in_flight, queue) = (Gauge::default(), Gauge::default());
        registry.register("requests_in_flight", "Requests being answered", in_flight.clone());
        registry.register("model_queue", "Embeddings that wait or are computed", queue.clone());
        let samples = Family::default();
        registry.register("gallery_samples", "Enrolled images", samples.clone());
        let jobs = Family::default();
        registry.register("jobs", "Jobs that are kept, by where they stand", jobs.clone());
        let generation = Gauge::default();
        registry.register("generation", "Generation that serves", generation.clone());
        let uptime = Gauge::default();
        registry.register_with_unit(
            "uptime",
            "Time since the start",
            Unit::Seconds,
            uptime.clone(),
        );
        Self {
            registry: Arc::new(registry),
            requests,
            seconds,
            in_flight,
            queue,
            samples,
            jobs,
            generation,
            uptime,
        }
    }
}

impl Metrics {
    /// Counts an answered request; `route` is the pattern, never the path, which names people.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Sets the number of requests being answered.
    pub fn set_in_flight(&self, requests: usize) {
        self.in_flight.set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    /// Sets the length of the model's queue.
    pub fn set_queue(&self, depth: usize) {
        self.queue.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Sets the sizes of all galleries; those not named are gone.
    pub fn set_galleries<'a>(&self, sizes: impl Iterator<Item = (&'a str, usize)>) {
        self.samples.clear();
        for (gallery, samples) in sizes {
            let labels = GalleryLabels { gallery: gallery.to_owned() };
            self.samples.get_or_create(&labels).set(i64::try_from(samples).unwrap_or(i64::MAX));
        }
    }

    /// How many jobs of each kind stand where, and which generation serves.
    pub fn set_work<'a>(
        &self,
        jobs: impl IntoIterator<Item = (&'a str, &'a str, usize)>,
        generation: u64,
    ) {
        self.jobs.clear();
        for (kind, state, count) in jobs {
            let labels = JobLabels { kind: kind.to_owned(), state: state.to_owned() };
            self.jobs.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Sets the time since the start.
    pub fn set_uptime(&self, uptime: Duration) {
        self.uptime.set(uptime.as_secs_f64());
    }

    /// The metrics in OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => "# EOF\n".to_owned(),
        }
    }
}

/// Memory that this process holds, MiB; `None` where the system does not say.
#[must_use]
pub fn resident_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_show_what_was_counted() {
        let metrics = Metrics::default();
        metrics.answered("GET", "/livez", 200, Duration::from_millis(3));
        metrics.answered("GET", "/livez", 200, Duration::from_millis(3));
        metrics.set_galleries([("staff", 7)].into_iter());
        let text = metrics.render();
        let count = r#"handclip_requests_total{method="GET",route="/livez",status="200"} 2"#;
        assert!(text.contains(count), "{text}");
        assert!(text.contains(r#"handclip_gallery_samples{gallery="staff"} 7"#), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
