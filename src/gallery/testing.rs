//! What tests of this room share.

use std::path::Path;
use std::sync::Arc;

use crate::domain::{
    Embedding, Fingerprint, GalleryId, GalleryPolicy, Generation, HandAttributes, SampleId,
    SubjectId,
};
use crate::storage::{MasterKey, Store, StoreOptions};

use super::types::NewSample;
use super::{Galleries, Gallery, GalleryOptions, GallerySpec, Template};

const GENERATION: Generation = Generation(1);
const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);

/// A gallery of its own store, which keeps images.
pub(super) fn gallery(dir: &Path) -> (Galleries, Arc<Gallery>) {
    let master_key = MasterKey::from_hex(&"5a".repeat(32)).unwrap();
    let options = StoreOptions { ballast_bytes: 0, ..StoreOptions::new(dir, master_key) };
    let store = Store::open(options).unwrap();
    let galleries = Galleries::open(store, GalleryOptions::default()).unwrap();
    let spec = GallerySpec {
        id: GalleryId::new("main").unwrap(),
        dim: 2,
        generation: GENERATION,
        fingerprint: FINGERPRINT,
        beside: None,
        retain_images: true,
        allow_training: false,
        description: String::new(),
        policy: GalleryPolicy::default(),
    };
    let gallery = galleries.create(spec).unwrap();
    (galleries, gallery)
}

/// Somebody's sample, with an image.
pub(super) fn sample() -> NewSample {
    let embedding = Embedding::from_raw(vec![1.0, 0.0]).unwrap();
    NewSample {
        subject: SubjectId::new("ada").unwrap(),
        sample: Some(SampleId::new("left").unwrap()),
        attributes: HandAttributes::default(),
        quality: 0.5,
        templates: vec![Template { generation: GENERATION, fingerprint: FINGERPRINT, embedding }],
        content_hash: [1; 32],
        image: Some(vec![1; 100]),
        consent: None,
        flags: Vec::new(),
    }
}
