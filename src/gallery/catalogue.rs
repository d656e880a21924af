//! What a gallery keeps in memory besides the index: who is enrolled, and who is being changed.

use std::collections::{BTreeMap, HashMap, HashSet};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::domain::{Consent, GalleryPolicy, SampleId, SubjectId};
use crate::storage::{DataKey, Store};

use super::index::Index;
use super::key::Key;
use super::record::{GalleryDoc, template_from_bytes};
use super::space::{Space, SpaceTable, Spaces, TemplateSpace};
use super::{GalleryError, GalleryOptions};

pub(super) struct SampleEntry {
    pub(super) number: u64,
    pub(super) content_hash: [u8; 32],
}

pub(super) struct SubjectEntry {
    pub(super) number: u64,
    pub(super) data_key: DataKey,
    pub(super) samples: BTreeMap<SampleId, SampleEntry>,
    pub(super) by_content: HashMap<[u8; 32], SampleId>,
    /// An erasure began and has not finished.
    pub(super) erasing: bool,
    pub(super) consent: Option<Consent>,
    /// The last enrolment, verification or identification, in milliseconds since 1970, and what the store knows of it by the
    /// subject's own records: those of samples go with them.
    pub(super) last_ms: u64,
    pub(super) saved_ms: u64,
}

impl SubjectEntry {
    /// Of who has no sample left nothing but `created_at_ms` may say when they were seen.
    pub(super) fn new(number: u64, data_key: DataKey, created_at_ms: u64) -> Self {
        Self {
            number,
            data_key,
            samples: BTreeMap::new(),
            by_content: HashMap::new(),
            erasing: false,
            consent: None,
            last_ms: created_at_ms,
            saved_ms: created_at_ms,
        }
    }
}

/// What changes work on: two changes of one name wait for each other, all others share a sync.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Busy {
    Subject(SubjectId),
    Sample(SampleId),
    Calibration,
    Policy,
    /// The saved lists.
    Lists,
    /// The gallery's own record, where what was given up is removed.
    Record,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) subjects: BTreeMap<SubjectId, SubjectEntry>,
    pub(super) samples: HashMap<SampleId, SubjectId>,
    pub(super) next_subject: u64,
    pub(super) next_sample: u64,
    busy: HashSet<Busy>,
    /// The gallery was deleted while somebody still held it.
    pub(super) deleted: bool,
    /// Data keys of who was in it, for as long as they may not all be destroyed.
    buried: HashSet<DataKey>,
}

/// An enrolled set, searched by similarity. Searches take no lock; changes of different subjects
/// run beside each other.
pub struct Gallery {
    pub(super) number: u32,
    pub(super) doc: GalleryDoc,
    pub(super) store: Store,
    pub(super) options: GalleryOptions,
    pub(super) spaces: SpaceTable,
    /// Held for reading by whoever writes templates, for writing while the spaces change places.
    pub(super) shift: RwLock<()>,
    /// Generations whose templates are to go.
    pub(super) purging: Mutex<Vec<u64>>,
    pub(super) maintenance: super::maintain::Maintenance,
    pub(super) policy: ArcSwap<GalleryPolicy>,
    state: Mutex<State>,
    freed: Condvar,
}

impl std::fmt::Debug for Gallery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gallery({})", self.doc.id)
    }
}

impl Gallery {
    pub(super) fn empty(
        number: u32,
        doc: GalleryDoc,
        store: Store,
        options: GalleryOptions,
        maintenance: super::maintain::Maintenance,
    ) -> Self {
        let purging = Mutex::new(doc.purging.clone());
        let spaces = SpaceTable::new(Spaces {
            home: Space::empty(doc.home(), &options),
            partial: doc.partial,
            beside: doc.beside.map(|beside| (Space::empty(beside.space, &options), beside.role)),
        });
        Self {
            number,
            doc,
            store,
            options,
            spaces,
            shift: RwLock::new(()),
            purging,
            maintenance,
            policy: ArcSwap::default(),
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Reads a sample's template in a space; `None` when there is none.
    pub(super) fn template(
        &self,
        space: TemplateSpace,
        (subject, sample): (u64, u64),
    ) -> Result<Option<crate::domain::Embedding>, GalleryError> {
        let generation = space.generation.0;
        let at = Key::Template { gallery: self.number, subject, sample, generation }.encode();
        let bytes = self.store.get(&at)?;
        bytes.map(|bytes| template_from_bytes(&at, &bytes, space.dim)).transpose()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until nobody else changes any of `names`, and marks them as being changed.
    pub(super) fn reserve(&self, names: Vec<Busy>) -> Reservation<'_> {
        let mut state = self.state.lock();
        while names.iter().any(|name| state.busy.contains(name)) {
            self.freed.wait(&mut state);
        }
        state.busy.extend(names.iter().cloned());
        Reservation { gallery: self, names }
    }
}

impl State {
    pub(super) fn insert(
        &mut self,
        subject: &SubjectId,
        sample: SampleId,
        number: u64,
        content_hash: [u8; 32],
    ) {
        if let Some(entry) = self.subjects.get_mut(subject) {
            entry.by_content.insert(content_hash, sample.clone());
            entry.samples.insert(sample.clone(), SampleEntry { number, content_hash });
            self.samples.insert(sample, subject.clone());
        }
    }

    /// Somebody was seen; later times win.
    pub(super) fn interacted(&mut self, subject: &SubjectId, at_ms: u64) {
        if let Some(entry) = self.subjects.get_mut(subject) {
            entry.last_ms = entry.last_ms.max(at_ms);
        }
    }

    pub(super) fn remove_subject(&mut self, subject: &SubjectId) {
        if let Some(entry) = self.subjects.remove(subject) {
            for sample in entry.samples.keys() {
                self.samples.remove(sample);
            }
        }
    }

    /// Samples of those who are enrolled and not being erased: the rows of a space that none lacks a template in.
    pub(super) fn present_samples(&self) -> usize {
        let present = self.subjects.values().filter(|entry| !entry.erasing);
        present.map(|entry| entry.samples.len()).sum()
    }

    /// A subject that is enrolled and not being erased.
    pub(super) fn present(&self, subject: &SubjectId) -> Result<&SubjectEntry, GalleryError> {
        match self.subjects.get(subject) {
            Some(entry) if entry.erasing => Err(GalleryError::Erasing(subject.clone())),
            Some(entry) => Ok(entry),
            None => Err(GalleryError::SubjectNotFound(subject.clone())),
        }
    }
}

/// Names being changed, until dropped.
pub(super) struct Reservation<'a> {
    gallery: &'a Gallery,
    names: Vec<Busy>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.gallery.state.lock();
        for name in &self.names {
            state.busy.remove(name);
        }
        self.gallery.freed.notify_all();
    }
}

impl Gallery {
    /// The data keys of every subject.
    pub(super) fn data_keys(&self) -> Vec<DataKey> {
        self.state().subjects.values().map(|entry| entry.data_key).collect()
    }

    /// Waits for changes under way, refuses new ones, forgets everything, and says which data keys are to
    /// be destroyed; the same again where that failed.
    pub(super) fn bury(&self) -> HashSet<DataKey> {
        let mut state = self.state.lock();
        state.deleted = true;
        while !state.busy.is_empty() {
            self.freed.wait(&mut state);
        }
        state.samples.clear();
        let subjects = std::mem::take(&mut state.subjects);
        self.spaces.each_index(Index::clear);
        state.buried.extend(subjects.into_values().map(|entry| entry.data_key));
        state.buried.clone()
    }
}
