use crate::domain::{Embedding, Fingerprint, GalleryId, Generation};
use crate::gallery::Gallery;
use crate::model::Batcher;

use super::error::ServiceError;
use super::views::{ModelView, Provenance};

/// The live pair of model and generation. One is loaded at the start of a request and used to its end,
/// so that no answer mixes two.
pub(super) struct Deployment {
    pub(super) generation: Generation,
    pub(super) batcher: Batcher,
}

impl Deployment {
    pub(super) fn first(batcher: Batcher) -> Self {
        Self { generation: Generation(1), batcher }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.batcher.embedder().fingerprint()
    }

    /// Refuses a gallery of another embedding space.
    pub(super) fn check(&self, gallery: &Gallery) -> Result<(), ServiceError> {
        let info = gallery.info();
        if info.fingerprint == self.fingerprint() {
            return Ok(());
        }
        Err(ServiceError::ModelMismatch {
            gallery: info.fingerprint.to_string(),
            serving: self.fingerprint().to_string(),
        })
    }

    pub(super) async fn embed_prompt(&self, prompt: String) -> Result<Embedding, ServiceError> {
        Ok(self.batcher.text(prompt).await?)
    }

    pub(super) fn provenance(&self, gallery: &GalleryId) -> Provenance {
        Provenance {
            gallery: gallery.clone(),
            generation: self.generation,
            model: self.batcher.embedder().name().to_owned(),
            fingerprint: self.fingerprint(),
        }
    }

    pub(super) fn view(&self) -> ModelView {
        let summary = self.batcher.embedder().summary();
        ModelView {
            name: summary.name,
            fingerprint: summary.fingerprint,
            dim: summary.dim,
            image_size: [summary.image_size.0, summary.image_size.1],
            patch_size: summary.patch_size,
            max_tokens: summary.max_tokens,
            parameters: summary.parameters,
            deployed: true,
            generation: self.generation,
        }
    }
}
