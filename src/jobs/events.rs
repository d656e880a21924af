//! What a job tells while it runs: numbered, bounded, and read again from any number on.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use std::sync::Arc;

use crate::domain::now_ms;

use super::error::JobError;
use super::job::{JobFailure, JobRecord, JobState, Stage};
use super::progress::Progress;

/// Bytes of events kept for a job, as JSON; the oldest go first.
const MAX_BYTES: usize = 16 * 1024;
/// Longest log line, in characters.
const MAX_LINE: usize = 500;
/// Numbers that may be told and not yet stored. After a crash as many are skipped, so that none is given twice.
const MOST_UNWRITTEN: u64 = 256;

/// Something that a job told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, rising within the job; some are left out.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What a job told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// It is in another state.
    State {
        /// Where it stands now.
        stage: Stage,
        /// How often it was started.
        attempts: u32,
        /// Whether it goes on from its last durable step.
        resumed: bool,
        /// Whether somebody asked for it to end.
        cancelling: bool,
        /// Why it failed.
        failure: Option<JobFailure>,
    },
    /// How far it is. An older one is dropped for a newer one.
    Progress(Progress),
    /// A line of its log.
    Log {
        /// The line.
        line: String,
    },
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Progress(_) => "progress",
            Self::Log { .. } => "log",
        }
    }

    pub(super) fn of(record: &JobRecord) -> Self {
        let (resumed, cancelling, failure) = match &record.state {
            JobState::Queued { resumed } => (*resumed, false, None),
            JobState::Running { resumed, cancelling, .. } => (*resumed, *cancelling, None),
            JobState::Failed { failure, .. } => (false, false, Some(failure.clone())),
            JobState::Succeeded { .. } | JobState::Cancelled { .. } => (false, false, None),
        };
        let stage = record.state.stage();
        Self::State { stage, attempts: record.attempts, resumed, cancelling, failure }
    }

    pub(super) fn line(text: &str) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Self::Log { line: text.chars().take(MAX_LINE).map(plain).collect() }
    }
}

/// A journal as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    next: u64,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    next: u64,
    /// The first number that is not stored.
    unwritten_from: u64,
    /// The state that is being stored: it, and what came after it, is not told yet.
    held: Option<u64>,
    ended: bool,
}

impl Ring {
    fn push(&mut self, kind: EventKind) -> u64 {
        if matches!(kind, EventKind::Progress(_)) {
            self.drop_where(|event| matches!(event.kind, EventKind::Progress(_)));
        }
        let id = self.next;
        self.next += 1;
        let event = Event { id, at_ms: now_ms(), kind };
        let bytes = serde_json::to_vec(&event).map_or(0, |text| text.len() + 1);
        self.bytes += bytes;
        self.events.push_back((event, bytes));
        while self.bytes > MAX_BYTES && self.events.len() > 1 {
            self.bytes -= self.events.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        id
    }

    fn drop_where(&mut self, unwanted: impl Fn(&Event) -> bool) {
        self.events.retain(|(event, _)| !unwanted(event));
        self.bytes = self.events.iter().map(|(_, bytes)| bytes).sum();
    }
}

/// The events of one job. Written by whoever runs or changes it, read by any number of subscribers.
#[derive(Debug)]
pub(super) struct Journal {
    ring: Mutex<Ring>,
    changes: watch::Sender<()>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self::with(VecDeque::new(), 1)
    }

    fn with(events: VecDeque<(Event, usize)>, next: u64) -> Self {
        let bytes = events.iter().map(|(_, bytes)| bytes).sum();
        let ring = Ring { events, bytes, next, unwritten_from: next, held: None, ended: false };
        Self { ring: Mutex::new(ring), changes: watch::Sender::new(()) }
    }

    /// `crashed`: numbers may have been told that are not stored.
    pub(super) fn read(key: &[u8], text: &[u8], crashed: bool) -> Result<Self, JobError> {
        let Stored { next, events } =
            serde_json::from_slice(text).map_err(|error| JobError::inconsistent(key, error))?;
        let sized = events.into_iter().map(|event| {
            let bytes = serde_json::to_vec(&event).map_or(0, |text| text.len() + 1);
            (event, bytes)
        });
        Ok(Self::with(sized.collect(), if crashed { next + MOST_UNWRITTEN } else { next }))
    }

    /// Notes progress or a line and tells it. `false` when too much is not stored yet: write, then try again.
    pub(super) fn note(&self, kind: EventKind) -> bool {
        {
            let mut ring = self.ring.lock();
            if ring.next - ring.unwritten_from >= MOST_UNWRITTEN {
                return false;
            }
            ring.push(kind);
        }
        self.changes.send_replace(());
        true
    }

    /// Notes a state that is about to be stored. It is told by [`Self::tell`]; [`Self::take_back`] forgets it.
    pub(super) fn hold(&self, kind: EventKind) {
        let mut ring = self.ring.lock();
        let id = ring.push(kind);
        ring.held = Some(id);
    }

    pub(super) fn tell(&self, ended: bool) {
        {
            let mut ring = self.ring.lock();
            ring.held = None;
            ring.ended = ended;
        }
        self.changes.send_replace(());
    }

