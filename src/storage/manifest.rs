//! What the store must hold: counted and summed with every batch, checked at every open.
//!
//! sled notices little of what happens to its file: a flipped bit can bring deleted records back,
//! a lost end takes acknowledged ones away. The manifest lives in the same atomic batch as the
//! records, so what is inside the log always agrees with itself; the mark, a small file beside the
//! log, tells whether the log still reaches the last acknowledged commit.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::codec::{decrypt, encrypt};
use super::{StorageError, file};

/// Key of the manifest record: `00 4d`. Callers' keys start with 01 or above.
pub(super) const MANIFEST_KEY: &[u8] = &[0, b'M'];

/// Records whose key starts with this byte or a higher one are bulk (image and index chunks): they are
/// authenticated when read, and not walked at open.
pub(super) const FIRST_BULK: u8 = 0x80;

/// Whether the manifest accounts for a record under this key.
pub(super) fn counts(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| (1..FIRST_BULK).contains(kind))
}

/// Commit number, live records, and the sum modulo 2^256 of SHA-256(key length | key | sealed
/// value) over them: order does not matter, and adding or removing one record costs one hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Manifest {
    pub(super) sequence: u64,
    pub(super) records: u64,
    sum: [u64; 4],
}

impl Manifest {
    pub(super) fn add(&mut self, key: &[u8], sealed: &[u8]) {
        self.join(&Self { sequence: 0, records: 1, sum: element(key, sealed) });
    }

    /// Accounts for all records of another as well.
    pub(super) fn join(&mut self, other: &Self) {
        self.records = self.records.wrapping_add(other.records);
        let mut carry = false;
        for (limb, other) in self.sum.iter_mut().zip(other.sum) {
            let (partial, first) = limb.overflowing_add(other);
            let (total, second) = partial.overflowing_add(u64::from(carry));
            *limb = total;
            carry = first || second;
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], sealed: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        let mut borrow = false;
        for (limb, other) in self.sum.iter_mut().zip(element(key, sealed)) {
            let (partial, first) = limb.overflowing_sub(other);
            let (total, second) = partial.overflowing_sub(u64::from(borrow));
            *limb = total;
            borrow = first || second;
        }
    }

    /// Whether both account for the same records, whatever their commit numbers.
    pub(super) fn same_records(&self, other: &Self) -> bool {
        (self.records, self.sum) == (other.records, other.sum)
    }

    /// `sequence | records | four limbs`, each u64 LE.
    pub(super) fn to_bytes(self) -> [u8; 48] {
        let mut bytes = [0_u8; 48];
        let words = [self.sequence, self.records].into_iter().chain(self.sum);
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 48] = bytes.try_into().ok()?;
        let mut words = bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk));
        let (sequence, records) = (words.next()?, words.next()?);
        let mut sum = [0; 4];
        sum.iter_mut().zip(words).for_each(|(limb, word)| *limb = word);
        Some(Self { sequence, records, sum })
    }
}

fn element(key: &[u8], sealed: &[u8]) -> [u64; 4] {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(sealed);
    let digest: [u8; 32] = hash.finalize().into();
    let mut limbs = [0; 4];
    for (limb, chunk) in limbs.iter_mut().zip(digest.as_chunks::<8>().0) {
        *limb = u64::from_le_bytes(*chunk);
    }
    limbs
}

const CELL: usize = 128;
const SEALED: usize = 24 + 48 + 16;

/// `commit.mark`: two cells of 128 bytes, `sealed manifest 88 | zeros`, written in turn, so that
/// one of them is whole at any moment. Written after the log is durable and not synced itself: it may lag,
/// which is harmless, and never runs ahead.
pub(super) struct Mark {
    path: PathBuf,
    file: File,
    key: Zeroizing<[u8; 32]>,
}

impl Mark {
    /// Opens the file, or creates it without a mark.
    pub(super) fn open(path: &Path, key: Zeroizing<[u8; 32]>) -> Result<Self, StorageError> {
        if !path.exists() {
            file::write_private(path, &[0; 2 * CELL])?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(StorageError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, key })
    }

    /// The newest whole mark. `None` when no commit was ever marked.
    pub(super) fn read(&mut self) -> Result<Option<Manifest>, StorageError> {
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.read_to_end(&mut bytes))
            .map_err(StorageError::io("read", &self.path))?;
        let cells = bytes.as_chunks::<CELL>().0;
        let newest = (0_u8..)
            .zip(cells)
            .filter_map(|(at, cell)| decrypt(&self.key, &[at], &cell[..SEALED]))
            .filter_map(|plain| Manifest::from_bytes(&plain))
            .max_by_key(|manifest| manifest.sequence);
        if newest.is_none() && bytes.iter().any(|byte| *byte != 0) {
            let dir = self.path.parent().unwrap_or(&self.path);
            return Err(StorageError::damaged(dir, "`commit.mark` does not open"));
        }
        Ok(newest)
    }

    pub(super) fn write(&mut self, manifest: &Manifest) -> Result<(), StorageError> {
        let at = (manifest.sequence % 2) as u8;
        let mut cell = encrypt(&self.key, &[at], &manifest.to_bytes())?;
        cell.resize(CELL, 0);
        self.file
            .seek(SeekFrom::Start(u64::from(at) * CELL as u64))
            .and_then(|_| self.file.write_all(&cell))
            .map_err(StorageError::io("write", &self.path))
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::io("sync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_forgets_order_and_removed_records(
            records in prop::collection::btree_map(any::<u16>(), any::<u64>(), 1..20),
            gone in prop::collection::btree_map(any::<u16>(), any::<u64>(), 0..20),
        ) {
            let bytes = |(k, v): (&u16, &u64)| (k.to_be_bytes(), v.to_be_bytes());
            let mut forward = Manifest::default();
            gone.iter().map(bytes).for_each(|(k, v)| forward.add(&k, &v));
            records.iter().map(bytes).for_each(|(k, v)| forward.add(&k, &v));
            gone.iter().map(bytes).for_each(|(k, v)| forward.remove(&k, &v));
            let mut backward = Manifest::default();
            records.iter().rev().map(bytes).for_each(|(k, v)| backward.add(&k, &v));
            prop_assert!(forward.same_records(&backward));
            backward.sequence = 77;
            prop_assert_eq!(Manifest::from_bytes(&backward.to_bytes()), Some(backward));
            let (k, v) = bytes(records.iter().next().unwrap());
            backward.remove(&k, &v);
            prop_assert!(!forward.same_records(&backward), "a lost record shows");
        }
    }

    #[test]
    fn a_torn_mark_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commit.mark");
        let mut mark = Mark::open(&path, [3; 32].into()).unwrap();
        assert_eq!(mark.read().unwrap(), None);
        let at = |sequence| Manifest { sequence, ..Manifest::default() };
        mark.write(&at(1)).unwrap();
        mark.write(&at(2)).unwrap();
        assert_eq!(mark.read().unwrap(), Some(at(2)));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        file::write_atomic(&path, &bytes).unwrap();
        let mut mark = Mark::open(&path, [3; 32].into()).unwrap();
        assert_eq!(mark.read().unwrap(), Some(at(1)));
        bytes[CELL + 40] ^= 1;
        file::write_atomic(&path, &bytes).unwrap();
        let damaged = Mark::open(&path, [3; 32].into()).unwrap().read();
        assert!(matches!(damaged, Err(StorageError::Damaged { .. })));
    }
}
