//! What the service takes and gives. Everything given is `Serialize` and has a schema, so that the
//! REST API and `--json` print the same.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    AttributeFilter, Fingerprint, GalleryId, Generation, HandAttributes, SampleId, SubjectId,
};
use crate::gallery::{Aggregate, GalleryInfo, SampleHit, SampleRecord};

/// A gallery to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGallery {
    /// Its name.
    pub id: GalleryId,
    /// Whether the images are kept (sealed), so that a later model can embed them again.
    pub retain_images: bool,
    /// Words for people.
    pub description: String,
}

/// A gallery.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GalleryView {
    /// Its name.
    #[schema(value_type = String, example = "staff")]
    pub id: GalleryId,
    /// Words for people.
    pub description: String,
    /// Whether enrolled images are kept, sealed.
    pub retain_images: bool,
    /// Enrolled people.
    pub subjects: usize,
    /// Enrolled images.
    pub samples: usize,
    /// Dimensions of an embedding.
    pub dim: usize,
    /// Which deployment's space the templates live in.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The model that made the templates.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// When it was made, milliseconds since 1970.
    pub created_at_ms: u64,
    /// How it is searched.
    pub index: IndexView,
}

/// How a gallery is searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct IndexView {
    /// `exact` or `hnsw`.
    pub kind: String,
    /// Samples in the frozen segment.
    pub segment: usize,
    /// Samples enrolled since, scanned exactly.
    pub tail: usize,
    /// Removed samples still in the segment, never found.
    pub removed: usize,
}

impl From<GalleryInfo> for GalleryView {
    fn from(info: GalleryInfo) -> Self {
        Self {
            id: info.id,
            description: info.description,
            retain_images: info.retain_images,
            subjects: info.subjects,
            samples: info.samples,
            dim: info.dim,
            generation: info.generation,
            fingerprint: info.fingerprint,
            created_at_ms: info.created_at_ms,
            index: IndexView {
                kind: info.index.kind.to_owned(),
                segment: info.index.segment,
                tail: info.index.tail,
                removed: info.index.removed,
            },
        }
    }
}

/// An image to be enrolled.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Whose hand it shows.
    pub subject: SubjectId,
    /// Its name; made up when left out.
    pub sample: Option<SampleId>,
    /// What is known of it.
    pub attributes: HandAttributes,
    /// The file.
    pub image: Vec<u8>,
}

/// An enrolled image.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EnrolledView {
    /// The gallery.
    #[schema(value_type = String)]
    pub gallery: GalleryId,
    /// Whose hand it shows.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Its name.
    #[schema(value_type = String)]
    pub sample: SampleId,
    /// False when the same file was enrolled for this subject before: nothing was added.
    pub created: bool,
    /// Quality of the image, 0 to 1.
    pub quality: f32,
    /// Which deployment's space the template lives in.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The model that made the template.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
    /// Where the time went.
    pub timings: Timings,
}

/// An enrolled image as it is kept. The template itself is never given.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SampleView {
    /// Whose hand it shows.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Its name.
    #[schema(value_type = String)]
    pub sample: SampleId,
    /// What is known of it.
    #[schema(value_type = AttributesSchema)]
    pub attributes: HandAttributes,
    /// Quality of the image, 0 to 1.
    pub quality: f32,
    /// SHA-256 of the file, in hexadecimal.
    pub content_sha256: String,
    /// When it was enrolled, milliseconds since 1970.
    pub created_at_ms: u64,
    /// Whether the image is kept.
    pub has_image: bool,
}

impl From<SampleRecord> for SampleView {
    fn from(record: SampleRecord) -> Self {
        Self {
            subject: record.subject,
            sample: record.sample,
            attributes: record.attributes,
            quality: record.quality,
            content_sha256: record.content_hash.iter().map(|b| format!("{b:02x}")).collect(),
            created_at_ms: record.created_at_ms,
            has_image: record.has_image,
        }
    }
}

/// An enrolled person.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SubjectView {
    /// The gallery.
    #[schema(value_type = String)]
    pub gallery: GalleryId,
    /// The subject.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Their images.
    pub samples: Vec<SampleView>,
}

/// An enrolled person in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SubjectSummaryView {
    /// The subject.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// How many images of them are enrolled.
    pub samples: usize,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SubjectPage {
    /// The subjects, by id.
    pub subjects: Vec<SubjectSummaryView>,
    /// Give this as `page_token` for the next page; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Proof that a subject was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErasureView {
    /// The receipt's number.
    pub receipt: String,
    /// The gallery.
    #[schema(value_type = String)]
    pub gallery: GalleryId,
    /// The subject that was erased.
    #[schema(value_type = String)]
    pub subject: SubjectId,
    /// Images erased.
    pub samples: usize,
    /// When, milliseconds since 1970.
    pub erased_at_ms: u64,
    /// Keyed digest over all of the above, in hexadecimal.
    pub signature: String,
}

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
    /// `request`: given by the caller. There is no calibrated threshold yet.
    pub source: &'static str,
}

/// A decision. Without a threshold there is none: a similarity alone says nothing about error rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// At or above the threshold.
    Match,
    /// Below it (verification).
    NoMatch,
    /// Nobody at or above it (identification).
    Unknown,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Match => "match",
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
    /// Cosine similarity, -1 to 1.
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
    /// Cosine similarity, -1 to 1.
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
    /// Similarity to the subject's most similar sample.
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
    /// Cosine similarity, -1 to 1.
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

/// Attributes of a sample, as the schema shows them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Attributes)]
pub struct AttributesSchema {
    /// `dorsal` (back of the hand) or `palmar`.
    #[schema(example = "dorsal", pattern = "^(dorsal|palmar)$")]
    pub aspect: Option<String>,
    /// `left` or `right`, the person's own.
    #[schema(example = "right", pattern = "^(left|right)$")]
    pub side: Option<String>,
    /// Whether jewellery or another accessory is worn.
    pub accessories: Option<bool>,
    /// Free-form, at most 32 of at most 256 bytes.
    pub extra: Option<std::collections::BTreeMap<String, String>>,
}