    pub(super) fn take_back(&self) {
        let mut ring = self.ring.lock();
        if let Some(id) = ring.held.take() {
            ring.drop_where(|event| event.id == id);
        }
    }

    /// Says that nothing more will come.
    pub(super) fn end(&self) {
        self.ring.lock().ended = true;
    }

    /// What to store, and the number to give to [`Self::written`] once it is.
    pub(super) fn snapshot(&self, key: &[u8]) -> Result<(Vec<u8>, u64), JobError> {
        let ring = self.ring.lock();
        let events = ring.events.iter().map(|(event, _)| event.clone()).collect();
        let stored = Stored { next: ring.next, events };
        let text =
            serde_json::to_vec(&stored).map_err(|error| JobError::inconsistent(key, error))?;
        Ok((text, ring.next))
    }

    pub(super) fn written(&self, next: u64) {
        self.ring.lock().unwritten_from = next;
    }

    /// Events after a number that may be told, and whether more can come.
    fn after(&self, id: u64) -> (Vec<Event>, bool) {
        let ring = self.ring.lock();
        let told = ring.held.unwrap_or(u64::MAX);
        let wanted = ring.events.iter().map(|(event, _)| event);
        let events = wanted.filter(|event| event.id > id && event.id < told).cloned().collect();
        (events, !ring.ended)
    }
}

/// Reads a job's events from a number on, until the job ends. Whoever reads slowly misses the oldest, and holds up nobody.
#[derive(Debug)]
pub struct Subscription {
    journal: Arc<Journal>,
    after: u64,
    changes: watch::Receiver<()>,
}

impl Subscription {
    pub(super) fn new(journal: Arc<Journal>, after: u64) -> Self {
        let changes = journal.changes.subscribe();
        Self { journal, after, changes }
    }

    /// The next events, as soon as there are any; `None` once the job has ended and all were read.
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            self.changes.mark_unchanged();
            let (events, more) = self.journal.after(self.after);
            if let Some(last) = events.last() {
                self.after = last.id;
                return Some(events);
            }
            // The sender lies in the journal, which is held here: it cannot be gone.
            if !more || self.changes.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Whether the job has ended and nothing is left to read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let (events, more) = self.journal.after(self.after);
        events.is_empty() && !more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> EventKind {
        EventKind::line(text)
    }

    fn numbers(journal: &Journal, after: u64) -> Vec<u64> {
        journal.after(after).0.iter().map(|event| event.id).collect()
    }

    #[test]
    fn events_are_kept_within_their_bound_and_the_oldest_go_first() {
        let journal = Journal::new();
        for round in 0..2000 {
            if !journal.note(line(&format!("{round} {}", "x".repeat(round % 900)))) {
                let (_, next) = journal.snapshot(&[]).unwrap();
                journal.written(next);
            }
        }
        let kept = numbers(&journal, 0);
        assert!(kept.len() > 20 && kept.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let (text, _) = journal.snapshot(&[]).unwrap();
        assert!(text.len() < MAX_BYTES + 64, "{}", text.len());
    }

    #[test]
    fn a_number_is_never_given_twice_over_a_crash() {
        let journal = Journal::new();
        journal.note(line("stored"));
        let (text, next) = journal.snapshot(&[]).unwrap();
        journal.written(next);
        while journal.note(line("told and lost")) {}
        let told = *numbers(&journal, 0).last().unwrap();
        let again = Journal::read(&[], &text, true).unwrap();
        again.note(line("after the crash"));
        assert_eq!(numbers(&again, 0), [1, told + 1]);
        let stopped = Journal::read(&[], &text, false).unwrap();
        stopped.note(line("after a stop"));
        assert_eq!(numbers(&stopped, 0), [1, 2]);
    }

    #[test]
    fn a_state_is_told_once_it_is_stored_and_nothing_overtakes_it() {
        let journal = Journal::new();
        journal.note(line("before"));
        journal.hold(line("a state"));
        journal.note(line("meanwhile"));
        assert_eq!(numbers(&journal, 0), [1]);
        journal.tell(false);
        assert_eq!(numbers(&journal, 0), [1, 2, 3]);
        journal.hold(line("not stored"));
        journal.take_back();
        journal.note(line("after"));
        assert_eq!(numbers(&journal, 0), [1, 2, 3, 5]);
    }

    #[test]
    fn only_the_latest_progress_is_kept() {
        let journal = Journal::new();
        let progress = |done| Progress { done, total: 9, rate: None, eta_s: None };
        assert!((0..5).all(|done| journal.note(EventKind::Progress(progress(done)))));
        let (events, _) = journal.after(0);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].id, &events[0].kind), (5, &EventKind::Progress(progress(4))));
    }

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let progress = Progress { done: 1, total: 3, rate: Some(0.5), eta_s: Some(4.0) };
        let failure = Some(JobFailure::new("panicked", "oh"));
        let stage = Stage::Failed;
        let state =
            EventKind::State { stage, attempts: 2, resumed: true, cancelling: false, failure };
        for kind in [line("a\nline"), EventKind::Progress(progress), state] {
            let event = Event { id: 7, at_ms: 8, kind };
            let text = serde_json::to_string(&event).unwrap();
            assert!(!text.contains('\n') && text.contains(event.kind.name()), "{text}");
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        }
    }
}
