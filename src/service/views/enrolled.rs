//! Galleries, subjects and samples.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    Consent, Fingerprint, GalleryId, GalleryPolicy, Generation, HandAttributes, SampleFlag,
    SampleId, SubjectId, hex,
};
use crate::gallery::{ErasureReceipt, GalleryInfo, SampleRecord};

use super::Timings;

/// A gallery to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGallery {
    /// Its name.
    pub id: GalleryId,
    /// Whether the images are kept (sealed), so that a later model can embed them again.
    pub retain_images: bool,
    /// Whether those who are enrolled have agreed that their images are trained on.
    pub allow_training: bool,
    /// Words for people.
    pub description: String,
    /// Who may be in it, and for how long.
    pub policy: GalleryPolicy,
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
    /// Whether those who are enrolled have agreed that their images are trained on.
    pub allow_training: bool,
    /// Who may be in it, and for how long.
    #[schema(value_type = GalleryPolicySchema)]
    pub policy: GalleryPolicy,
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
    /// `exact`; `binary`, where a bit a value is read of every sample before the closest are compared exactly; `lists`, where that is done
    /// for the lists that a probe may belong to, and for every sample if these do not tell; or `hnsw`, where a graph leads to these.
    pub kind: String,
    /// Samples that lie in lists.
    pub segment: usize,
    /// Samples that do not: all of them in a gallery without lists, new ones and a few that are like no others in one with lists.
    pub tail: usize,
    /// Removed samples whose place is not used again yet; they are overwritten and never found.
    pub removed: usize,
    /// Bytes of memory that templates, codes and lists take.
    pub bytes: usize,
}

impl From<GalleryInfo> for GalleryView {
    fn from(info: GalleryInfo) -> Self {
        Self {
            id: info.id,
            description: info.description,
            retain_images: info.retain_images,
            allow_training: info.allow_training,
            policy: info.policy,
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
                bytes: info.index.bytes,
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
    /// What the subject agreed to.
    pub consent: Option<Consent>,
    /// Enrols it even if it matches another subject; needs the scope `admin`.
    pub allow_match: bool,
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
    /// Why somebody has to look at it: `matches_another`, `far_from_subject`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    pub flags: Vec<SampleFlag>,
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
    /// Why somebody has to look at it: `matches_another`, `far_from_subject`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    pub flags: Vec<SampleFlag>,
}

impl From<SampleRecord> for SampleView {
    fn from(record: SampleRecord) -> Self {
        Self {
            subject: record.subject,
            sample: record.sample,
            attributes: record.attributes,
            quality: record.quality,
            content_sha256: hex(&record.content_hash),
            created_at_ms: record.created_at_ms,
            has_image: record.has_image,
            flags: record.flags,
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
    /// What they agreed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ConsentSchema>)]
    pub consent: Option<Consent>,
    /// When they were last enrolled, verified or identified, milliseconds since 1970.
    pub last_interaction_ms: u64,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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

impl From<ErasureReceipt> for ErasureView {
    fn from(receipt: ErasureReceipt) -> Self {
        let ErasureReceipt { receipt, gallery, subject, samples, erased_at_ms, signature } =
            receipt;
        Self { receipt, gallery, subject, samples, erased_at_ms, signature }
    }
}

impl From<ErasureView> for ErasureReceipt {
    fn from(view: ErasureView) -> Self {
        let ErasureView { receipt, gallery, subject, samples, erased_at_ms, signature } = view;
        Self { receipt, gallery, subject, samples, erased_at_ms, signature }
    }
}

/// What a receipt of an erasure is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErasureCheckView {
    /// This store issued it, and nothing of it was changed.
    pub genuine: bool,
    /// Somebody of that name is enrolled: again, if the receipt is genuine.
    pub enrolled: bool,
}

/// What somebody agreed to, as the schema shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Consent)]
pub struct ConsentSchema {
    /// What for, in words; at most 512 bytes.
    #[schema(example = "entry to the laboratory")]
    pub purpose: String,
    /// When it was given, milliseconds since 1970.
    pub given_at_ms: u64,
    /// When it ends, milliseconds since 1970: who gave it is erased then.
    pub expires_at_ms: u64,
}

/// Who may be in a gallery, and for how long, as the schema shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = GalleryPolicy)]
pub struct GalleryPolicySchema {
    /// Nobody is enrolled without a consent that holds.
    #[schema(default = false)]
    pub require_consent: Option<bool>,
    /// Whoever was not enrolled, verified or identified for so many days is erased; nobody if left out.
    #[schema(minimum = 1)]
    pub retention_days: Option<u32>,
    /// What becomes of an enrolment that matches another subject: `refuse` or `flag`. Without thresholds none does.
    #[schema(pattern = "^(refuse|flag)$", default = "refuse")]
    pub on_match: Option<String>,
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

/// Thresholds of a gallery, as the schema shows them.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Calibration)]
pub struct CalibrationSchema {
    /// The model whose similarities were measured, as 64 hexadecimal digits; it must be the gallery's.
    pub fingerprint: String,
    /// Subjects that were measured on.
    pub subjects: usize,
    /// Samples that a subject had in the gallery.
    pub samples_per_subject: usize,
    /// Subjects in the gallery that identification was measured with.
    pub gallery_subjects: usize,
    /// Thresholds for 1:1 by false match rate, the loosest target first.
    pub verification: Vec<CalibratedThresholdSchema>,
    /// Thresholds for 1:N by false positive identification rate, the loosest target first.
    pub identification: Vec<CalibratedThresholdSchema>,
    /// When it was measured, milliseconds since 1970.
    pub made_at_ms: u64,
}

/// A threshold and the error rate that it was chosen for, as the schema shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = CalibratedThreshold)]
pub struct CalibratedThresholdSchema {
    /// The highest error rate wanted, 0 to 1.
    pub target: f64,
    /// Accepted at this similarity or above.
    pub similarity: f32,
    /// The rate measured at it.
    pub rate: f64,
    /// Upper end of that rate's 95 % interval.
    pub upper: f64,
}
