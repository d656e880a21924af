//! The queue as its runner sees it: taking a job, telling of it, storing how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::domain::now_ms;
use crate::storage::{Batch, Seal};

use super::error::JobError;
use super::events::EventKind;
use super::job::{JobFailure, JobId, JobRecord, JobState, Stage};
use super::key::Key;
use super::queue::{Jobs, Live, check_data};

impl Jobs {
    /// The oldest job that waits, once there is one; it runs then. `None` when the queue is stopping, or after
    /// `patience` without one.
    pub(super) fn take(&self, patience: Duration) -> Option<(JobRecord, Arc<Live>)> {
        let deadline = Instant::now() + patience;
        loop {
            let id = {
                let mut table = self.0.table.lock();
                loop {
                    if table.stopping {
                        return None;
                    }
                    let mut waiting = table.jobs.values().map(|entry| &entry.record);
                    let first = waiting.find(|record| record.state.stage() == Stage::Queued);
                    if let Some(first) = first {
                        break first.id;
                    }
                    if self.0.changed.wait_until(&mut table, deadline).timed_out() {
                        return None;
                    }
                }
            };
            let mut started = false;
            let taken = self.change(id, |record| {
                // Another slot or a cancel may have been faster.
                let JobState::Queued { resumed } = record.state else { return Ok(None) };
                let started_at_ms = now_ms();
                record.state = JobState::Running { started_at_ms, resumed, cancelling: false };
                record.attempts += 1;
                started = true;
                Ok(Some(Batch::default()))
            });
            match taken {
                Ok(record) if started => {
                    let table = self.0.table.lock();
                    let live = table.jobs.get(&id).and_then(|entry| entry.live.clone());
                    if let Some(live) = live {
                        // A stop that came meanwhile did not see this job.
                        if table.stopping {
                            live.end.store(true, Ordering::Relaxed);
                        }
                        return Some((record, live));
                    }
                }
                Ok(_) | Err(JobError::NotFound(_)) => {}
                Err(error) => {
                    tracing::error!(%error, job = %id, "a job cannot be started");
                    self.pause();
                }
            }
        }
    }

    /// Stores how a job ended, or that it goes on after the next start.
    pub(super) fn finish(&self, id: JobId, outcome: Result<Value, JobFailure>, panicked: bool) {
        let outcome = outcome.and_then(|output| {
            let fits = check_data("output", &output);
            fits.map(|_| output).map_err(|error| JobFailure::new("output", error))
        });
        loop {
            let stopping = self.is_stopping();
            let stored = self.change(id, |record| {
                let JobState::Running { started_at_ms, cancelling, .. } = record.state else {
                    return Ok(None);
                };
                let mut batch = Batch::default();
                let finished_at_ms = now_ms();
                let started = Some(started_at_ms);
                record.state = match outcome.clone() {
                    Ok(output) => {
                        batch.remove(Key::Checkpoint(id).encode());
                        JobState::Succeeded { started_at_ms, finished_at_ms, output }
                    }
                    Err(_) if cancelling && !panicked => {
                        JobState::Cancelled { started_at_ms: started, finished_at_ms }
                    }
                    Err(_) if stopping && !panicked => {
                        record.attempts = record.attempts.saturating_sub(1);
                        JobState::Queued { resumed: true }
                    }
                    Err(failure) => {
                        JobState::Failed { started_at_ms: started, finished_at_ms, failure }
                    }
                };
                Ok(Some(batch))
            });
            match stored {
                Ok(_) => break,
                // It is found running at the next start, and goes on then.
                Err(error) if stopping => {
                    tracing::error!(%error, job = %id, "how a job ended is not stored");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, job = %id, "how a job ended is not stored; trying again");
                    self.pause();
                }
            }
        }
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "old jobs are not removed");
        }
    }

    /// A second, less when the queue is stopping.
    fn pause(&self) {
        let mut table = self.0.table.lock();
        let until = Instant::now() + Duration::from_secs(1);
        while !table.stopping && !self.0.changed.wait_until(&mut table, until).timed_out() {}
    }

    /// Has no job started any more and tells those that run to end.
    pub(super) fn stop(&self) {
        let mut table = self.0.table.lock();
        table.stopping = true;
        for entry in table.jobs.values() {
            let live = entry.live.iter().filter(|_| entry.record.state.stage() == Stage::Running);
            live.for_each(|live| live.end.store(true, Ordering::Relaxed));
        }
        self.0.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.table.lock().stopping
    }

    /// Notes progress; it is told and stored at most once a second.
    pub(super) fn progress(&self, id: JobId, live: &Live, done: u64, total: u64) {
        let Some(progress) = live.meter.lock().note(done, total, Instant::now()) else { return };
        if let Some(entry) = self.0.table.lock().jobs.get_mut(&id) {
            entry.record.progress = Some(progress);
        }
        self.note(id, live, EventKind::Progress(progress));
    }

    /// Notes a line of the log; it is told at once and stored with what comes next, within a second.
    pub(super) fn log(&self, id: JobId, live: &Live, line: &str) {
        self.note(id, live, EventKind::line(line));
    }

    fn note(&self, id: JobId, live: &Live, kind: EventKind) {
        let told = live.journal.note(kind.clone());
        if told && live.written.lock().elapsed() < Duration::from_secs(1) {
            return;
        }
        match self.write(id, live, Batch::default()) {
            Ok(()) if told => {}
            Ok(()) => drop(live.journal.note(kind)),
            Err(error) => tracing::warn!(%error, job = %id, "a job's progress is not stored"),
        }
    }

    /// Makes a step of a job durable.
    pub(super) fn checkpoint(&self, id: JobId, live: &Live, step: &Value) -> Result<(), JobError> {
        let text = check_data("checkpoint", step)?;
        let mut batch = Batch::default();
        batch.put(Key::Checkpoint(id).encode(), text, Seal::Store);
        self.write(id, live, batch)
    }

    /// The last durable step of a job.
    pub(super) fn last_checkpoint(&self, id: JobId) -> Result<Option<Value>, JobError> {
        let at = Key::Checkpoint(id).encode();
        let Some(text) = self.0.store.get(&at)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| JobError::inconsistent(&at, e))
    }
}
