use crate::domain::{
    AttributeFilter, Consent, Fingerprint, GalleryId, GalleryPolicy, Generation, HandAttributes,
    SampleFlag, SampleId, Similarity, SubjectId,
};

use super::space::{Role, Template, TemplateSpace};

/// Most results a search gives.
pub const MAX_LIMIT: usize = 10_000;
/// Most dimensions of a template: one record holds it whole.
pub const MAX_DIM: usize = 4_096;
/// Most samples enrolled by one call.
pub const MAX_BATCH: usize = 4_096;
/// Longest description of a gallery, in bytes.
pub(super) const MAX_DESCRIPTION: usize = 2_048;

/// Limits of galleries and settings of their index.
#[derive(Debug, Clone)]
pub struct GalleryOptions {
    /// Most galleries in a store.
    pub max_galleries: usize,
    /// Most samples in a gallery.
    pub max_samples: usize,
    /// Largest image retained, in bytes.
    pub max_image_bytes: usize,
    /// Samples up to which every search is an exact scan.
    pub exact_up_to: usize,
    /// How sure a search of more samples is to be that none of the closest is left out, in standard deviations: a search
    /// reads a bit a value first, and looks closer at all that is not this much too far away.
    pub certainty: f32,
    /// Samples up to which a search reads the bits of all. In larger galleries, those that are alike lie in lists of 10 on average, which
    /// are looked into first: what they hold is all there is to know of somebody who is enrolled.
    pub scan_up_to: usize,
    /// Lists that a search of such a gallery looks into before it reads the bits of all.
    pub lists_searched: usize,
    /// Lists up to which a search reads the signs of all lists' directions; a graph leads to the closest of more.
    pub graph_from: usize,
    /// Whether a background thread keeps bits and lists fitting to what is enrolled. Off, only
    /// [`super::Gallery::compact`] does.
    pub background: bool,
}

impl Default for GalleryOptions {
    fn default() -> Self {
        Self {
            max_galleries: 1_024,
            max_samples: 20_000_000,
            max_image_bytes: 32 * 1024 * 1024,
            exact_up_to: 2_000,
            certainty: 3.5,
            scan_up_to: 65_536,
            lists_searched: 16,
            graph_from: 250_000,
            background: true,
        }
    }
}

/// What a new gallery is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GallerySpec {
    /// Its name.
    pub id: GalleryId,
    /// Dimensions of its templates.
    pub dim: usize,
    /// Generation of its templates.
    pub generation: Generation,
    /// Model that makes its templates.
    pub fingerprint: Fingerprint,
    /// A second space that it has from the start, because a deployment is under way.
    pub beside: Option<(TemplateSpace, Role)>,
    /// Whether enrolled images are kept, sealed.
    pub retain_images: bool,
    /// Whether those who are enrolled have agreed that their images are trained on.
    pub allow_training: bool,
    /// For people to read.
    pub description: String,
    /// Who may be in it, and for how long.
    pub policy: GalleryPolicy,
}

/// What a gallery is and holds.
#[derive(Debug, Clone, PartialEq)]
pub struct GalleryInfo {
    /// Its name.
    pub id: GalleryId,
    /// Dimensions of its templates.
    pub dim: usize,
    /// Generation of its templates.
    pub generation: Generation,
    /// Model that makes its templates.
    pub fingerprint: Fingerprint,
    /// Whether enrolled images are kept, sealed.
    pub retain_images: bool,
    /// Whether those who are enrolled have agreed that their images are trained on.
    pub allow_training: bool,
    /// For people to read.
    pub description: String,
    /// Who may be in it, and for how long.
    pub policy: GalleryPolicy,
    /// Subjects enrolled.
    pub subjects: usize,
    /// Samples enrolled.
    pub samples: usize,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// How it is searched.
    pub index: IndexInfo,
    /// The second space, if a deployment is filling or keeps one.
    pub beside: Option<BesideInfo>,
}

/// A second space of a gallery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BesideInfo {
    /// Which.
    pub space: TemplateSpace,
    /// What for.
    pub role: Role,
    /// Samples with a template in it.
    pub samples: usize,
}

