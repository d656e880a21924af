//! Who is enrolled, and who is closest to a probe. Owns templates, samples, subjects, the index
//! over them, and erasure. Must not know where embeddings come from: no model, no image format,
//! no HTTP.
//!
//! The records in the store are the truth; the index is derived from them and may be thrown away at any time.
//! Invariant: what [`Gallery::enrol`] returned is durable and is found by the next search; what
//! [`Gallery::remove_sample`] or [`Gallery::erase_subject`] returned for is found by none.
//! Invariant: a search returns as many results as were asked for, or everything admitted.

mod calibrate;
mod catalogue;
mod enrol;
mod erase;
mod erasures;
mod error;
mod galleries;
mod index;
mod key;
mod load;
mod maintain;
mod read;
mod record;
mod remove;
mod retention;
mod space;
mod spaces;
#[cfg(test)]
mod testing;
mod types;
mod view;

pub use catalogue::Gallery;
pub use erase::ErasureReceipt;
pub use erasures::{Erasure, apply_erasures, erasures};
pub use error::GalleryError;
pub use galleries::Galleries;
pub use retention::Overdue;
pub use space::{Role, Template, TemplateSpace};
pub use spaces::Gap;
pub use types::{
    Aggregate, BesideInfo, Candidate, Enrolled, GalleryInfo, GalleryOptions, GallerySpec,
    IndexInfo, MAX_BATCH, MAX_DIM, MAX_LIMIT, NewSample, SampleHit, SampleRecord, SearchParams,
    SelfRetrieval, SubjectRecord, SubjectSummary,
};
pub use view::GalleryView;
