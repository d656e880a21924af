use crate::storage::StorageError;

use crate::domain::hex;

use super::job::{JobId, MAX_DATA, Stage};

/// Why the queue cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JobError {
    /// No such job, or one so old that it was removed.
    #[error("there is no job `{0}`")]
    NotFound(JobId),
    /// The job has ended.
    #[error("job `{job}` cannot be cancelled: it is {stage}")]
    NotCancellable {
        /// The job.
        job: JobId,
        /// Where it stands.
        stage: Stage,
    },
    /// The job has not failed and was not cancelled.
    #[error("job `{job}` cannot be retried: it is {stage}")]
    NotRetryable {
        /// The job.
        job: JobId,
        /// Where it stands.
        stage: Stage,
    },
    /// As many jobs wait as may.
    #[error("{waiting} jobs are waiting, which is as many as may")]
    QueueFull {
        /// Jobs that wait.
        waiting: usize,
    },
    /// Data that is too much for a record.
    #[error("the {what} of a job takes {got} bytes, at most {MAX_DATA} are kept")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Bytes given.
        got: usize,
    },
    /// A page token that no page gave.
    #[error("this page token is not one that a page gave")]
    PageToken,
    /// A thread of the runner could not be started.
    #[error("the threads for jobs could not be started: {0}")]
    Threads(String),
    /// A record that opened but makes no sense.
    #[error(
        "job record {key} is inconsistent: {detail}; put back a backup with `handclip gallery restore`"
    )]
    Inconsistent {
        /// The record's key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store's answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl JobError {
    pub(super) fn inconsistent(key: &[u8], detail: impl ToString) -> Self {
        let key = hex(key);
        Self::Inconsistent { key, detail: detail.to_string() }
    }
}
