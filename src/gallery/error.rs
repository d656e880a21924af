use crate::domain::{
    AttributeError, ConsentError, Fingerprint, GalleryId, Generation, SampleId, SubjectId, hex,
};
use crate::storage::StorageError;

use super::types::{MAX_BATCH, MAX_DIM, MAX_LIMIT};

/// Why a gallery cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GalleryError {
    /// The id is taken.
    #[error("gallery `{0}` exists already")]
    GalleryExists(GalleryId),
    /// No such gallery.
    #[error("there is no gallery `{0}`")]
    GalleryNotFound(GalleryId),
    /// No such subject.
    #[error("there is no subject `{0}` in this gallery")]
    SubjectNotFound(SubjectId),
    /// No such sample of that subject.
    #[error("subject `{subject}` has no sample `{sample}`")]
    SampleNotFound {
        /// The subject asked about.
        subject: SubjectId,
        /// The sample asked about.
        sample: SampleId,
    },
    /// The sample id names other content already.
    #[error("sample `{sample}` is enrolled already with other content or for another subject")]
    SampleConflict {
        /// The id that is taken.
        sample: SampleId,
    },
    /// A template of another generation.
    #[error("the template is of generation {got}, the gallery is at {expected}")]
    Generation {
        /// Generation given.
        got: Generation,
        /// Generation of the gallery.
        expected: Generation,
    },
    /// A template of another model.
    #[error("the template was made by model {got}, the gallery holds templates of {expected}")]
    Fingerprint {
        /// Fingerprint given.
        got: Fingerprint,
        /// Fingerprint of the gallery.
        expected: Fingerprint,
    },
    /// A template or probe of another size.
    #[error("the embedding has {got} dimensions, the gallery holds {expected}")]
    Dimensions {
        /// Dimensions given.
        got: usize,
        /// Dimensions of the gallery.
        expected: usize,
    },
    /// A gallery of a size that cannot be stored.
    #[error("a gallery of {got} dimensions was asked for, 1 to {MAX_DIM} are possible")]
    GalleryDimensions {
        /// Dimensions given.
        got: usize,
    },
    /// Attributes out of bounds.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// A consent that is none or has ended.
    #[error(transparent)]
    Consent(#[from] ConsentError),
    /// Nobody is enrolled here without a consent.
    #[error(
        "gallery `{gallery}` takes nobody without a consent, and `{subject}` has none that holds"
    )]
    ConsentRequired {
        /// The gallery.
        gallery: GalleryId,
        /// Who was to be enrolled.
        subject: SubjectId,
    },
    /// A quality outside [0, 1].
    #[error("the quality {got} is not between 0 and 1")]
    Quality {
        /// Quality given.
        got: f32,
    },
    /// A text or attributes too long for a record.
    #[error("{what} takes {got} bytes, at most {max} are kept")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Bytes given.
        got: usize,
        /// Most bytes kept.
        max: usize,
    },
    /// An image over the limit.
    #[error("the image has {got} bytes, at most {max} are kept")]
    ImageTooLarge {
        /// Bytes given.
        got: usize,
        /// Most bytes kept.
        max: usize,
    },
    /// No results asked for, or too many.
    #[error("{got} results were asked for, 1 to {MAX_LIMIT} can be")]
    Limit {
        /// Results asked for.
        got: usize,
    },
    /// A mean over no samples.
    #[error("a mean over {got} samples was asked for, 1 to {MAX_LIMIT} can be")]
    MeanOf {
        /// Samples asked for.
        got: usize,
    },
    /// Too many samples at once.
    #[error("{got} samples were given at once, at most {MAX_BATCH} are taken")]
    BatchTooLarge {
        /// Samples given.
        got: usize,
    },
    /// The gallery is as full as it may be.
    #[error("the gallery holds {max} samples, which is as many as it may")]
    Full {
        /// Most samples.
        max: usize,
    },
    /// There are as many galleries as there may be.
    #[error("there are {max} galleries, which is as many as there may be")]
    TooManyGalleries {
        /// Most galleries.
        max: usize,
    },
    /// An erasure of the subject began and did not finish.
    #[error("subject `{0}` is being erased: ask for the erasure again to finish it")]
    Erasing(SubjectId),
    /// The index over the templates could not be built; searches stay exact.
    #[error("the index could not be built: {0}")]
    Index(String),
    /// A second space was to be begun where there is one.
    #[error("gallery `{0}` has a second set of templates already")]
    SpaceTaken(GalleryId),
    /// A second space was to be begun where the last deployment is not done with.
    #[error("samples that the last deployment dropped are still being removed from gallery `{0}`")]
    Dropping(GalleryId),
    /// A space is not filled.
    #[error("{gaps} samples of gallery `{gallery}` have no template of the new model")]
    Gaps {
        /// The gallery.
        gallery: GalleryId,
        /// How many.
        gaps: usize,
    },
    /// The store's answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A record that opened but makes no sense, or records that do not belong together.
    #[error(
        "gallery record {key} is inconsistent: {detail}; put back a backup with `handclip gallery restore`"
    )]
    Inconsistent {
        /// The record's key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl GalleryError {
    pub(super) fn inconsistent(key: &[u8], detail: impl ToString) -> Self {
        let key = hex(key);
        Self::Inconsistent { key, detail: detail.to_string() }
    }
}
