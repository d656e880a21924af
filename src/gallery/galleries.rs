use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::domain::{GalleryId, now_ms};
use crate::storage::{Batch, Seal, Store};

use super::erase::{delete_gallery, resume, resume_deletions};
use super::key::{self, Key};
use super::maintain::Maintainer;
use super::record::{GalleryDoc, from_json, to_json};
use super::space::BesideDoc;
use super::types::{GallerySpec, MAX_DESCRIPTION, MAX_DIM};
use super::{Gallery, GalleryError, GalleryOptions};

struct Inner {
    store: Store,
    options: GalleryOptions,
    galleries: RwLock<BTreeMap<GalleryId, Arc<Gallery>>>,
    /// Taken by whoever creates or deletes; holds the next gallery's number.
    next: Mutex<u32>,
    maintainer: Maintainer,
}

/// All galleries of a store. Clones share them.
#[derive(Clone)]
pub struct Galleries(Arc<Inner>);

impl std::fmt::Debug for Galleries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Galleries({:?})", self.0.store)
    }
}

impl Galleries {
    /// Reads every gallery of a store, after finishing erasures and deletions that a crash
    /// interrupted.
    ///
    /// # Errors
    /// [`GalleryError::Inconsistent`] or the store's.
    pub fn open(store: Store, options: GalleryOptions) -> Result<Self, GalleryError> {
        resume_deletions(&store)?;
        let maintainer = Maintainer::start(options.background)?;
        let mut galleries = BTreeMap::new();
        let mut next = 0;
        for at in store.keys(&[key::DELETION])? {
            if let Some(Key::Deletion { gallery }) = Key::decode(&at) {
                // Its number is not given again: an older backup may hold what was in it.
                next = next.max(gallery + 1);
            }
        }
        for record in store.scan(&[key::GALLERY]) {
            let (at, text) = record?;
            let Some(Key::Gallery { gallery: number }) = Key::decode(&at) else {
                return Err(GalleryError::inconsistent(&at, "not a gallery's key"));
            };
            let doc: GalleryDoc = from_json(&at, &text)?;
            next = next.max(number + 1);
            let finished = resume(&store, number)?;
            if finished > 0 {
                tracing::warn!(gallery = %doc.id, finished, "finished interrupted erasures");
            }
            let id = doc.id.clone();
            let handle = maintainer.handle();
            let gallery = Gallery::empty(number, doc, store.clone(), options.clone(), handle);
            gallery.load()?;
            let gallery = Arc::new(gallery);
            maintainer.register(&gallery);
            galleries.insert(id, gallery);
        }
        let live = galleries.values().flat_map(|gallery| gallery.data_keys()).collect();
        let orphans = store.retain_data_keys(&live)?;
        if orphans > 0 {
            tracing::info!(orphans, "destroyed data keys that no record uses");
        }
        let galleries = RwLock::new(galleries);
        let next = Mutex::new(next);
        let opened = Self(Arc::new(Inner { store, options, galleries, next, maintainer }));
        opened.purge()?;
        opened.list().iter().for_each(|gallery| gallery.changed());
        Ok(opened)
    }

    /// Creates an empty gallery; durable when this returns.
    ///
    /// # Errors
    /// [`GalleryError::GalleryExists`], [`GalleryError::GalleryDimensions`], [`GalleryError::TooLong`],
    /// [`GalleryError::TooManyGalleries`] or the store's.
    pub fn create(&self, spec: GallerySpec) -> Result<Arc<Gallery>, GalleryError> {
        self.create_with(|| spec)
    }

