//! Erasing a person. Four steps, each repeated at the next start if a crash comes between:
//!
//! 1. a durable note that the erasure began, so that it is finished whatever happens;
//! 2. the rows leave the index, so that no search finds them;
//! 3. the subject's data key is destroyed in place: from here nobody can read the records, not
//!    in the log, where deleted bytes stay, nor in an older copy of it;
//! 4. the records are removed, the note is replaced by a tombstone, in one batch.
//!
//! The tombstone and the receipt hold no biometric data, and the tombstone not even the name: a keyed hash of
//! it, enough to refuse a backup that would bring the person back.

use std::collections::HashSet;

use serde::Serialize;

use crate::domain::{GalleryId, SubjectId, hex, now_ms};
use crate::storage::{Batch, DataKey, Seal, Store, hmac_sha256, macs_equal};

use super::catalogue::Busy;
use super::key::{self, Key};
use super::record::uuid_text::Uuid;
use super::record::{DeletionDoc, ErasureDoc, from_json, to_json};
use super::{Gallery, GalleryError};

/// Proof that a subject was erased, for whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErasureReceipt {
    /// Names this erasure.
    pub receipt: String,
    /// The gallery erased from.
    pub gallery: GalleryId,
    /// Who was erased.
    pub subject: SubjectId,
    /// Samples erased.
    pub samples: usize,
    /// When, in milliseconds since 1970.
    pub erased_at_ms: u64,
    /// HMAC-SHA-256 over the other fields, in hexadecimal, under a key of the store's.
    pub signature: String,
}

/// Keys for signing receipts and for hashing names; drawn from the store's master key.
pub(super) struct Keys<'a>(pub(super) &'a Store);

impl Keys<'_> {
    fn signature(&self, receipt: &ErasureReceipt) -> [u8; 32] {
        let key = self.0.derive_key("erasure receipt");
        // Lengths first, so that no two receipts read the same.
        let texts = [&receipt.receipt, receipt.gallery.as_str(), receipt.subject.as_str()];
        let mut signed = Vec::new();
        for text in texts {
            signed.extend_from_slice(&(text.len() as u64).to_le_bytes());
            signed.extend_from_slice(text.as_bytes());
        }
        hmac_sha256(
            &key,
            &[
                &signed,
                &(receipt.samples as u64).to_le_bytes(),
                &receipt.erased_at_ms.to_le_bytes(),
            ],
        )
    }

    pub(super) fn name(&self, gallery: u32, subject: &SubjectId) -> [u8; 16] {
        let key = self.0.derive_key("erased name");
        let hash = hmac_sha256(&key, &[&gallery.to_be_bytes(), subject.as_str().as_bytes()]);
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        name
    }
}

impl Gallery {
    /// Erases a subject for good: key, records, images and index entries. Asking again after a
    /// failure finishes what was begun.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], or the store's.
    pub fn erase_subject(&self, subject: &SubjectId) -> Result<ErasureReceipt, GalleryError> {
        let _reservation = self.reserve(vec![Busy::Subject(subject.clone())]);
        self.erase_reserved(subject)
    }

    /// The same, if their time is over; `None`, with nothing changed, for who agreed anew, was seen or was enrolled again since
    /// somebody looked.
    ///
    /// # Errors
    /// The store's.
    pub fn erase_overdue(
        &self,
        subject: &SubjectId,
        now_ms: u64,
    ) -> Result<Option<ErasureReceipt>, GalleryError> {
        let _reservation = self.reserve(vec![Busy::Subject(subject.clone())]);
        match self.why_overdue(subject, now_ms) {
            Some(_) => self.erase_reserved(subject).map(Some),
            None => Ok(None),
        }
    }

    /// Of a subject that the caller has reserved.
    fn erase_reserved(&self, subject: &SubjectId) -> Result<ErasureReceipt, GalleryError> {
        let (number, data_key, samples, erasing) = {
            let state = self.state();
            let entry = state.subjects.get(subject);
            let entry = entry.ok_or_else(|| GalleryError::SubjectNotFound(subject.clone()))?;
            (entry.number, entry.data_key, entry.samples.len(), entry.erasing)
        };
        let failpoint = self.store.failpoint();
        failpoint.reach("erase.before");
        let note_key = Key::ErasureBegun { gallery: self.number, subject: number }.encode();
        let noted = if erasing { self.store.get(&note_key)? } else { None };
        let doc: ErasureDoc = match noted {
            Some(text) => from_json(&note_key, &text)?,
            None => {
                let doc = ErasureDoc {
                    receipt: Uuid(uuid::Uuid::new_v4()),
                    name: Keys(&self.store).name(self.number, subject),
                    samples,
                    erased_at_ms: now_ms(),
                    data_key: Some(data_key),
                };
                let mut batch = Batch::of_erasure();
                batch.put(note_key, to_json("note", &doc)?, Seal::Store);
                self.store.commit(batch)?;
                doc
            }
        };
        failpoint.reach("erase.noted");
        {
            let mut state = self.state();
            if let Some(entry) = state.subjects.get_mut(subject) {
                entry.erasing = true;
            }
            self.spaces.each_index(|index| index.remove_subject(number));
        }
        failpoint.reach("erase.hidden");
        finish(&self.store, self.number, number, &doc)?;
        failpoint.reach("erase.recorded");
        self.state().remove_subject(subject);
        self.changed();
        let mut receipt = ErasureReceipt {
            receipt: doc.receipt.0.to_string(),
            gallery: self.doc.id.clone(),
            subject: subject.clone(),
            samples: doc.samples,
            erased_at_ms: doc.erased_at_ms,
            signature: String::new(),
        };
        let signature = Keys(&self.store).signature(&receipt);
        receipt.signature = hex(&signature);
        Ok(receipt)
    }

