use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::domain::now_ms;
use crate::storage::{Batch, Seal, Store};

use super::error::JobError;
use super::events::{EventKind, Journal, Subscription};
use super::job::{JobFailure, JobId, JobRecord, JobState, MAX_DATA, Stage};
use super::key::{self, Key};
use super::progress::Meter;

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct JobsOptions {
    /// Jobs that may wait; one more is refused.
    pub max_queued: usize,
    /// Ended jobs kept; the oldest go first.
    pub keep_finished: usize,
    /// How long an ended job is kept.
    pub keep_for: Duration,
    /// Starts of a job that may end in a crash of the server before it counts as failed.
    pub max_attempts: u32,
}

impl Default for JobsOptions {
    fn default() -> Self {
        Self {
            max_queued: 64,
            keep_finished: 1000,
            keep_for: Duration::from_secs(30 * 24 * 3600),
            max_attempts: 5,
        }
    }
}

/// Which jobs of a list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those that stand here.
    pub stage: Option<Stage>,
    /// Only those of this kind.
    pub kind: Option<String>,
}

impl JobFilter {
    fn admits(&self, record: &JobRecord) -> bool {
        self.stage.is_none_or(|stage| stage == record.state.stage())
            && self.kind.as_ref().is_none_or(|kind| *kind == record.kind)
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPage {
    /// The newest first.
    pub jobs: Vec<JobRecord>,
    /// What to ask for the next page with; `None` on the last.
    pub next: Option<String>,
}

/// What is kept in memory of a job that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) journal: Arc<Journal>,
    /// Tells the handler to end, for whichever reason.
    pub(super) end: AtomicBool,
    pub(super) meter: Mutex<Meter>,
    pub(super) written: Mutex<Instant>,
}

impl Live {
    fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            journal: Arc::new(journal),
            end: AtomicBool::new(false),
            meter: Mutex::new(Meter::default()),
            written: Mutex::new(Instant::now()),
        })
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: JobRecord,
    pub(super) live: Option<Arc<Live>>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) jobs: BTreeMap<JobId, Entry>,
    pub(super) stopping: bool,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    options: JobsOptions,
    /// Never held while the store writes.
    pub(super) table: Mutex<Table>,
    /// Held over every change and its commit, so that what is stored is what was decided last.
    writing: Mutex<()>,
    pub(super) changed: Condvar,
}

/// All jobs of a store. Clones share them.
#[derive(Debug, Clone)]
pub struct Jobs(pub(super) Arc<Inner>);

impl Jobs {
    /// Reads the jobs of a store. Those that ran when the process ended are queued again, to go on from their
    /// last durable step; one that has been through too many crashes has failed.
    ///
    /// # Errors
    /// [`JobError::Inconsistent`] or the store's.
    pub fn open(store: Store, options: JobsOptions) -> Result<Self, JobError> {
        let mut jobs = BTreeMap::new();
        let mut interrupted = Vec::new();
        for record in store.scan(&[key::JOB]) {
            let (at, text) = record?;
            let record: JobRecord =
                serde_json::from_slice(&text).map_err(|e| JobError::inconsistent(&at, e))?;
            if Key::decode(&at) != Some(Key::Job(record.id)) {
                return Err(JobError::inconsistent(&at, "it is another job's"));
            }
            let running = record.state.stage() == Stage::Running;
            let live = match record.state.has_ended() {
                true => None,
                false => Some(Live::new(read_journal(&store, record.id, running)?)),
            };
            if running {
                interrupted.push(record.id);
            }
            jobs.insert(record.id, Entry { record, live });
        }
        let table = Mutex::new(Table { jobs, stopping: false });
        let (writing, changed) = (Mutex::default(), Condvar::new());
        let opened = Self(Arc::new(Inner { store, options, table, writing, changed }));
        for id in interrupted {
            opened.change(id, |record| {
                let JobState::Running { started_at_ms, cancelling, .. } = record.state else {
                    return Ok(None);
                };
                let (started_at_ms, finished_at_ms) = (Some(started_at_ms), now_ms());
                let attempts = record.attempts;
                record.state = if cancelling {
                    JobState::Cancelled { started_at_ms, finished_at_ms }
                } else if attempts >= options.max_attempts {
                    let message = format!("the server ended {attempts} times while it ran");
                    let failure = JobFailure::new("crashed", message);
                    JobState::Failed { started_at_ms, finished_at_ms, failure }
                } else {
                    JobState::Queued { resumed: true }
                };
                Ok(Some(Batch::default()))
            })?;
        }
        opened.sweep()?;
        Ok(opened)
    }