    /// The same, with what is asked for only when no deployment can take its next step.
    ///
    /// # Errors
    /// As [`Galleries::create`].
    pub fn create_with(
        &self,
        spec: impl FnOnce() -> GallerySpec,
    ) -> Result<Arc<Gallery>, GalleryError> {
        let Inner { store, options, galleries, next, maintainer } = &*self.0;
        let mut next = next.lock();
        let GallerySpec {
            id,
            dim,
            generation,
            fingerprint,
            beside,
            retain_images,
            allow_training,
            description,
            policy,
        } = spec();
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(GalleryError::GalleryDimensions { got: dim });
        }
        if description.len() > MAX_DESCRIPTION {
            let (got, max) = (description.len(), MAX_DESCRIPTION);
            return Err(GalleryError::TooLong { what: "description", got, max });
        }
        if galleries.read().contains_key(&id) {
            return Err(GalleryError::GalleryExists(id));
        }
        let max = options.max_galleries;
        if galleries.read().len() >= max {
            return Err(GalleryError::TooManyGalleries { max });
        }
        let created_at_ms = now_ms();
        let doc = GalleryDoc {
            id: id.clone(),
            dim,
            generation,
            fingerprint,
            retain_images,
            allow_training,
            description,
            created_at_ms,
            partial: false,
            beside: beside.map(|(space, role)| BesideDoc { space, role }),
            purging: Vec::new(),
        };
        let number = *next;
        let mut batch = Batch::default();
        batch.put(
            Key::Gallery { gallery: number }.encode(),
            to_json("gallery", &doc)?,
            Seal::Store,
        );
        batch.put(
            Key::Policy { gallery: number }.encode(),
            to_json("policy", &policy)?,
            Seal::Store,
        );
        store.commit(batch)?;
        *next += 1;
        let handle = maintainer.handle();
        let gallery = Gallery::empty(number, doc, store.clone(), options.clone(), handle);
        gallery.policy.store(Arc::new(policy));
        let gallery = Arc::new(gallery);
        maintainer.register(&gallery);
        galleries.write().insert(id, Arc::clone(&gallery));
        Ok(gallery)
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    /// While held, no gallery is created or deleted and no deployment takes a step.
    pub(super) fn lock(&self) -> MutexGuard<'_, u32> {
        self.0.next.lock()
    }

    /// Every gallery, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Gallery>> {
        self.0.galleries.read().values().cloned().collect()
    }

    /// A gallery by its id.
    ///
    /// # Errors
    /// [`GalleryError::GalleryNotFound`].
    pub fn get(&self, id: &GalleryId) -> Result<Arc<Gallery>, GalleryError> {
        let galleries = self.0.galleries.read();
        galleries.get(id).cloned().ok_or_else(|| GalleryError::GalleryNotFound(id.clone()))
    }

    /// Deletes a gallery with everything in it, destroying every subject's data key.
    ///
    /// # Errors
    /// [`GalleryError::GalleryNotFound`] or the store's; a deletion that failed half-way is finished by
    /// asking again or at the next start.
    pub fn delete(&self, id: &GalleryId) -> Result<(), GalleryError> {
        let _creating = self.0.next.lock();
        let gallery = self.get(id)?;
        let mut batch = Batch::of_erasure();
        batch.put(Key::DeletionBegun { gallery: gallery.number }.encode(), Vec::new(), Seal::Store);
        self.0.store.commit(batch)?;
        let data_keys = gallery.bury();
        delete_gallery(&self.0.store, gallery.number, &data_keys)?;
        self.0.galleries.write().remove(id);
        Ok(())
    }

    /// Stops background work, saves each gallery's index for a fast start, and closes the store.
    ///
    /// # Errors
    /// The store's. Nothing that was acknowledged depends on it.
    pub fn close(&self) -> Result<(), GalleryError> {
        self.0.maintainer.stop();
        let saved = self.list().iter().try_for_each(|gallery| gallery.save());
        self.0.store.close();
        saved
    }
}

#[cfg(test)]
mod tests {
    use crate::gallery::testing;

    #[test]
    fn a_deletion_that_could_not_destroy_its_keys_knows_them_when_it_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let (galleries, gallery) = testing::gallery(dir.path());
        gallery.enrol(testing::sample()).unwrap();
        let keys = gallery.bury();
        assert_eq!(keys.len(), 1);
        assert_eq!(gallery.bury(), keys);
        galleries.delete(gallery.id()).unwrap();
        let live = std::collections::HashSet::new();
        assert_eq!(galleries.store().retain_data_keys(&live).unwrap(), 0, "none is left");
    }
}
