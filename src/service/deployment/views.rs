use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Fingerprint, Generation};

use super::record::{Record, ServingDoc};
use super::serving::Deployment;
use crate::service::views::ModelView;

/// Which models serve, and what was done.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeploymentView {
    /// The model that serves.
    pub live: ModelView,
    /// The model before it, while there is a way back.
    pub previous: Option<PreviousView>,
    /// The model that is being brought.
    pub challenger: Option<ChallengerView>,
    /// Models of galleries that stayed with theirs.
    pub kept: Vec<ModelView>,
    /// The last steps, the oldest first.
    pub history: Vec<HistoryView>,
}

/// The model that can be returned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PreviousView {
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Its generation.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// When it is given up, milliseconds since 1970.
    pub until_ms: u64,
}

/// The model that is being brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChallengerView {
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Its generation.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The job that brings it.
    pub job: String,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HistoryView {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// `began`, `promoted`, `rolled_back`, `retired` or `abandoned`.
    pub step: String,
    /// The model that served, or was given up.
    pub from: String,
    /// The model that serves since, or was to.
    pub to: String,
    /// The generation that serves since.
    pub generation: u64,
    /// Why the gate was passed over.
    pub override_reason: Option<String>,
    /// Whose key asked for it: its id and name; `null` where there were no keys, or nobody asked.
    pub by: Option<String>,
}

impl DeploymentView {
    pub(super) fn new(deployment: &Deployment, record: &Record) -> Self {
        let previous = |doc: &ServingDoc| PreviousView {
            name: doc.model.to_string(),
            fingerprint: doc.space.fingerprint,
            generation: doc.space.generation,
            until_ms: record.soak_until_ms.unwrap_or(0),
        };
        let challenger = record.filling.as_ref().map(|filling| ChallengerView {
            name: filling.serving.model.to_string(),
            fingerprint: filling.serving.space.fingerprint,
            generation: filling.serving.space.generation,
            job: filling.job.to_string(),
        });
        let history = record.history.iter().map(|entry| HistoryView {
            at_ms: entry.at_ms,
            step: entry.what.as_str().to_owned(),
            from: entry.from.clone(),
            to: entry.to.clone(),
            generation: entry.generation,
            override_reason: entry.override_reason.clone(),
            by: entry.by.clone(),
        });
        Self {
            live: deployment.live.view(),
            previous: record.previous.as_ref().map(previous),
            challenger,
            kept: deployment.kept.iter().map(|serving| serving.view()).collect(),
            history: history.collect(),
        }
    }
}
