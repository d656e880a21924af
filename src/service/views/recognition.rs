//! Questions and answers.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{
    AttributeFilter, Fingerprint, GalleryId, Generation, HandAttributes, SampleId, SubjectId,
};
use crate::gallery::{Aggregate, SampleHit};

use super::{AttributesSchema, rounded};

/// Where the time of an answer went, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Timings {
    /// Decoding, quality and preprocessing of images, waiting included.
    pub decode_us: u64,
    /// The model, waiting and batching included.
    pub embed_us: u64,
    /// Search, or the durable write of an enrolment.
    pub search_us: u64,
    /// All of it.
    pub total_us: u64,
}

/// What an answer was made with.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Provenance {
    /// The gallery.
    #[schema(value_type = String)]
    pub gallery: GalleryId,
    /// The deployment that answered.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The model's name.
    pub model: String,
    /// The model's fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
}

/// The threshold that a decision was taken with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ThresholdView {
    /// Accepted at this similarity or above.
    pub similarity: f32,
    /// `request`: given by the caller. `calibration`: the gallery's.
    pub source: &'static str,
    /// The error rate that a calibrated threshold was chosen for; left out for one from the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetRateView>,
}

/// What a calibrated threshold promises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct TargetRateView {
    /// `fmr` (false match rate, 1:1) or `fpir` (false positive identification rate, 1:N).
    pub rate: &'static str,
    /// The highest rate wanted.
    pub at_most: f64,
    /// From this similarity on the answer is `uncertain`: the loosest threshold of the calibration.
    pub uncertain_from: f32,
    /// Whether the calibration covers what was asked: the gallery holds no more subjects, and a subject no more
    /// samples, than it was measured with. Where it does not, there is no `match`, only `uncertain`.
    pub covered: bool,
}

/// A decision. Without a threshold there is none: a similarity alone says nothing about error rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// At or above the threshold.
    Match,
    /// Above the loosest threshold of the calibration and below the strictest, or above it where the calibration
    /// does not cover the gallery: for a person to look at.
    Uncertain,
    /// Below it (verification).
    NoMatch,
    /// Nobody at or above it (identification).
    Unknown,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Match => "match",
            Self::Uncertain => "uncertain",
            Self::NoMatch => "no_match",
            Self::Unknown => "unknown",
        })
    }
}

/// How the samples of a subject become one similarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Combine {
    /// The most similar sample.
    #[default]
    Best,
    /// The mean of the most similar samples, so many of them.
    MeanOf(usize),
}

impl From<Combine> for Aggregate {
    fn from(combine: Combine) -> Self {
        match combine {
            Combine::Best => Self::Best,
            Combine::MeanOf(k) => Self::MeanTop(k),
        }
    }
}

/// A 1:N question.
#[derive(Debug, Clone)]
pub struct Identify {
    /// The probe.
    pub image: Vec<u8>,
    /// Most candidates given.
    pub limit: usize,
    /// Only samples that pass are looked at.
    pub filter: AttributeFilter,
    /// How samples combine.
    pub combine: Combine,
    /// Threshold for a decision.
    pub threshold: Option<f32>,
}

/// A person who may be the one in the probe.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CandidateView {
    /// From 1.
    pub rank: usize,
    /// The subject.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Cosine similarity, -1 to 1, rounded down to four digits.
    #[serde(serialize_with = "rounded")]
    pub similarity: f32,
    /// Their most similar image.
    pub best_sample: HitView,
}

/// An enrolled image that was found.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HitView {
    /// Whose hand it shows.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Its name.
    #[schema(value_type = String)]
    pub sample: SampleId,
    /// Cosine similarity, -1 to 1, rounded down to four digits.
    #[serde(serialize_with = "rounded")]
    pub similarity: f32,
    /// What is known of it.
    #[schema(value_type = AttributesSchema)]
    pub attributes: HandAttributes,
}

impl From<SampleHit> for HitView {
    fn from(hit: SampleHit) -> Self {
        Self {
            subject: hit.subject,
            sample: hit.sample,
            similarity: hit.similarity.get(),
            attributes: hit.attributes,
        }
    }
}

/// The answer to a 1:N question.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct IdentifyAnswer {
    /// Most similar first.
    pub candidates: Vec<CandidateView>,
    /// `null` without a threshold.
    pub decision: Option<Decision>,
    /// The threshold used; `null` while the gallery is not calibrated and none is given.
    pub threshold: Option<ThresholdView>,
    /// Quality of the probe, 0 to 1.
    pub quality: f32,
    /// What answered.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Where the time went.
    pub timings: Timings,
}

/// A 1:1 question against an enrolled subject.
#[derive(Debug, Clone)]
pub struct Verify {
    /// Who it is claimed to be.
    pub subject: SubjectId,
    /// The probe.
    pub image: Vec<u8>,
    /// Threshold for a decision.
    pub threshold: Option<f32>,
}

/// The answer to a 1:1 question.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VerifyAnswer {
    /// Who it was claimed to be.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Similarity to the subject's most similar sample, rounded down to four digits.
    #[serde(serialize_with = "rounded")]
    pub similarity: f32,
    /// `null` without a threshold.
    pub decision: Option<Decision>,
    /// The threshold used.
    pub threshold: Option<ThresholdView>,
    /// Every sample of the subject, most similar first.
    pub samples: Vec<HitView>,
    /// Quality of the probe, 0 to 1.
    pub quality: f32,
    /// What answered.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Where the time went.
    pub timings: Timings,
}

/// A search by words, by an image, or by both.
#[derive(Debug, Clone)]
pub struct Search {
    /// The words.
    pub prompt: Option<String>,
    /// The image.
    pub image: Option<Vec<u8>>,
    /// Weight of the image where both are given, 0 to 1; the words get the rest.
    pub image_weight: f32,
    /// Only samples that pass are looked at.
    pub filter: AttributeFilter,
    /// Most hits given.
    pub limit: usize,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SearchAnswer {
    /// Most similar first.
    pub hits: Vec<HitView>,
    /// What answered.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Where the time went.
    pub timings: Timings,
}

/// How similar two images are.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CompareAnswer {
    /// Cosine similarity, -1 to 1, rounded down to four digits.
    #[serde(serialize_with = "rounded")]
    pub similarity: f32,
    /// `null` without a threshold.
    pub decision: Option<Decision>,
    /// The threshold used.
    pub threshold: Option<ThresholdView>,
    /// Quality of both images, 0 to 1.
    pub quality: [f32; 2],
    /// The model's name.
    pub model: String,
    /// The model's fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Where the time went.
    pub timings: Timings,
}

/// An embedding.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EmbeddingView {
    /// Unit length, `[dim]`.
    pub embedding: Vec<f32>,
    /// Dimensions.
    pub dim: usize,
    /// The model's fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
}
