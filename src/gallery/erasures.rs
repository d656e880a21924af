//! What was erased from a store, as something that can be taken along: whoever puts back a backup applies it, and nobody who was
//! erased after the backup was made comes back.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::storage::{Batch, DataKey, Seal, Store};

use super::GalleryError;
use super::erase::{Keys, delete_gallery, finish, resume, resume_deletions};
use super::key::{self, Key};
use super::record::uuid_text::Uuid;
use super::record::{DeletionDoc, ErasureDoc, GalleryDoc, SubjectDoc, from_json, to_json};

/// A person or a gallery that is gone. Names nobody: a person is a keyed hash, which only the store's own keys make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Erasure {
    /// A person.
    Subject {
        /// The gallery's number.
        gallery: u32,
        /// Keyed hash of the subject's id.
        name: [u8; 16],
        /// The receipt's number.
        receipt: String,
        /// Samples that were erased.
        samples: usize,
        /// When, in milliseconds since 1970.
        erased_at_ms: u64,
    },
    /// A gallery with everybody in it.
    Gallery {
        /// The gallery's number.
        gallery: u32,
        /// When, in milliseconds since 1970.
        erased_at_ms: u64,
    },
}

/// Everything that was ever erased from a store.
///
/// # Errors
/// The store's.
pub fn erasures(store: &Store) -> Result<Vec<Erasure>, GalleryError> {
    let mut found = Vec::new();
    for record in store.scan(&[key::DELETION]) {
        let (at, text) = record?;
        let Some(Key::Deletion { gallery }) = Key::decode(&at) else {
            return Err(GalleryError::inconsistent(&at, "not the key of a deletion"));
        };
        let doc: DeletionDoc = from_json(&at, &text)?;
        found.push(Erasure::Gallery { gallery, erased_at_ms: doc.deleted_at_ms });
    }
    for record in store.scan(&[key::TOMBSTONE]).chain(store.scan(&[key::ERASURE_BEGUN])) {
        let (at, text) = record?;
        let gallery = match Key::decode(&at) {
            // One that has begun counts.
            Some(Key::Tombstone { gallery, .. } | Key::ErasureBegun { gallery, .. }) => gallery,
            Some(_) | None => {
                return Err(GalleryError::inconsistent(&at, "not the key of an erasure"));
            }
        };
        let doc: ErasureDoc = from_json(&at, &text)?;
        found.push(Erasure::Subject {
            gallery,
            name: doc.name,
            receipt: doc.receipt.0.to_string(),
            samples: doc.samples,
            erased_at_ms: doc.erased_at_ms,
        });
    }
    Ok(found)
}

/// Erases from a store that no gallery is open of who was erased elsewhere after they were enrolled here, and remembers all of it. Says
/// how many people are gone by that; those whose erasure had begun here are gone too, and not counted. May be repeated.
///
/// # Errors
/// [`GalleryError::Inconsistent`] for an erasure that is none, or the store's.
pub fn apply_erasures(store: &Store, erasures: &[Erasure]) -> Result<usize, GalleryError> {
    // What had begun when the store was copied comes first: of whom a key is gone already no record can be opened.
    resume_deletions(store)?;
    for at in store.keys(&[key::GALLERY])? {
        if let Some(Key::Gallery { gallery }) = Key::decode(&at) {
            resume(store, gallery)?;
        }
    }
    let mut gone = 0;
    for erasure in erasures {
        if let Erasure::Gallery { gallery, erased_at_ms } = erasure {
            gone += forget_gallery(store, *gallery, *erased_at_ms)?;
        }
    }
    let mut wanted: HashMap<(u32, [u8; 16]), Vec<&Erasure>> = HashMap::new();
    for erasure in erasures {
        if let Erasure::Subject { gallery, name, .. } = erasure {
            wanted.entry((*gallery, *name)).or_default().push(erasure);
        }
    }
    let deleted: HashSet<u32> = store
        .keys(&[key::DELETION])?
        .iter()
        .filter_map(|at| match Key::decode(at) {
            Some(Key::Deletion { gallery }) => Some(gallery),
            Some(_) | None => None,
        })
        .collect();
    let names = Keys(store);
    for record in store.scan(&[key::SUBJECT]) {
        let (at, text) = record?;
        let Some(Key::Subject { gallery, subject }) = Key::decode(&at) else {
            return Err(GalleryError::inconsistent(&at, "not a subject's key"));
        };
        let doc: SubjectDoc = from_json(&at, &text)?;
        let Some(of_name) = wanted.get(&(gallery, names.name(gallery, &doc.id))) else { continue };
        for erasure in of_name {
            let tombstone = tombstone(erasure, Some(doc.data_key))?;
            if doc.created_at_ms <= tombstone.erased_at_ms {
                finish(store, gallery, subject, &tombstone)?;
                gone += 1;
                break;
            }
        }
    }
    // All of them, also of those who are not here: the next backup may be older still.
    let mut batch = Batch::of_erasure();
    for ((gallery, name), of_name) in wanted.iter().filter(|((of, _), _)| !deleted.contains(of)) {
        for erasure in of_name {
            let doc = tombstone(erasure, None)?;
            let (gallery, name, receipt) = (*gallery, *name, *doc.receipt.0.as_bytes());
            let at = Key::Tombstone { gallery, name, receipt }.encode();
            batch.put(at, to_json("tombstone", &doc)?, Seal::Store);
        }
    }
    store.commit(batch)?;
    Ok(gone)
}

fn tombstone(erasure: &Erasure, data_key: Option<DataKey>) -> Result<ErasureDoc, GalleryError> {
    let Erasure::Subject { name, receipt, samples, erased_at_ms, .. } = erasure else {
        return Err(GalleryError::inconsistent(&[], "an erasure of a gallery"));
    };
    let receipt = receipt.parse().map_err(|e| GalleryError::inconsistent(&[], e))?;
    let (samples, erased_at_ms) = (*samples, *erased_at_ms);
    Ok(ErasureDoc { receipt: Uuid(receipt), name: *name, samples, erased_at_ms, data_key })
}

/// Deletes a gallery that was made before it was deleted elsewhere. Gives how many were in it.
fn forget_gallery(store: &Store, gallery: u32, erased_at_ms: u64) -> Result<usize, GalleryError> {
    let at = Key::Gallery { gallery }.encode();
    if let Some(text) = store.get(&at)? {
        let doc: GalleryDoc = from_json(&at, &text)?;
        if doc.created_at_ms > erased_at_ms {
            return Ok(0);
        }
        let mut data_keys = HashSet::new();
        for record in store.scan(&key::in_gallery(key::SUBJECT, gallery)) {
            let (at, text) = record?;
            let doc: SubjectDoc = from_json(&at, &text)?;
            data_keys.insert(doc.data_key);
        }
        let mut batch = Batch::of_erasure();
        batch.put(Key::DeletionBegun { gallery }.encode(), Vec::new(), Seal::Store);
        store.commit(batch)?;
        delete_gallery(store, gallery, &data_keys)?;
        return Ok(data_keys.len());
    }
    let mut batch = Batch::of_erasure();
    let doc = DeletionDoc { deleted_at_ms: erased_at_ms };
    batch.put(Key::Deletion { gallery }.encode(), to_json("deletion", &doc)?, Seal::Store);
    store.commit(batch)?;
    Ok(0)
}
