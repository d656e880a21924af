//! Models and the state of the server.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Fingerprint, Generation, SampleId};
use crate::model::ModelSummary;
use crate::service::registry::RegisteredModel;

/// A model that can serve.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Dimensions of an embedding.
    pub dim: usize,
    /// Height and width of the input, in pixels.
    pub image_size: [u32; 2],
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Longest prompt, in tokens.
    pub max_tokens: usize,
    /// Values in all parameters.
    pub parameters: usize,
    /// Whether it serves now, is being brought, or can be returned to.
    pub deployed: bool,
    /// The generation that it makes templates of; `null` for one that makes none.
    #[schema(value_type = Option<u64>)]
    pub generation: Option<Generation>,
    /// Where it comes from and what it was trained on; `null` for one that is not of the registry.
    pub registered: Option<RegisteredModel>,
}

impl From<RegisteredModel> for ModelView {
    fn from(model: RegisteredModel) -> Self {
        Self {
            name: model.name.to_string(),
            fingerprint: model.fingerprint,
            dim: model.dim,
            image_size: model.image_size,
            patch_size: model.patch_size,
            max_tokens: model.max_tokens,
            parameters: model.parameters,
            deployed: false,
            generation: None,
            registered: Some(model),
        }
    }
}

impl From<ModelSummary> for ModelView {
    fn from(summary: ModelSummary) -> Self {
        Self {
            name: summary.name,
            fingerprint: summary.fingerprint,
            dim: summary.dim,
            image_size: [summary.image_size.0, summary.image_size.1],
            patch_size: summary.patch_size,
            max_tokens: summary.max_tokens,
            parameters: summary.parameters,
            deployed: false,
            generation: None,
            registered: None,
        }
    }
}

/// Whether the server can answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Readiness {
    /// Always true; a server that is not ready answers 503.
    pub ready: bool,
    /// The model's name.
    pub model: String,
    /// The model's fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// What it took to embed a test picture, microseconds.
    pub canary_us: u64,
}

/// A self-retrieval audit: every sample must find itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AuditView {
    /// Samples looked for.
    pub samples: usize,
    /// Samples found.
    pub found: usize,
    /// Samples not found.
    #[schema(value_type = Vec<String>)]
    pub missed: Vec<SampleId>,
}
