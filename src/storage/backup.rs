//! Backups of a store that goes on working.
//!
//! Records are copied as they lie, sealed, in the order of their keys, while commits go on. Then what was written meanwhile is copied, again and
//! again until little is left; the rest, the key slots and the manifest are taken between two commits. So a backup is the
//! store as it was at one moment, its end, and writers waited for no more than the last few hundred records.

use std::collections::HashSet;
use std::io::Write;

use serde::Serialize;

use crate::domain::now_ms;

use super::codec::Seal;
use super::commit::{Committer, from_sled};
use super::frames::{Entry, FrameWriter, Header};
use super::manifest::MANIFEST_KEY;
use super::{StorageError, Store, meta};

/// Records that are few enough to be copied while commits wait.
const FEW: usize = 256;
/// Rounds after which commits wait for what is left, however much it is.
const MOST_ROUNDS: usize = 16;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupInfo {
    /// Its name.
    pub backup: String,
    /// The store that it is of.
    pub store: String,
    /// When it was begun, in milliseconds since 1970.
    pub made_at_ms: u64,
    /// The last commit that it holds.
    pub commit: u64,
    /// Records it holds, without images, saved indexes and notes.
    pub records: u64,
    /// Of these, records of somebody whose erasure was under way: their key was gone already. Found by a check.
    pub without_key: u64,
    /// Its size.
    pub bytes: u64,
}

/// What is taken between two commits.
struct Rest {
    entries: Vec<Entry>,
    slots: Vec<(u32, Vec<u8>)>,
    manifest: [u8; 48],
    commit: u64,
    records: u64,
}

/// Has the committer forget which keys it wrote, however the backup ended.
struct Tracking<'a>(&'a Store);

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        // A store that is closed tracks nothing.
        let _ = self.0.between(|committer| committer.changed = None);
    }
}

impl Store {
    /// Writes a backup of the whole store, sealed. Everything goes on meanwhile; only one is made at a time.
    ///
    /// # Errors
    /// [`StorageError::Backup`] when there is one under way or it cannot be written, [`StorageError::Stopped`], [`StorageError::Damaged`].
    pub fn backup(&self, out: impl Write) -> Result<BackupInfo, StorageError> {
        let under_way = || StorageError::backup("another one is under way");
        let _one = self.0.backing_up.try_lock().ok_or_else(under_way)?;
        let text = meta::text(self.dir())?;
        let header = Header {
            backup: uuid::Uuid::new_v4().to_string(),
            made_at_ms: now_ms(),
            store: String::from_utf8_lossy(&text).into_owned(),
        };
        let mut writer = FrameWriter::new(out, self.0.root_key.derive("backup"), &header)?;
        self.between(|committer| committer.changed = Some(HashSet::new()))?;
        let _tracking = Tracking(self);
        for item in self.0.db.iter() {
            let (key, value) = item.map_err(|error| from_sled(self.dir(), error))?;
            if key != MANIFEST_KEY {
                writer.entry(&Entry::Put(key.to_vec(), value.to_vec()))?;
            }
        }
        for _ in 0..MOST_ROUNDS {
            let few = self.between(|committer| {
                committer.changed.as_ref().is_none_or(|changed| changed.len() <= FEW)
            })?;
            if few {
                break;
            }
            for key in self.between(Committer::take_changed)? {
                writer.entry(&current(self, key)?)?;
            }
        }
        let store = self.clone();
        let rest = self.between(move |committer| committer.rest(&store))??;
        for entry in &rest.entries {
            writer.entry(entry)?;
        }
        for (at, slot) in rest.slots {
            writer.entry(&Entry::Slot(at, slot))?;
        }
        writer.entry(&Entry::End(rest.manifest))?;
        Ok(BackupInfo {
            backup: header.backup,
            store: self.id().to_owned(),
            made_at_ms: header.made_at_ms,
            commit: rest.commit,
            records: rest.records,
            without_key: 0,
            bytes: writer.written,
        })
    }
}

fn current(store: &Store, key: Vec<u8>) -> Result<Entry, StorageError> {
    let value = store.0.db.get(&key).map_err(|error| from_sled(store.dir(), error))?;
    Ok(match value {
        Some(value) => Entry::Put(key, value.to_vec()),
        None => Entry::Remove(key),
    })
}

impl Committer {
    fn take_changed(&mut self) -> HashSet<Vec<u8>> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn rest(&mut self, store: &Store) -> Result<Rest, StorageError> {
        if let Some(reason) = &self.failed {
            return Err(StorageError::Stopped { reason: reason.clone() });
        }
        let changed = self.take_changed();
        let mut entries: Vec<Entry> =
            changed.into_iter().map(|key| current(store, key)).collect::<Result<_, _>>()?;
        let manifest = self.manifest.to_bytes();
        // A store that nothing was ever written to has none.
        if self.manifest.sequence > 0 {
            let sealed = self.codec.seal(&self.slots, MANIFEST_KEY, &manifest, Seal::Store)?;
            entries.push(Entry::Put(MANIFEST_KEY.to_vec(), sealed));
        }
        Ok(Rest {
            entries,
            slots: self.slots.used(),
            manifest,
            commit: self.manifest.sequence,
            records: self.manifest.records,
        })
    }
}
