//! Models and the state of the server.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Fingerprint, Generation, SampleId};

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
    /// Whether it serves now.
    pub deployed: bool,
    /// The deployment's generation.
    #[schema(value_type = u64)]
    pub generation: Generation,
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