    /// Puts a job behind those that wait; durable when this returns.
    ///
    /// # Errors
    /// [`JobError::QueueFull`], [`JobError::TooLong`] or the store's.
    pub fn enqueue(&self, kind: &str, input: Value) -> Result<JobRecord, JobError> {
        check_data("input", &input)?;
        let _writing = self.0.writing.lock();
        self.check_room()?;
        let record = JobRecord {
            id: JobId::new(),
            kind: kind.to_owned(),
            input,
            state: JobState::Queued { resumed: false },
            attempts: 0,
            created_at_ms: now_ms(),
            progress: None,
        };
        let live = Live::new(Journal::new());
        self.store_and_tell(&record, live, Batch::default())?;
        Ok(record)
    }

    /// A page of the jobs, the newest first.
    ///
    /// # Errors
    /// [`JobError::PageToken`].
    pub fn list(
        &self,
        filter: &JobFilter,
        token: Option<&str>,
        limit: usize,
    ) -> Result<JobPage, JobError> {
        let before = match token {
            None => Bound::Unbounded,
            Some(token) => {
                let bytes = URL_SAFE_NO_PAD.decode(token).ok();
                let id = bytes.and_then(|bytes| JobId::from_bytes(bytes.try_into().ok()?));
                Bound::Excluded(id.ok_or(JobError::PageToken)?)
            }
        };
        let table = self.0.table.lock();
        let older = table.jobs.range((Bound::Unbounded, before)).rev();
        // One more than asked for tells whether there is a next page.
        let mut jobs: Vec<JobRecord> = older
            .map(|(_, entry)| &entry.record)
            .filter(|record| filter.admits(record))
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let last = jobs.last().filter(|_| more);
        let next = last.map(|last| URL_SAFE_NO_PAD.encode(last.id.to_bytes()));
        Ok(JobPage { jobs, next })
    }

    /// Whether a job of this kind waits or runs.
    #[must_use]
    pub fn is_under_way(&self, kind: &str) -> bool {
        let table = self.0.table.lock();
        let mut records = table.jobs.values().map(|entry| &entry.record);
        records.any(|record| record.kind == kind && !record.state.has_ended())
    }

