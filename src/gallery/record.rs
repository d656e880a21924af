//! What gallery records say, as JSON, except templates: `[dim]` f32 little-endian.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::{
    Embedding, Fingerprint, GalleryId, Generation, HandAttributes, SampleFlag, SampleId, SubjectId,
};
use crate::storage::{DataKey, Store};

use super::GalleryError;
use super::space::{BesideDoc, TemplateSpace};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct GalleryDoc {
    pub(super) id: GalleryId,
    pub(super) dim: usize,
    pub(super) generation: Generation,
    pub(super) fingerprint: Fingerprint,
    pub(super) retain_images: bool,
    /// Whether the images may be trained on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) allow_training: bool,
    pub(super) description: String,
    pub(super) created_at_ms: u64,
    /// Samples may lack a template of this generation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) partial: bool,
    /// A second space, filled or kept by a deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beside: Option<BesideDoc>,
    /// Generations whose templates are to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) purging: Vec<u64>,
}

impl GalleryDoc {
    pub(super) fn home(&self) -> TemplateSpace {
        let Self { generation, fingerprint, dim, .. } = *self;
        TemplateSpace { generation, fingerprint, dim }
    }
}

/// Sealed under the subject's own data key: the name goes with the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SubjectDoc {
    pub(super) id: SubjectId,
    pub(super) data_key: DataKey,
    pub(super) created_at_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SampleDoc {
    pub(super) id: SampleId,
    pub(super) attributes: HandAttributes,
    pub(super) quality: f32,
    pub(super) content_hash: Fingerprint,
    pub(super) created_at_ms: u64,
    /// Size of the retained image, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image_bytes: Option<usize>,
    /// Why somebody has to look at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) flags: Vec<SampleFlag>,
}

/// An erasure, before its first step (`erasure begun`) and after its last (`tombstone`). Sealed under the
/// store's key, so it holds nothing that the erasure is to destroy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ErasureDoc {
    pub(super) receipt: uuid_text::Uuid,
    /// Keyed hash of the subject's id.
    pub(super) name: [u8; 16],
    pub(super) samples: usize,
    pub(super) erased_at_ms: u64,
    /// The key that is to be destroyed; none where the erasure is known from another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data_key: Option<DataKey>,
}

/// A deletion of a gallery, so that no backup brings it back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct DeletionDoc {
    pub(super) deleted_at_ms: u64,
}

/// Reads and writes a UUID as text, without the uuid crate's serde feature.
pub(super) mod uuid_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in super::super) struct Uuid(pub(in super::super) uuid::Uuid);

    impl Serialize for Uuid {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Uuid {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            text.parse().map(Self).map_err(serde::de::Error::custom)
        }
    }
}

pub(super) fn to_json(what: &'static str, doc: &impl Serialize) -> Result<Vec<u8>, GalleryError> {
    let text = serde_json::to_vec(doc).map_err(|e| GalleryError::inconsistent(&[], e))?;
    let max = Store::max_value();
    if text.len() > max {
        return Err(GalleryError::TooLong { what, got: text.len(), max });
    }
    Ok(text)
}

pub(super) fn from_json<T: DeserializeOwned>(key: &[u8], text: &[u8]) -> Result<T, GalleryError> {
    serde_json::from_slice(text).map_err(|error| GalleryError::inconsistent(key, error))
}

pub(super) fn template_to_bytes(embedding: &Embedding) -> Vec<u8> {
    embedding.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn template_from_bytes(
    key: &[u8],
    bytes: &[u8],
    dim: usize,
) -> Result<Embedding, GalleryError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != dim || !rest.is_empty() {
        let detail = format!("{} bytes are no template of {dim} dimensions", bytes.len());
        return Err(GalleryError::inconsistent(key, detail));
    }
    let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Embedding::from_unit(values).map_err(|error| GalleryError::inconsistent(key, error))
}
