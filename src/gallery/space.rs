//! The embedding spaces that a gallery has templates in: the one it is searched in, and at most one beside it, which a
//! deployment fills or which is kept so that a deployment can be undone.

use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::domain::{Calibration, Embedding, Fingerprint, Generation};

use super::GalleryOptions;
use super::index::Index;

/// What makes templates comparable: the deployment that brought their model, the model, and how long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TemplateSpace {
    /// The deployment.
    pub generation: Generation,
    /// The model.
    pub fingerprint: Fingerprint,
    /// Values of a template.
    pub dim: usize,
}

/// A template of one space.
#[derive(Debug, Clone)]
pub struct Template {
    /// Generation of its space.
    pub generation: Generation,
    /// Model that made it.
    pub fingerprint: Fingerprint,
    /// Its values.
    pub embedding: Embedding,
}

/// Why a gallery has a second space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A deployment is filling it: samples may lack a template in it.
    Filling,
    /// It was searched before the last deployment: every sample has a template in it, so that the deployment can be undone.
    Previous,
}

/// A space and what it is there for, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BesideDoc {
    pub(super) space: TemplateSpace,
    pub(super) role: Role,
}

/// A gallery's templates in one space.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) of: TemplateSpace,
    pub(super) index: Index,
    pub(super) calibration: ArcSwapOption<Calibration>,
}

impl Space {
    pub(super) fn empty(of: TemplateSpace, options: &GalleryOptions) -> Arc<Self> {
        let index = Index::new(of.dim, options);
        Arc::new(Self { of, index, calibration: ArcSwapOption::empty() })
    }

    /// The template among these that belongs here.
    pub(super) fn mine<'a>(
        &self,
        templates: impl IntoIterator<Item = &'a Template>,
    ) -> Option<&'a Embedding> {
        let belongs = |template: &&Template| {
            template.generation == self.of.generation && template.fingerprint == self.of.fingerprint
        };
        templates.into_iter().find(belongs).map(|template| &template.embedding)
    }
}

/// The spaces in use, replaced as a whole.
#[derive(Debug, Clone)]
pub(super) struct Spaces {
    /// The one that is searched.
    pub(super) home: Arc<Space>,
    /// Samples may lack a template at home: they had no image to make one from, and were dropped by a deployment that can
    /// still be undone.
    pub(super) partial: bool,
    pub(super) beside: Option<(Arc<Space>, Role)>,
}

impl Spaces {
    pub(super) fn both(&self) -> impl Iterator<Item = &Arc<Space>> {
        std::iter::once(&self.home).chain(self.beside.as_ref().map(|(space, _)| space))
    }

    /// Whether a sample that is enrolled can be found: not if a deployment dropped it.
    pub(super) fn finds(&self, subject_number: u64, number: u64) -> bool {
        !self.partial || self.home.index.holds(subject_number, number)
    }

    pub(super) fn beside_doc(&self) -> Option<BesideDoc> {
        self.beside.as_ref().map(|(space, role)| BesideDoc { space: space.of, role: *role })
    }
}

/// The current spaces, and those that were given up and may still be searched by somebody.
#[derive(Debug)]
pub(super) struct SpaceTable {
    current: ArcSwap<Spaces>,
    given_up: Mutex<Vec<Weak<Space>>>,
}

impl SpaceTable {
    pub(super) fn new(spaces: Spaces) -> Self {
        Self { current: ArcSwap::from_pointee(spaces), given_up: Mutex::default() }
    }

    pub(super) fn load(&self) -> Arc<Spaces> {
        self.current.load_full()
    }

    pub(super) fn replace(&self, spaces: Spaces) {
        let mut given_up = self.given_up.lock();
        let before = self.current.swap(Arc::new(spaces.clone()));
        given_up.retain(|space| space.strong_count() > 0);
        let kept = |space: &Arc<Space>| spaces.both().any(|other| Arc::ptr_eq(space, other));
        given_up.extend(before.both().filter(|space| !kept(space)).map(Arc::downgrade));
    }

    /// Every index that somebody may be searching: what is removed must leave them all.
    pub(super) fn each_index(&self, change: impl Fn(&Index)) {
        let given_up = self.given_up.lock();
        self.current.load().both().for_each(|space| change(&space.index));
        given_up.iter().filter_map(Weak::upgrade).for_each(|space| change(&space.index));
    }
}
