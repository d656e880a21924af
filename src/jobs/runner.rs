use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::Value;

use super::error::JobError;
use super::job::{JobFailure, JobId, JobRecord, JobState};
use super::queue::{Jobs, Live};
use crate::urgency::{FAR_BACK, give_way};

/// How often a slot that has nothing to do looks for jobs that are too old to keep.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

type Handler = Box<dyn Fn(&JobContext<'_>) -> Result<Value, JobFailure> + Send + Sync>;

/// What does the work, by kind.
#[derive(Default)]
pub struct Handlers(BTreeMap<&'static str, Handler>);

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Handlers {
    /// With a handler for a kind. It may panic: the job has failed then. It should look at
    /// [`JobContext::cancelled`] every second or so, and give up with [`JobFailure::interrupted`].
    #[must_use]
    pub fn with(
        mut self,
        kind: &'static str,
        handler: impl Fn(&JobContext<'_>) -> Result<Value, JobFailure> + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(kind, Box::new(handler));
        self
    }
}

/// What a handler is given: its job, and how to tell of it.
#[derive(Debug)]
pub struct JobContext<'a> {
    jobs: &'a Jobs,
    record: &'a JobRecord,
    live: &'a Live,
    slot: &'a str,
}

impl JobContext<'_> {
    /// What the job was made with.
    #[must_use]
    pub fn input(&self) -> &Value {
        &self.record.input
    }

    /// The job's name.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.record.id
    }

    /// Whether it is to end because the server stops: it goes on after the next start then.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.jobs.is_stopping()
    }

    /// The device that is this job's alone.
    #[must_use]
    pub fn slot(&self) -> &str {
        self.slot
    }

    /// Which attempt this is; the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempts
    }

    /// Whether an earlier attempt was cut short; look at [`Self::last_checkpoint`] then.
    #[must_use]
    pub fn resumed(&self) -> bool {
        matches!(self.record.state, JobState::Running { resumed: true, .. })
    }

    /// Makes a step durable: after a crash, a stop or a retry the job can go on from it.
    ///
    /// # Errors
    /// A failure to give up with: the step is too large, or the store does not take it.
    pub fn checkpoint(&self, step: &Value) -> Result<(), JobFailure> {
        let stored = self.jobs.checkpoint(self.record.id, self.live, step);
        stored.map_err(|error| JobFailure::new("checkpoint", error))
    }

    /// The last durable step.
    ///
    /// # Errors
    /// A failure to give up with: the store does not give it.
    pub fn last_checkpoint(&self) -> Result<Option<Value>, JobFailure> {
        let found = self.jobs.last_checkpoint(self.record.id);
        found.map_err(|error| JobFailure::new("checkpoint", error))
    }

    /// Tells how far the job is. Cheap: most calls only look at the clock.
    pub fn progress(&self, done: u64, total: u64) {
        self.jobs.progress(self.record.id, self.live, done, total);
    }

    /// Adds a line to the job's log. It names no enrolled person.
    pub fn log(&self, line: impl AsRef<str>) {
        self.jobs.log(self.record.id, self.live, line.as_ref());
    }

    /// Whether to end, because somebody asked or the server stops.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.live.end.load(Ordering::Relaxed)
    }

    /// The same, for code that wants a flag.
    #[must_use]
    pub fn cancel_flag(&self) -> &AtomicBool {
        &self.live.end
    }
}

/// The threads that run jobs: one a slot, so that a device has one heavy job at a time.
#[derive(Debug)]
pub struct Runner {
    jobs: Jobs,
    slots: Mutex<Vec<(JoinHandle<()>, Receiver<()>)>>,
}

impl Runner {
    /// Starts a thread for each slot. A handler runs on `threads` threads of the slot's own, what it computes with
    /// rayon included; they give way to every thread that serves.
    ///
    /// # Errors
    /// [`JobError::Threads`].
    pub fn start(
        jobs: Jobs,
        handlers: Handlers,
        slots: &[String],
        threads: usize,
    ) -> Result<Self, JobError> {
        let handlers = Arc::new(handlers);
        let runner = Self { jobs, slots: Mutex::default() };
        for slot in slots {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads.max(1))
                .thread_name(|number| format!("job-{number}"))
                .start_handler(|_| give_way(FAR_BACK))
                .build()
                .map_err(|error| JobError::Threads(error.to_string()))?;
            let (jobs, handlers, slot) = (runner.jobs.clone(), Arc::clone(&handlers), slot.clone());
            // Dropped when the thread ends, which is how the end of a thread can be awaited within a bound.
            let (alive, ended) = channel();
            let thread = std::thread::Builder::new()
                .name("jobs".to_owned())
                .spawn(move || {
                    let _alive = alive;
                    work(&jobs, &handlers, &slot, &pool);
                })
                .map_err(|error| JobError::Threads(error.to_string()))?;
            runner.slots.lock().push((thread, ended));
        }
        Ok(runner)
    }

    /// Tells running jobs to end and waits for that. They go on after the next start, from their last
    /// durable step; one that does not heed within the bound is left to itself, and goes on likewise.
    pub fn stop(&self, within: Duration) {
        self.jobs.stop();
        let deadline = Instant::now() + within;
        for (thread, ended) in self.slots.lock().drain(..) {
            let left = deadline.saturating_duration_since(Instant::now());
            match ended.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("a job does not end; it goes on after the next start");
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    if thread.join().is_err() {
                        tracing::error!("a thread for jobs panicked");
                    }
                }
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}

fn work(jobs: &Jobs, handlers: &Handlers, slot: &str, pool: &ThreadPool) {
    loop {
        let Some((record, live)) = jobs.take(SWEEP_EVERY) else {
            if jobs.is_stopping() {
                return;
            }
            if let Err(error) = jobs.sweep() {
                tracing::warn!(%error, "old jobs are not removed");
            }
            continue;
        };
        let (id, kind) = (record.id, record.kind.as_str());
        tracing::info!(job = %id, kind, attempt = record.attempts, "a job starts");
        let context = JobContext { jobs, record: &record, live: &live, slot };
        let run = || match handlers.0.get(kind) {
            Some(handler) => handler(&context),
            None => Err(JobFailure::new("unknown_kind", format!("nobody runs jobs of `{kind}`"))),
        };
        let (outcome, panicked) = match catch_unwind(AssertUnwindSafe(|| pool.install(run))) {
            Ok(outcome) => (outcome, false),
            Err(panic) => (Err(JobFailure::new("panicked", words(panic.as_ref()))), true),
        };
        match &outcome {
            Ok(_) => tracing::info!(job = %id, kind, "a job succeeded"),
            Err(failure) => tracing::warn!(job = %id, kind, %failure, "a job ended early"),
        }
        jobs.finish(id, outcome, panicked);
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
