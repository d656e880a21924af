use std::sync::Arc;

use crate::domain::{Embedding, Fingerprint, GalleryId, Generation};
use crate::gallery::{Gallery, GalleryView, Role, TemplateSpace};
use crate::model::Batcher;

use super::record::ModelRef;
use crate::service::error::ServiceError;
use crate::service::options::ModelChoice;
use crate::service::registry::Held;
use crate::service::views::{ModelView, Provenance};

/// A model with its thread, and the generation that it makes templates of.
pub(in crate::service) struct Serving {
    pub(in crate::service) generation: Generation,
    pub(in crate::service) batcher: Batcher,
    pub(super) model: ModelRef,
    /// Keeps the registry from deleting it.
    pub(super) _held: Option<Held>,
}

impl Serving {
    pub(in crate::service) fn fingerprint(&self) -> Fingerprint {
        self.batcher.embedder().fingerprint()
    }

    pub(in crate::service) fn space(&self) -> TemplateSpace {
        TemplateSpace {
            generation: self.generation,
            fingerprint: self.fingerprint(),
            dim: self.batcher.embedder().dim(),
        }
    }

    pub(in crate::service) async fn embed_prompt(
        &self,
        prompt: String,
    ) -> Result<Embedding, ServiceError> {
        Ok(self.batcher.text(prompt).await?)
    }

    pub(in crate::service) fn provenance(&self, gallery: &GalleryId) -> Provenance {
        Provenance {
            gallery: gallery.clone(),
            generation: self.generation,
            model: self.batcher.embedder().name().to_owned(),
            fingerprint: self.fingerprint(),
        }
    }

    pub(in crate::service) fn view(&self) -> ModelView {
        ModelView {
            deployed: true,
            generation: Some(self.generation),
            ..self.batcher.embedder().summary().into()
        }
    }

    /// What opens it, if it is of this name and comes from a folder that the server was started with.
    pub(in crate::service) fn directory(&self, name: &str) -> Option<ModelChoice> {
        match &self.model {
            ModelRef::Directory(path) if self.batcher.embedder().name() == name => {
                Some(ModelChoice::Directory(path.clone()))
            }
            ModelRef::Directory(_) | ModelRef::Nano | ModelRef::Registered(_) => None,
        }
    }

    pub(in crate::service) fn is_registered(&self, name: &str) -> bool {
        matches!(&self.model, ModelRef::Registered(own) if own == name)
    }
}

/// The models in use. One is loaded at the start of a request and used to its end, so that no answer mixes two.
#[derive(Clone)]
pub(in crate::service) struct Deployment {
    /// The one that serves.
    pub(in crate::service) live: Arc<Serving>,
    /// The one before it, while it can be returned to.
    pub(in crate::service) previous: Option<Arc<Serving>>,
    /// The one that is being brought, once it is loaded.
    pub(in crate::service) filling: Option<Arc<Serving>>,
    /// Its space, loaded or not.
    pub(in crate::service) filling_space: Option<TemplateSpace>,
    /// Those of galleries that stayed where they were.
    pub(in crate::service) kept: Vec<Arc<Serving>>,
}

impl Deployment {
    pub(in crate::service) fn first(live: Serving) -> Self {
        Self {
            live: Arc::new(live),
            previous: None,
            filling: None,
            filling_space: None,
            kept: Vec::new(),
        }
    }

    /// Those that answer, the one that serves first.
    pub(super) fn answering(&self) -> impl Iterator<Item = &Arc<Serving>> {
        std::iter::once(&self.live).chain(&self.previous).chain(&self.kept)
    }

    /// Whether a model does not serve yet.
    pub(in crate::service) fn is_filling(&self, serving: &Arc<Serving>) -> bool {
        self.filling.as_ref().is_some_and(|filling| Arc::ptr_eq(filling, serving))
    }

    /// Those that are loaded.
    pub(in crate::service) fn in_use(&self) -> impl Iterator<Item = &Arc<Serving>> {
        let mut seen = std::collections::HashSet::new();
        self.answering().chain(&self.filling).filter(move |serving| seen.insert(serving.space()))
    }

    /// The spaces that a new gallery has: the one that is searched, and the one beside it.
    pub(in crate::service) fn spaces(&self) -> (TemplateSpace, Option<(TemplateSpace, Role)>) {
        let previous = self.previous.as_ref().map(|serving| (serving.space(), Role::Previous));
        let filling = self.filling_space.map(|space| (space, Role::Filling));
        (self.live.space(), previous.or(filling))
    }

    /// The model that made a gallery's templates, and the gallery in its space.
    fn seat(&self, gallery: &Arc<Gallery>) -> Option<(Arc<Serving>, GalleryView)> {
        self.answering()
            .find_map(|serving| Some((Arc::clone(serving), gallery.at(serving.space())?)))
    }

    /// The models whose templates a new sample of a gallery is to have, the one that is searched first. One that is still
    /// being brought is left out where it is not loaded yet: a backfill comes by.
    pub(in crate::service) fn writers(&self, gallery: &Gallery) -> Option<Vec<Arc<Serving>>> {
        let all = || self.answering().chain(&self.filling);
        let mut writers = Vec::new();
        for (space, may_lack) in gallery.spaces() {
            match all().find(|serving| serving.space() == space) {
                Some(serving) => writers.push(Arc::clone(serving)),
                None if may_lack => {}
                None => return None,
            }
        }
        Some(writers)
    }
}

/// A gallery, and the model that it is asked with: of one load of the deployment.
pub(in crate::service) struct Seat {
    pub(in crate::service) deployment: Arc<Deployment>,
    pub(in crate::service) serving: Arc<Serving>,
    pub(in crate::service) view: GalleryView,
}

impl Seat {
    /// Refuses a gallery of another embedding space.
    pub(super) fn take(
        deployment: Arc<Deployment>,
        gallery: &Arc<Gallery>,
    ) -> Result<Self, ServiceError> {
        match deployment.seat(gallery) {
            Some((serving, view)) => Ok(Self { deployment, serving, view }),
            None => Err(ServiceError::ModelMismatch {
                gallery: gallery.info().fingerprint.to_string(),
                serving: deployment.live.fingerprint().to_string(),
            }),
        }
    }

    pub(in crate::service) fn gallery(&self) -> &Arc<Gallery> {
        self.view.gallery()
    }
}