    /// How many jobs of each kind stand where.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(String, Stage), usize> {
        let mut counts = BTreeMap::new();
        for entry in self.0.table.lock().jobs.values() {
            let of = (entry.record.kind.clone(), entry.record.state.stage());
            *counts.entry(of).or_default() += 1;
        }
        counts
    }

    /// Whether a job waits or runs whose input is such.
    #[must_use]
    pub fn any_under_way(&self, is_such: impl Fn(&Value) -> bool) -> bool {
        let table = self.0.table.lock();
        let mut records = table.jobs.values().map(|entry| &entry.record);
        records.any(|record| is_such(&record.input) && !record.state.has_ended())
    }

    /// One job.
    ///
    /// # Errors
    /// [`JobError::NotFound`].
    pub fn read(&self, id: JobId) -> Result<JobRecord, JobError> {
        let table = self.0.table.lock();
        table.jobs.get(&id).map(|entry| entry.record.clone()).ok_or(JobError::NotFound(id))
    }

    /// Ends a job that waits, or asks one that runs to end. Asking again changes nothing.
    ///
    /// # Errors
    /// [`JobError::NotFound`], [`JobError::NotCancellable`] or the store's.
    pub fn cancel(&self, id: JobId) -> Result<JobRecord, JobError> {
        let record = self.change(id, |record| {
            match &mut record.state {
                JobState::Queued { .. } => {
                    let finished_at_ms = now_ms();
                    record.state = JobState::Cancelled { started_at_ms: None, finished_at_ms };
                }
                JobState::Running { cancelling: true, .. } => return Ok(None),
                JobState::Running { cancelling, .. } => *cancelling = true,
                ended @ (JobState::Succeeded { .. }
                | JobState::Failed { .. }
                | JobState::Cancelled { .. }) => {
                    return Err(JobError::NotCancellable { job: id, stage: ended.stage() });
                }
            }
            Ok(Some(Batch::default()))
        })?;
        if let Some(Entry { live: Some(live), .. }) = self.0.table.lock().jobs.get(&id) {
            live.end.store(true, Ordering::Relaxed);
        }
        Ok(record)
    }

    /// Queues a job again that failed or was cancelled. It goes on from its last durable step, if it had one, and as
    /// the oldest that waits it comes before jobs that came after it.
    ///
    /// # Errors
    /// [`JobError::NotFound`], [`JobError::NotRetryable`], [`JobError::QueueFull`] or the store's.
    pub fn retry(&self, id: JobId) -> Result<JobRecord, JobError> {
        self.change(id, |record| {
            match &record.state {
                JobState::Failed { .. } | JobState::Cancelled { .. } => {}
                other @ (JobState::Queued { .. }
                | JobState::Running { .. }
                | JobState::Succeeded { .. }) => {
                    return Err(JobError::NotRetryable { job: id, stage: other.stage() });
                }
            }
            self.check_room()?;
            let resumed = self.0.store.get(&Key::Checkpoint(id).encode())?.is_some();
            record.state = JobState::Queued { resumed };
            (record.attempts, record.progress) = (0, None);
            Ok(Some(Batch::default()))
        })
    }

    /// A job's events after a number; 0 for all that are kept.
    ///
    /// # Errors
    /// [`JobError::NotFound`] or the store's.
    pub fn subscribe(&self, id: JobId, after: u64) -> Result<Subscription, JobError> {
        let live = {
            let table = self.0.table.lock();
            table.jobs.get(&id).ok_or(JobError::NotFound(id))?.live.clone()
        };
        if let Some(live) = live {
            return Ok(Subscription::new(Arc::clone(&live.journal), after));
        }
        let journal = read_journal(&self.0.store, id, false)?;
        journal.end();
        Ok(Subscription::new(Arc::new(journal), after))
    }

    /// Jobs that wait and jobs that run.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let table = self.0.table.lock();
        let count =
            |stage| table.jobs.values().filter(|entry| entry.record.state.stage() == stage).count();
        (count(Stage::Queued), count(Stage::Running))
    }

    /// Removes ended jobs that are too many or too old, and says how many.
    ///
    /// # Errors
    /// The store's; nothing is removed then.
    pub fn sweep(&self) -> Result<usize, JobError> {
        let JobsOptions { keep_finished, keep_for, .. } = self.0.options;
        let keep_for = u64::try_from(keep_for.as_millis()).unwrap_or(u64::MAX);
        let _writing = self.0.writing.lock();
        let mut ended: Vec<(u64, JobId)> = {
            let table = self.0.table.lock();
            let ended = table.jobs.values().map(|entry| &entry.record);
            ended.filter_map(|job| Some((job.state.finished_at_ms()?, job.id))).collect()
        };
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(keep_finished);
        let oldest_kept = now_ms().saturating_sub(keep_for);
        let too_old = ended.partition_point(|(finished_at, _)| *finished_at < oldest_kept);
        ended.truncate(too_many.max(too_old));
        let mut batch = Batch::default();
        for (_, id) in &ended {
            for key in [Key::Job(*id), Key::Checkpoint(*id), Key::Journal(*id)] {
                batch.remove(key.encode());
            }
        }
        self.0.store.commit(batch)?;
        let mut table = self.0.table.lock();
        ended.iter().for_each(|(_, id)| drop(table.jobs.remove(id)));
        Ok(ended.len())
    }

    /// Stores a job as it is, its events, and what else is in the batch.
    pub(super) fn write(&self, id: JobId, live: &Live, mut batch: Batch) -> Result<(), JobError> {
        let _writing = self.0.writing.lock();
        let record = self.read(id)?;
        let next = put(&mut batch, &record, &live.journal)?;
        self.0.store.commit(batch)?;
        live.journal.written(next);
        *live.written.lock() = Instant::now();
        Ok(())
    }

    /// Changes a job: `decide` makes the new record of the old one and says what else is to be stored with it, or
    /// that nothing is to happen.
    pub(super) fn change(
        &self,
        id: JobId,
        decide: impl FnOnce(&mut JobRecord) -> Result<Option<Batch>, JobError>,
    ) -> Result<JobRecord, JobError> {
        let _writing = self.0.writing.lock();
        let (mut record, live) = {
            let table = self.0.table.lock();
            let entry = table.jobs.get(&id).ok_or(JobError::NotFound(id))?;
            (entry.record.clone(), entry.live.clone())
        };
        let Some(batch) = decide(&mut record)? else { return Ok(record) };
        let live = match live {
            Some(live) => live,
            None => Live::new(read_journal(&self.0.store, id, false)?),
        };
        self.store_and_tell(&record, live, batch)?;
        Ok(record)
    }

    /// Stores a state, then tells it. `writing` is held.
    fn store_and_tell(
        &self,
        record: &JobRecord,
        live: Arc<Live>,
        mut batch: Batch,
    ) -> Result<(), JobError> {
        live.journal.hold(EventKind::of(record));
        let stored = put(&mut batch, record, &live.journal)
            .and_then(|next| self.0.store.commit(batch).map(|()| next).map_err(JobError::from));
        let next = stored.inspect_err(|_| live.journal.take_back())?;
        live.journal.written(next);
        let ended = record.state.has_ended();
        let journal = Arc::clone(&live.journal);
        let entry = Entry { record: record.clone(), live: (!ended).then_some(live) };
        let mut table = self.0.table.lock();
        table.jobs.insert(record.id, entry);
        self.0.changed.notify_all();
        drop(table);
        journal.tell(ended);
        Ok(())
    }

    fn check_room(&self) -> Result<(), JobError> {
        let (waiting, _) = self.depth();
        if waiting < self.0.options.max_queued {
            return Ok(());
        }
        Err(JobError::QueueFull { waiting })
    }
}

fn read_journal(store: &Store, id: JobId, crashed: bool) -> Result<Journal, JobError> {
    let at = Key::Journal(id).encode();
    match store.get(&at)? {
        Some(text) => Journal::read(&at, &text, crashed),
        None => Ok(Journal::new()),
    }
}

pub(super) fn check_data(what: &'static str, data: &Value) -> Result<Vec<u8>, JobError> {
    let text = data.to_string().into_bytes();
    let got = text.len();
    if got <= MAX_DATA { Ok(text) } else { Err(JobError::TooLong { what, got }) }
}

/// Adds a job's record and events to a batch; gives what [`Journal::written`] wants.
fn put(batch: &mut Batch, record: &JobRecord, journal: &Journal) -> Result<u64, JobError> {
    let at = Key::Job(record.id).encode();
    let text = serde_json::to_vec(record).map_err(|error| JobError::inconsistent(&at, error))?;
    batch.put(at, text, Seal::Store);
    let at = Key::Journal(record.id).encode();
    let (text, next) = journal.snapshot(&at)?;
    batch.put(at, text, Seal::Store);
    Ok(next)
}
