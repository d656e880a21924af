//! What is stored of a deployment, beside the galleries' own records and in one batch with them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::now_ms;
use crate::gallery::{Galleries, TemplateSpace};
use crate::jobs::JobId;

use super::serving::Serving;
use crate::service::error::ServiceError;
use crate::service::options::ModelChoice;

/// Entries of the history that are kept.
const HISTORY: usize = 50;

/// What a model is opened from again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::service) enum ModelRef {
    /// The one inside the binary.
    Nano,
    /// One of the registry.
    Registered(String),
    /// A folder that the server was started with.
    Directory(PathBuf),
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nano => f.write_str("nano"),
            Self::Registered(name) => f.write_str(name),
            Self::Directory(path) => {
                write!(f, "{}", path.file_name().unwrap_or_default().to_string_lossy())
            }
        }
    }
}

impl From<&ModelChoice> for ModelRef {
    fn from(choice: &ModelChoice) -> Self {
        match choice {
            ModelChoice::Nano => Self::Nano,
            ModelChoice::Registered { name, .. } => Self::Registered(name.clone()),
            ModelChoice::Directory(path) => {
                Self::Directory(path.canonicalize().unwrap_or_else(|_| path.clone()))
            }
        }
    }
}

/// A model and its space, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::service) struct ServingDoc {
    pub(super) model: ModelRef,
    pub(super) space: TemplateSpace,
}

impl From<&Serving> for ServingDoc {
    fn from(serving: &Serving) -> Self {
        Self { model: serving.model.clone(), space: serving.space() }
    }
}

/// A deployment under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FillingDoc {
    pub(super) serving: ServingDoc,
    /// Whose work it is.
    pub(super) job: JobId,
}

/// One step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) at_ms: u64,
    pub(super) what: What,
    /// The model that served.
    pub(super) from: String,
    /// The model that serves since, or was to.
    pub(super) to: String,
    /// The generation that serves since.
    pub(super) generation: u64,
    /// Why the gate was passed over, in the words of whoever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) override_reason: Option<String>,
    /// Whose key asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
}

/// Who asked for a step, and why the gate was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) by: Option<String>,
    pub(super) override_reason: Option<String>,
}

impl Asked {
    pub(super) fn by(by: Option<String>) -> Self {
        Self { by, override_reason: None }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Began,
    Promoted,
    RolledBack,
    Retired,
    Abandoned,
}

impl What {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Retired => "retired",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Everything that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) live: ServingDoc,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<ServingDoc>,
    /// When the previous one is given up, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) soak_until_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filling: Option<FillingDoc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) kept: Vec<ServingDoc>,
    /// The next deployment's generation.
    pub(super) next: u64,
    /// The job of the last promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promoted_by: Option<JobId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) history: Vec<Entry>,
}

impl Record {
    /// Of a store that has seen no deployment.
    pub(super) fn first(live: &Serving) -> Self {
        Self {
            format: 1,
            live: live.into(),
            previous: None,
            soak_until_ms: None,
            filling: None,
            kept: Vec::new(),
            next: live.generation.0 + 1,
            promoted_by: None,
            history: Vec::new(),
        }
    }

    pub(super) fn read(galleries: &Galleries) -> Result<Option<Self>, ServiceError> {
        let Some(text) = galleries.deployment_record()? else { return Ok(None) };
        let damaged = |detail: String| {
            ServiceError::Damaged(format!(
                "the record of the deployment is inconsistent: {detail}; put back a backup with `handclip gallery restore`"
            ))
        };
        let record: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        match record.format {
            1 => Ok(Some(record)),
            other => Err(damaged(format!("it is of format {other}, this program writes 1"))),
        }
    }

    pub(super) fn note(&mut self, what: What, from: &str, to: &str, asked: Asked) {
        let generation = self.live.space.generation.0;
        let (from, to) = (from.to_owned(), to.to_owned());
        let at_ms = now_ms();
        let Asked { by, override_reason } = asked;
        self.history.push(Entry { at_ms, what, from, to, generation, override_reason, by });
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ServiceError> {
        serde_json::to_vec(self).map_err(|error| ServiceError::Internal(error.to_string()))
    }
}
