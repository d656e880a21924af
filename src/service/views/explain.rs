//! Explanations.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Fingerprint, GalleryId, SampleId, SubjectId};
use crate::model::ExplainMethod;

use super::{Timings, rounded};

/// What an image is compared with.
#[derive(Debug, Clone)]
pub enum ExplainTarget {
    /// Another image: a file.
    Image(Vec<u8>),
    /// Words.
    Prompt(String),
    /// The most similar sample of an enrolled subject, as verification finds it.
    Subject {
        /// Where they are enrolled.
        gallery: GalleryId,
        /// The subject.
        subject: SubjectId,
    },
}

/// What to compute beside the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExplainExtras {
    /// The picture under its heat map.
    pub overlay: bool,
    /// Deletion and insertion curves: some seventy images to embed.
    pub curves: bool,
}

/// Why is this image as similar as it is?
#[derive(Debug, Clone)]
pub struct Explain {
    /// The image: a file.
    pub image: Vec<u8>,
    /// What it is compared with.
    pub target: ExplainTarget,
    /// How patches are judged.
    pub method: ExplainMethod,
    /// What to compute beside the map.
    pub extras: ExplainExtras,
}

/// What an image was compared with.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetView {
    /// Another image.
    Image {
        /// Its file, where it has a name.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// Words.
    Prompt {
        /// The words.
        prompt: String,
    },
    /// An enrolled sample.
    Subject {
        /// Where they are enrolled.
        #[schema(value_type = String)]
        gallery: GalleryId,
        /// The subject.
        #[schema(value_type = String)]
        subject: SubjectId,
        /// Their most similar sample.
        #[schema(value_type = String)]
        sample: SampleId,
    },
}

/// How well a map tells what counts (Petsiuk et al., 2018): the similarity while patches are changed, those that the map
/// calls important first.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CurvesView {
    /// Area under the deletion curve; a good map has a small one.
    pub deletion_auc: f64,
    /// Area under the insertion curve; a good map has a large one.
    pub insertion_auc: f64,
    /// Share of patches changed.
    pub shares: Vec<f64>,
    /// The similarity with that share turned to the mean colour.
    pub deletion: Vec<f64>,
    /// The similarity with that share of a blurred picture made sharp.
    pub insertion: Vec<f64>,
}

/// Which patches of an image make it as similar as it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExplainAnswer {
    /// `rollout`, `grad-cam` or `relevance`.
    #[schema(value_type = String)]
    pub method: ExplainMethod,
    /// What it was compared with.
    pub target: TargetView,
    /// Cosine similarity to it, -1 to 1, rounded down to four digits.
    #[serde(serialize_with = "rounded")]
    pub similarity: f32,
    /// Patches from top to bottom of what the model sees.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
    /// How much each patch counts, row by row, not negative: in the method's own unit, of an enrolled subject as a share of
    /// the largest with two digits.
    pub map: Vec<Vec<f32>>,
    /// Only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curves: Option<CurvesView>,
    /// The model's name.
    pub model: String,
    /// The model's fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Where the time went.
    pub timings: Timings,
}