/// How a gallery is searched at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexInfo {
    /// `exact`, `binary` (bits of all, then exact), `lists` (bits of the closest lists, and of all where those do not tell) or `hnsw` (the
    /// same, and a graph to the lists).
    pub kind: &'static str,
    /// Samples in lists, removed ones included.
    pub segment: usize,
    /// Samples that are not: new ones, and one in 32 that is like no others.
    pub tail: usize,
    /// Removed samples that wait for a merge.
    pub removed: usize,
    /// Bytes of memory that templates, codes and lists take.
    pub bytes: usize,
}

/// A sample to enrol.
#[derive(Debug, Clone)]
pub struct NewSample {
    /// Whose hand it is.
    pub subject: SubjectId,
    /// Its name within the gallery; made up when `None`.
    pub sample: Option<SampleId>,
    /// What is known of the image.
    pub attributes: HandAttributes,
    /// Quality of the image, 0 to 1.
    pub quality: f32,
    /// Its templates: one in every space that the gallery has, but for a space that is being filled, which may come later.
    /// Those of other spaces are ignored.
    pub templates: Vec<Template>,
    /// SHA-256 of the image as it came: the same content is enrolled once a subject.
    pub content_hash: [u8; 32],
    /// The image, kept when the gallery retains images.
    pub image: Option<Vec<u8>>,
    /// What the subject agreed to; takes the place of what they agreed to before.
    pub consent: Option<Consent>,
    /// Why somebody has to look at it.
    pub flags: Vec<SampleFlag>,
}

/// What enrolling did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Whose sample it is.
    pub subject: SubjectId,
    /// The sample's name.
    pub sample: SampleId,
    /// False when the same content was enrolled for this subject already.
    pub created: bool,
}

/// A sample as enrolled.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRecord {
    /// Whose hand it is.
    pub subject: SubjectId,
    /// Its name.
    pub sample: SampleId,
    /// What is known of the image.
    pub attributes: HandAttributes,
    /// Quality of the image, 0 to 1.
    pub quality: f32,
    /// SHA-256 of the image as it came.
    pub content_hash: [u8; 32],
    /// When it was enrolled, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Whether the image was kept.
    pub has_image: bool,
    /// Why somebody has to look at it.
    pub flags: Vec<SampleFlag>,
}

/// A subject with everything enrolled.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectRecord {
    /// Who.
    pub subject: SubjectId,
    /// The samples, in order of their enrolment.
    pub samples: Vec<SampleRecord>,
    /// What they agreed to.
    pub consent: Option<Consent>,
    /// When they were last enrolled, verified or identified, in milliseconds since 1970.
    pub last_interaction_ms: u64,
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectSummary {
    /// Who.
    pub subject: SubjectId,
    /// How many samples.
    pub samples: usize,
}

/// How a subject's samples become one similarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregate {
    /// The closest sample's.
    #[default]
    Best,
    /// The mean of the closest so many, or of all when there are fewer.
    MeanTop(usize),
}

/// What a search is to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchParams {
    /// Most results, 1 to [`MAX_LIMIT`].
    pub limit: usize,
    /// Samples that count.
    pub filter: AttributeFilter,
    /// How samples become a subject; without effect on a search for samples.
    pub aggregate: Aggregate,
    /// Whether to compare with every sample, whatever its bits say.
    pub exact: bool,
}

/// A sample found.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleHit {
    /// Whose hand it is.
    pub subject: SubjectId,
    /// Its name.
    pub sample: SampleId,
    /// How close it is.
    pub similarity: Similarity,
    /// What is known of the image.
    pub attributes: HandAttributes,
}

/// A subject found.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Who.
    pub subject: SubjectId,
    /// How close, by the aggregate asked for.
    pub similarity: Similarity,
    /// The closest sample.
    pub best: SampleHit,
}

/// Whether every sample finds itself: asked about with its own template, it must be among the closest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SelfRetrieval {
    /// Samples asked about.
    pub samples: usize,
    /// Those that found themselves.
    pub found: usize,
    /// Those that did not, in order of enrolment.
    pub missed: Vec<SampleId>,
}
