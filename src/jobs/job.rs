use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::{Uuid, Version};

use super::progress::Progress;

/// Most bytes of a job's input, of its output and of a checkpoint, each as JSON. Record and events stay far below
/// what the store takes in one value.
pub const MAX_DATA: usize = 8 * 1024;
/// Longest message of a failure, in characters.
const MAX_MESSAGE: usize = 1000;

/// Names a job: a UUID of version 7 as text, so that ids lie in the order in which jobs came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

/// Why a text is not a job's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a job id: one is a UUID of version 7, in lower case and with hyphens")]
pub struct JobIdError {
    /// The refused text, cut to a length that is safe to print.
    pub given: String,
}

impl JobId {
    pub(super) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// `None` for bytes that are no UUID of version 7.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let uuid = Uuid::from_bytes(bytes);
        (uuid.get_version() == Some(Version::SortRand)).then_some(Self(uuid))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    /// Takes the one way in which an id is written, so that two texts never name one job.
    fn from_str(text: &str) -> Result<Self, JobIdError> {
        let parsed = Uuid::try_parse(text).ok().and_then(|uuid| Self::from_bytes(*uuid.as_bytes()));
        parsed.filter(|id| id.to_string() == text).ok_or_else(|| JobIdError {
            given: text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect(),
        })
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;
    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

/// Why a job failed, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// Stable; for programs.
    pub code: String,
    /// What happened. Names no enrolled person.
    pub message: String,
}

impl JobFailure {
    /// A failure with a code of the handler's choice.
    #[must_use]
    pub fn new(code: &str, message: impl ToString) -> Self {
        let message: String = message.to_string().chars().take(MAX_MESSAGE).collect();
        Self { code: code.to_owned(), message }
    }

    /// What a handler gives up with once [`cancelled`](super::JobContext::cancelled) is true.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new("interrupted", "the job was told to end")
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Where a job stands. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn.
    Queued {
        /// Whether it ran before and goes on from its last durable step.
        resumed: bool,
    },
    /// Runs now.
    Running {
        /// Since when.
        started_at_ms: u64,
        /// Whether it goes on from its last durable step.
        resumed: bool,
        /// Whether somebody asked for it to end.
        cancelling: bool,
    },
    /// Did what it was to do.
    Succeeded {
        /// When its last attempt began.
        started_at_ms: u64,
        /// When it ended.
        finished_at_ms: u64,
        /// What came out.
        output: Value,
    },
    /// Did not.
    Failed {
        /// When its last attempt began.
        started_at_ms: Option<u64>,
        /// When it ended.
        finished_at_ms: u64,
        /// Why.
        failure: JobFailure,
    },
    /// Ended because somebody asked for it.
    Cancelled {
        /// When its last attempt began.
        started_at_ms: Option<u64>,
        /// When it ended.
        finished_at_ms: u64,
    },
}

/// A state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waits.
    Queued,
    /// Runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Was told to end.
    Cancelled,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JobState {
    /// The state without its data.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Queued { .. } => Stage::Queued,
            Self::Running { .. } => Stage::Running,
            Self::Succeeded { .. } => Stage::Succeeded,
            Self::Failed { .. } => Stage::Failed,
            Self::Cancelled { .. } => Stage::Cancelled,
        }
    }

    /// When it ended, if it has.
    #[must_use]
    pub fn finished_at_ms(&self) -> Option<u64> {
        match self {
            Self::Queued { .. } | Self::Running { .. } => None,
            Self::Succeeded { finished_at_ms, .. }
            | Self::Failed { finished_at_ms, .. }
            | Self::Cancelled { finished_at_ms, .. } => Some(*finished_at_ms),
        }
    }

    /// When the last attempt began, if one has.
    #[must_use]
    pub fn started_at_ms(&self) -> Option<u64> {
        match self {
            Self::Queued { .. } => None,
            Self::Running { started_at_ms, .. } | Self::Succeeded { started_at_ms, .. } => {
                Some(*started_at_ms)
            }
            Self::Failed { started_at_ms, .. } | Self::Cancelled { started_at_ms, .. } => {
                *started_at_ms
            }
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.finished_at_ms().is_some()
    }
}

/// A job as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its name.
    pub id: JobId,
    /// What sort of work.
    pub kind: String,
    /// What the handler is given.
    pub input: Value,
    /// Where it stands.
    pub state: JobState,
    /// How often it was started; a start that a stop of the server cut short does not count.
    pub attempts: u32,
    /// When it came, milliseconds since 1970.
    pub created_at_ms: u64,
    /// How far it is.
    pub progress: Option<Progress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_one_way() {
        let id = JobId::new();
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        let version_4 = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let (upper, bare) = (text.to_uppercase(), text.replace('-', ""));
        for bad in ["", "x", "../etc", version_4, &upper, &bare, &format!("{{{text}}}")] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<JobId>("\"x\"").is_err());
    }

    #[test]
    fn ids_lie_in_the_order_in_which_they_were_made() {
        let ids: Vec<JobId> = (0..1000).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.is_sorted_by_key(|id| id.to_bytes()));
    }
}
