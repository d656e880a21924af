use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Fingerprint, ModelName};

/// What is known of a model of the registry: `model.json` beside its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredModel {
    /// Of this document.
    pub format: u32,
    /// Its name.
    #[schema(value_type = String)]
    pub name: ModelName,
    /// When it was registered, milliseconds since 1970.
    pub created_at_ms: u64,
    /// SHA-256 over everything that decides an embedding.
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
    /// Its files, with those that say what it was trained on.
    pub files: Vec<ModelFile>,
    /// Where it comes from.
    pub origin: Origin,
    /// The model that it was fine-tuned from; `null` where nobody knows.
    pub parent: Option<Parent>,
    /// What it was trained on and how good it got; `null` for a model that was not trained here.
    pub training: Option<Training>,
}

impl RegisteredModel {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelFile {
    /// Below the model's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody brought it.
    Imported,
    /// A training run of this server.
    TrainingRun(String),
}

/// The model before fine-tuning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Parent {
    /// Its name at that time.
    pub name: String,
    /// Its fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
}

/// How a model was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Training {
    /// SHA-256 of the recipe, hexadecimal; it lies beside the model as `recipe.toml`.
    pub recipe_sha256: Option<String>,
    /// SHA-256 of the list of images by their hashes, hexadecimal; it lies beside the model as `data.json`.
    pub data_sha256: Option<String>,
    /// Subjects trained on, validated on and held out.
    pub subjects: [usize; 3],
    /// Images trained on, validated on and held out.
    pub images: [usize; 3],
    /// Figures on the held-out subjects before training.
    pub before: Option<Merit>,
    /// Figures of this model on the same subjects.
    pub after: Option<Merit>,
}

/// How good a model is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Merit {
    /// Share of searches whose first hit is right; mean over the kinds of hand.
    pub rank1: f64,
    /// Mean average precision; mean over the kinds of hand.
    pub map: f64,
}
