//! The field's words as types. Uses std, serde and thiserror only, and knows no other room.

mod attributes;
mod calibration;
mod consent;
mod embedding;
mod generation;
mod hex;
mod ids;
mod policy;
mod scope;
mod score;
mod time;

pub use attributes::{
    Aspect, AttributeError, AttributeFilter, HandAttributes, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES,
    Side,
};
pub use calibration::{
    CalibratedThreshold, Calibration, CalibrationError, Parts as CalibrationParts,
};
pub use consent::{Consent, ConsentError, MAX_PURPOSE};
pub use embedding::{Embedding, EmbeddingError};
pub use generation::{Fingerprint, FingerprintError, Generation};
pub use hex::hex;
pub use ids::{GalleryId, IdError, ModelName, SampleId, SubjectId};
pub use policy::{GalleryPolicy, OnMatch, SampleFlag};
pub use scope::{Scope, ScopeError};
pub use score::Similarity;
pub use time::{DAY_MS, now_ms};
