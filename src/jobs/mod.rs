//! Work that outlives a request. Knows how to run a job, not what any job does.
//!
//! A job is a kind, an input and a state. Its record is durable before anybody hears of it; the thread of a slot takes
//! the oldest one that waits, and a handler that was registered for the kind does the work. Kept apart on purpose: the
//! queue can be read and changed while nothing runs, and the runner holds nothing that a crash could lose.
//!
//! Invariant: a state is stored before it is told. Invariant: a job ends once. Invariant: the number of an event is
//! never given to another event of the same job, over any crash. Job data is plain: the handlers put no image, no
//! embedding and no enrolled person's id into it, so that an erasure has nothing to look for here.

mod error;
mod events;
mod job;
mod key;
mod progress;
mod queue;
mod runner;
mod running;

pub use error::JobError;
pub use events::{Event, EventKind, Subscription};
pub use job::{JobFailure, JobId, JobIdError, JobRecord, JobState, MAX_DATA, Stage};
pub use progress::Progress;
pub use queue::{JobFilter, JobPage, Jobs, JobsOptions};
pub use runner::{Handlers, JobContext, Runner};