    /// Whether a receipt was issued by this store, unaltered.
    #[must_use]
    pub fn is_genuine(&self, receipt: &ErasureReceipt) -> bool {
        let expected = Keys(&self.store).signature(receipt);
        let text = hex(&expected);
        // Both are hashed again, so that comparing says nothing of where they differ.
        let digest = |text: &str| hmac_sha256(&[0; 32], &[text.as_bytes()]);
        macs_equal(&digest(&text), &digest(&receipt.signature))
    }

    /// When a subject of this name was last erased, in milliseconds since 1970: a backup taken
    /// before must not bring it back.
    ///
    /// # Errors
    /// The store's.
    pub fn erased_at_ms(&self, subject: &SubjectId) -> Result<Option<u64>, GalleryError> {
        let mut prefix = key::in_gallery(key::TOMBSTONE, self.number);
        prefix.extend_from_slice(&Keys(&self.store).name(self.number, subject));
        let mut last = None;
        for record in self.store.scan(&prefix) {
            let (at, text) = record?;
            let doc: ErasureDoc = from_json(&at, &text)?;
            last = last.max(Some(doc.erased_at_ms));
        }
        Ok(last)
    }
}

/// Steps 3 and 4. May be repeated.
pub(super) fn finish(
    store: &Store,
    gallery: u32,
    subject: u64,
    doc: &ErasureDoc,
) -> Result<(), GalleryError> {
    store.destroy_data_keys(doc.data_key.as_slice())?;
    store.failpoint().reach("erase.key_destroyed");
    let mut batch = Batch::of_erasure();
    for kind in key::OF_SUBJECT {
        let prefix = key::of_subject(kind, gallery, subject);
        store.keys(&prefix)?.into_iter().for_each(|key| batch.remove(key));
    }
    batch.remove(Key::ErasureBegun { gallery, subject }.encode());
    let receipt = *doc.receipt.0.as_bytes();
    let tombstone = Key::Tombstone { gallery, name: doc.name, receipt };
    batch.put(tombstone.encode(), to_json("tombstone", doc)?, Seal::Store);
    store.commit(batch)?;
    Ok(())
}

/// Finishes every erasure that a crash interrupted, and says how many there were.
pub(super) fn resume(store: &Store, gallery: u32) -> Result<usize, GalleryError> {
    let mut finished = 0;
    let begun: Result<Vec<_>, _> =
        store.scan(&key::in_gallery(key::ERASURE_BEGUN, gallery)).collect();
    for (at, text) in begun? {
        let Some(Key::ErasureBegun { subject, .. }) = Key::decode(&at) else {
            return Err(GalleryError::inconsistent(&at, "not the key of a begun erasure"));
        };
        finish(store, gallery, subject, &from_json(&at, &text)?)?;
        finished += 1;
    }
    Ok(finished)
}

/// Finishes every deletion of a gallery that a crash interrupted.
pub(super) fn resume_deletions(store: &Store) -> Result<(), GalleryError> {
    for at in store.keys(&[key::DELETION_BEGUN])? {
        if let Some(Key::DeletionBegun { gallery }) = Key::decode(&at) {
            // Its data keys are in use by no record after this, and go when the galleries are opened.
            delete_gallery(store, gallery, &HashSet::new())?;
        }
    }
    Ok(())
}

/// Destroys every record and key of a gallery, its tombstones too: one for the whole gallery takes their place.
pub(super) fn delete_gallery(
    store: &Store,
    gallery: u32,
    data_keys: &HashSet<DataKey>,
) -> Result<(), GalleryError> {
    let data_keys: Vec<DataKey> = data_keys.iter().copied().collect();
    store.destroy_data_keys(&data_keys)?;
    /// Keys removed by one batch.
    const STEP: usize = 4096;
    for kind in key::OF_GALLERY {
        for keys in store.keys(&key::in_gallery(kind, gallery))?.chunks(STEP) {
            let mut batch = Batch::of_erasure();
            keys.iter().for_each(|key| batch.remove(key.clone()));
            store.commit(batch)?;
        }
    }
    let mut batch = Batch::of_erasure();
    batch.remove(Key::Gallery { gallery }.encode());
    batch.remove(Key::DeletionBegun { gallery }.encode());
    let doc = DeletionDoc { deleted_at_ms: now_ms() };
    batch.put(Key::Deletion { gallery }.encode(), to_json("deletion", &doc)?, Seal::Store);
    store.commit(batch)?;
    Ok(())
}
