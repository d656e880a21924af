//! Jobs.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::jobs::{JobFailure, JobId, JobRecord, JobState, Progress, Stage};

/// Work that outlives a request.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JobView {
    /// Its name.
    #[schema(value_type = String, example = "01980f3e-5b5c-7d2e-9a43-0e6f6b1c2d3e")]
    pub job: JobId,
    /// What sort of work: `audit_gallery`, `compact_gallery`, `deploy`, `evaluate`, `train`.
    pub kind: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(value_type = String, example = "running")]
    pub state: Stage,
    /// What it was asked to work on.
    pub input: Value,
    /// What came out, once it has succeeded.
    pub output: Option<Value>,
    /// Why it failed, if it has.
    pub error: Option<JobErrorView>,
    /// How often it was started; a start that a stop of the server cut short does not count.
    pub attempts: u32,
    /// Whether it goes on from the last step that an earlier attempt made durable.
    pub resumed: bool,
    /// Whether it runs and somebody asked for it to end.
    pub cancelling: bool,
    /// How far it is.
    pub progress: Option<ProgressView>,
    /// When it came.
    pub created_at_ms: u64,
    /// When its last attempt began.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub finished_at_ms: Option<u64>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobErrorView {
    /// Stable; for programs. `panicked`, `crashed`, or one of the kind's own.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ProgressView {
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// Steps a second, over the last half minute.
    pub rate: Option<f64>,
    /// Seconds until it is done at that rate.
    pub eta_s: Option<f64>,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JobPageView {
    /// The newest first.
    pub jobs: Vec<JobView>,
    /// Asks for the next page; null on the last one.
    pub next_page_token: Option<String>,
}

impl From<Progress> for ProgressView {
    fn from(progress: Progress) -> Self {
        let Progress { done, total, rate, eta_s } = progress;
        Self { done, total, rate, eta_s }
    }
}

impl From<JobRecord> for JobView {
    fn from(record: JobRecord) -> Self {
        let JobRecord { id, kind, input, state, attempts, created_at_ms, progress } = record;
        let (stage, started_at_ms, finished_at_ms) =
            (state.stage(), state.started_at_ms(), state.finished_at_ms());
        let (mut output, mut error) = (None, None);
        let (mut resumed, mut cancelling) = (false, false);
        match state {
            JobState::Queued { resumed: again } => resumed = again,
            JobState::Running { resumed: again, cancelling: asked, .. } => {
                (resumed, cancelling) = (again, asked);
            }
            JobState::Succeeded { output: value, .. } => output = Some(value),
            JobState::Failed { failure: JobFailure { code, message }, .. } => {
                error = Some(JobErrorView { code, message });
            }
            JobState::Cancelled { .. } => {}
        }
        Self {
            job: id,
            kind,
            state: stage,
            input,
            output,
            error,
            attempts,
            resumed,
            cancelling,
            progress: progress.map(Into::into),
            created_at_ms,
            started_at_ms,
            finished_at_ms,
        }
    }
}
