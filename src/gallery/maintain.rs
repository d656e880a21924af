//! Merging in the background, and the saved form of lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::storage::{Batch, Seal, Store};

use super::catalogue::Busy;
use super::index::Merge;
use super::key::{self, Key};
use super::space::Role;
use super::{Gallery, GalleryError};

/// Bytes of saved lists that one batch writes.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Desk {
    galleries: BTreeMap<u32, Weak<Gallery>>,
    asked: BTreeSet<u32>,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    asked: Condvar,
    stop: AtomicBool,
}

/// Asks for a gallery to be looked at; cheap, and never waits.
#[derive(Clone, Default)]
pub(super) struct Maintenance(Arc<Shared>);

impl Maintenance {
    fn ask(&self, gallery: u32) {
        if self.0.desk.lock().asked.insert(gallery) {
            self.0.asked.notify_one();
        }
    }

    fn stop_flag(&self) -> &AtomicBool {
        &self.0.stop
    }
}

/// The thread that merges, one gallery at a time.
pub(super) struct Maintainer {
    maintenance: Maintenance,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Maintainer {
    pub(super) fn start(background: bool) -> Result<Self, GalleryError> {
        let maintenance = Maintenance::default();
        let shared = Arc::clone(&maintenance.0);
        let thread = background.then(|| {
            std::thread::Builder::new()
                .name("gallery-merge".to_owned())
                .spawn(move || work(&shared))
                .map_err(|error| GalleryError::Index(error.to_string()))
        });
        Ok(Self { maintenance, thread: Mutex::new(thread.transpose()?) })
    }

    pub(super) fn handle(&self) -> Maintenance {
        self.maintenance.clone()
    }

    pub(super) fn register(&self, gallery: &Arc<Gallery>) {
        let mut desk = self.maintenance.0.desk.lock();
        desk.galleries.insert(gallery.number, Arc::downgrade(gallery));
    }

    /// Waits for the step under way; what is being built is given up.
    pub(super) fn stop(&self) {
        {
            let _desk = self.maintenance.0.desk.lock();
            self.maintenance.0.stop.store(true, Ordering::Relaxed);
            self.maintenance.0.asked.notify_all();
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the merging thread panicked");
        }
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(shared: &Shared) {
    loop {
        let gallery = {
            let mut desk = shared.desk.lock();
            loop {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                match desk.asked.pop_first() {
                    Some(number) => break desk.galleries.get(&number).and_then(Weak::upgrade),
                    None => shared.asked.wait(&mut desk),
                }
            }
        };
        let Some(gallery) = gallery else { continue };
        let spaces = gallery.spaces.load();
        for space in spaces.both() {
            let Some(merge) = space.index.wants() else { continue };
            match space.index.merge(merge, &shared.stop) {
                Ok(()) if merge == Merge::Whole => {
                    if let Err(error) = gallery.save() {
                        tracing::warn!(%error, gallery = %gallery.doc.id, "the index is not saved");
                    }
                }
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, gallery = %gallery.doc.id, "no merge"),
            }
        }
    }
}

impl Gallery {
    /// Has the background look whether a merge is due.
    pub(super) fn changed(&self) {
        if self.spaces.load().both().any(|space| space.index.wants().is_some()) {
            self.maintenance.ask(self.number);
        }
    }

    /// Makes bits, and lists where there is enough for them, of everything enrolled, drops what was removed, and saves the lists for a
    /// fast start. Searches and changes go on meanwhile.
    ///
    /// # Errors
    /// [`GalleryError::Index`] or the store's; the index is as it was then.
    pub fn compact(&self) -> Result<(), GalleryError> {
        self.compact_unless(self.maintenance.stop_flag())
    }

    /// The same, given up when `stop` becomes true.
    ///
    /// # Errors
    /// [`GalleryError::Index`] or the store's; the index is as it was then.
    pub fn compact_unless(&self, stop: &AtomicBool) -> Result<(), GalleryError> {
        let spaces = self.spaces.load();
        spaces.home.index.merge(Merge::Whole, stop).map_err(GalleryError::Index)?;
        self.save()
    }

    /// Merges what is in the space that a deployment fills, so that its first searches are as fast as later ones.
    ///
    /// # Errors
    /// [`GalleryError::Index`].
    pub fn compact_filling(&self, stop: &AtomicBool) -> Result<(), GalleryError> {
        match &self.spaces.load().beside {
            Some((space, Role::Filling)) => {
                space.index.merge(Merge::Whole, stop).map_err(GalleryError::Index)
            }
            Some((_, Role::Previous)) | None => Ok(()),
        }
    }

    /// Saves the lists of the space that is searched. Not one batch: a crash between leaves a mixture, which its digest tells from
    /// lists, and they are made anew then.
    ///
    /// # Errors
    /// The store's.
    pub fn save(&self) -> Result<(), GalleryError> {
        // A deletion waits until it is done: what were written after that would stay.
        let _reservation = self.reserve(vec![Busy::Lists]);
        if self.state().deleted {
            return Ok(());
        }
        let home = Arc::clone(&self.spaces.load().home);
        // Lists are of one generation's templates and would lead astray among another's.
        let lists = home
            .index
            .to_bytes()
            .map(|lists| [home.of.generation.0.to_be_bytes().as_slice(), &lists].concat());
        let bytes = lists.unwrap_or_default();
        let mut batch = Batch::default();
        let mut waiting = 0;
        let mut count = 0;
        for (chunk, part) in (0_u32..).zip(bytes.chunks(Store::max_value())) {
            let key = Key::SegmentChunk { gallery: self.number, chunk };
            batch.put(key.encode(), part.to_vec(), Seal::Store);
            count = chunk + 1;
            waiting += part.len();
            if waiting >= COMMIT_BYTES {
                self.store.commit(std::mem::take(&mut batch))?;
                waiting = 0;
            }
        }
        for at in self.store.keys(&key::in_gallery(key::SEGMENT_CHUNK, self.number))? {
            let stale = match Key::decode(&at) {
                Some(Key::SegmentChunk { chunk, .. }) => chunk >= count,
                Some(_) | None => false,
            };
            if stale {
                batch.remove(at);
            }
        }
        self.store.commit(batch)?;
        Ok(())
    }
}
