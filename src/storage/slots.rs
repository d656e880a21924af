//! Data keys, one a subject, in a file of fixed-size slots beside the log. The log keeps deleted
//! bytes, so erasing means destroying the key here, in place.
//!
//! ```text
//! file  header 128 bytes: `handclip-slots1` | zeros, then slots of 128 bytes
//! slot  state u8 (0 free, 1 used) | zeros 7 | serial u64 LE | nonce 24 | wrapped key 32 | tag 16 | zeros
//! ```
//! The wrapped key is sealed under a key derived from the root key, bound to slot and serial.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::codec::{decrypt, encrypt};
use super::{StorageError, file};

pub(super) const SLOT: usize = 128;
const MAGIC: &[u8; 15] = b"handclip-slots1";
const FREE: u8 = 0;
const USED: u8 = 1;
const WRAPPED: std::ops::Range<usize> = 16..88;

/// Names a data key: where it lies, and which of the keys that lay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataKey {
    pub(super) slot: u32,
    pub(super) serial: u64,
}

struct State {
    slots: Vec<[u8; SLOT]>,
    free: BTreeSet<u32>,
    /// Slots with a key that the file does not have yet.
    fresh: BTreeSet<u32>,
}

/// Keys are made and read under `state` alone, which nobody holds while the disk is waited for: whoever seals records for the next
/// batch would wait too, and no two could share one.
pub(super) struct Slots {
    path: PathBuf,
    wrapping_key: Zeroizing<[u8; 32]>,
    /// Held from what is to be written is looked up until it is synced; taken before `state`. So what was destroyed is not written
    /// again by somebody who looked earlier.
    file: Mutex<File>,
    state: Mutex<State>,
}

impl Slots {
    /// Opens the file, or creates it empty.
    pub(super) fn open(
        path: &Path,
        wrapping_key: Zeroizing<[u8; 32]>,
    ) -> Result<Self, StorageError> {
        if !path.exists() {
            let mut header = [0_u8; SLOT];
            header[..MAGIC.len()].copy_from_slice(MAGIC);
            file::write_private(path, &header)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(StorageError::io("open", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(StorageError::io("read", path))?;
        if !bytes.starts_with(MAGIC) {
            let dir = path.parent().unwrap_or(path);
            return Err(StorageError::damaged(dir, "`keys.slots` is not a file of key slots"));
        }
        // A slot cut short was never acknowledged: the file grows by synced whole slots.
        let slots: Vec<[u8; SLOT]> = bytes.as_chunks::<SLOT>().0.iter().skip(1).copied().collect();
        let free =
            (0_u32..).zip(&slots).filter(|(_, slot)| slot[0] != USED).map(|(at, _)| at).collect();
        let state = Mutex::new(State { slots, free, fresh: BTreeSet::new() });
        Ok(Self { path: path.to_owned(), wrapping_key, file: Mutex::new(file), state })
    }

    /// Puts a fresh key into a free slot. In the file, and durable, only after [`Slots::sync`].
    pub(super) fn create(&self) -> Result<DataKey, StorageError> {
        let mut random = Zeroizing::new([0_u8; 40]);
        getrandom::fill(random.as_mut()).map_err(|_| StorageError::Random)?;
        let mut serial = [0_u8; 8];
        serial.copy_from_slice(&random[32..]);
        let mut state = self.state.lock();
        let slot = match state.free.first() {
            Some(slot) => *slot,
            None => u32::try_from(state.slots.len()).map_err(|_| StorageError::Stopped {
                reason: "every key slot is taken".to_owned(),
            })?,
        };
        let data_key = DataKey { slot, serial: u64::from_le_bytes(serial) };
        let mut bytes = [0_u8; SLOT];
        bytes[0] = USED;
        bytes[8..16].copy_from_slice(&serial);
        let wrapped = encrypt(&self.wrapping_key, &context(data_key), &random[..32])?;
        bytes[WRAPPED].copy_from_slice(&wrapped);
        match state.slots.get_mut(slot as usize) {
            Some(present) => *present = bytes,
            None => state.slots.push(bytes),
        }
        state.free.remove(&slot);
        state.fresh.insert(slot);
        Ok(data_key)
    }

    /// The key itself.
    pub(super) fn unwrap(&self, data_key: DataKey) -> Result<Zeroizing<[u8; 32]>, StorageError> {
        let wrapped = {
            let state = self.state.lock();
            let slot = state.slots.get(data_key.slot as usize);
            match slot.filter(|slot| holds(slot, data_key)) {
                Some(slot) => slot[WRAPPED].to_vec(),
                None => return Err(StorageError::KeyDestroyed),
            }
        };
        let plain = decrypt(&self.wrapping_key, &context(data_key), &wrapped).map(Zeroizing::new);
        let key = plain.and_then(|plain| <[u8; 32]>::try_from(plain.as_slice()).ok());
        key.map(Zeroizing::new).ok_or_else(|| {
            let dir = self.path.parent().unwrap_or(&self.path);
            StorageError::damaged(dir, format!("key slot {} does not open", data_key.slot))
        })
    }

    /// Overwrites the keys and syncs. A key that is gone already is no error.
    pub(super) fn destroy(&self, data_keys: &[DataKey]) -> Result<(), StorageError> {
        let mut file = self.file.lock();
        for data_key in data_keys {
            let present = {
                let state = self.state.lock();
                state.slots.get(data_key.slot as usize).is_some_and(|slot| holds(slot, *data_key))
            };
            if present {
                // In the file first: one that could not be overwritten is still there to be destroyed again.
                self.write(&mut file, data_key.slot, &[FREE; SLOT])?;
                let mut state = self.state.lock();
                state.slots[data_key.slot as usize] = [FREE; SLOT];
                state.fresh.remove(&data_key.slot);
            }
        }
        file.sync_data().map_err(StorageError::io("sync", &self.path))?;
        // Only a slot whose overwriting is on disk may be used again.
        let mut state = self.state.lock();
        for data_key in data_keys {
            if state.slots.get(data_key.slot as usize).is_some_and(|slot| slot[0] == FREE) {
                state.free.insert(data_key.slot);
            }
        }
        Ok(())
    }

    /// Destroys every key that is not in `live`: left by a crash between a key and its record.
    pub(super) fn retain(&self, live: &HashSet<DataKey>) -> Result<usize, StorageError> {
        let orphans: Vec<DataKey> = {
            let state = self.state.lock();
            (0_u32..)
                .zip(&state.slots)
                .filter(|(_, slot)| slot[0] == USED)
                .map(|(slot, bytes)| DataKey { slot, serial: serial(bytes) })
                .filter(|data_key| !live.contains(data_key))
                .collect()
        };
        self.destroy(&orphans)?;
        Ok(orphans.len())
    }

    /// Every slot with a key, as it lies in the file.
    pub(super) fn used(&self) -> Vec<(u32, Vec<u8>)> {
        let state = self.state.lock();
        let slots = (0_u32..).zip(&state.slots).filter(|(_, slot)| slot[0] == USED);
        slots.map(|(at, slot)| (at, slot.to_vec())).collect()
    }

    /// Writes a file of these slots, which [`Slots::used`] gave.
    pub(super) fn write_file(path: &Path, used: &[(u32, Vec<u8>)]) -> Result<(), StorageError> {
        let last = used.iter().map(|(at, _)| *at as usize + 1).max().unwrap_or(0);
        let mut bytes = vec![0_u8; (last + 1) * SLOT];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        for (at, slot) in used {
            let from = (*at as usize + 1) * SLOT;
            bytes[from..from + SLOT].copy_from_slice(&slot[..SLOT]);
        }
        file::write_private(path, &bytes)
    }

    /// Makes every key that was made before durable.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let mut file = self.file.lock();
        let fresh: Vec<(u32, [u8; SLOT])> = {
            let mut state = self.state.lock();
            let fresh = std::mem::take(&mut state.fresh);
            fresh.into_iter().map(|slot| (slot, state.slots[slot as usize])).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let mut write = || {
            fresh.iter().try_for_each(|(slot, bytes)| self.write(&mut file, *slot, bytes))?;
            file.sync_data().map_err(StorageError::io("sync", &self.path))
        };
        write().inspect_err(|_| {
            self.state.lock().fresh.extend(fresh.iter().map(|(slot, _)| slot));
        })
    }

    fn write(&self, file: &mut File, slot: u32, bytes: &[u8; SLOT]) -> Result<(), StorageError> {
        let offset = (u64::from(slot) + 1) * SLOT as u64;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(StorageError::io("write", &self.path))
    }
}

fn serial(slot: &[u8; SLOT]) -> u64 {
    let mut serial = [0_u8; 8];
    serial.copy_from_slice(&slot[8..16]);
    u64::from_le_bytes(serial)
}

fn holds(slot: &[u8; SLOT], data_key: DataKey) -> bool {
    slot[0] == USED && serial(slot) == data_key.serial
}

fn context(data_key: DataKey) -> Vec<u8> {
    let mut context = b"handclip slot".to_vec();
    context.extend_from_slice(&data_key.slot.to_le_bytes());
    context.extend_from_slice(&data_key.serial.to_le_bytes());
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_key_is_gone_from_the_file_and_its_name_never_opens_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.slots");
        let open = || Slots::open(&path, [9; 32].into()).unwrap();
        let slots = open();
        let (kept, erased) = (slots.create().unwrap(), slots.create().unwrap());
        let key = slots.unwrap(kept).unwrap();
        slots.sync().unwrap();
        let before = std::fs::read(&path).unwrap();
        let slot_of =
            |bytes: &[u8], key: DataKey| bytes[(key.slot as usize + 1) * SLOT..][..SLOT].to_vec();
        assert_eq!(slot_of(&before, erased)[0], USED);
        slots.destroy(&[erased, erased]).unwrap();
        assert!(matches!(slots.unwrap(erased), Err(StorageError::KeyDestroyed)));
        assert_eq!(slot_of(&std::fs::read(&path).unwrap(), erased), vec![0; SLOT]);

        let slots = open();
        assert_eq!(*slots.unwrap(kept).unwrap(), *key);
        assert!(matches!(slots.unwrap(erased), Err(StorageError::KeyDestroyed)));
        let reused = slots.create().unwrap();
        assert_eq!(reused.slot, erased.slot, "slots are used again");
        assert!(matches!(slots.unwrap(erased), Err(StorageError::KeyDestroyed)));
        assert_eq!(slots.retain(&HashSet::from([kept])).unwrap(), 1);
        assert!(matches!(slots.unwrap(reused), Err(StorageError::KeyDestroyed)));
        assert_eq!(*slots.unwrap(kept).unwrap(), *key);
    }

    /// Destroyed before it was ever written, and while others are written and synced over and over.
    #[test]
    fn a_destroyed_key_is_not_written_by_a_later_sync() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..40 {
            let path = dir.path().join(format!("{round}.slots"));
            let slots = Slots::open(&path, [9; 32].into()).unwrap();
            let kept: Vec<DataKey> = std::thread::scope(|scope| {
                let made = scope.spawn(|| {
                    let keys: Vec<DataKey> = (0..60).map(|_| slots.create().unwrap()).collect();
                    let (kept, erased) = keys.split_at(20);
                    slots.destroy(erased).unwrap();
                    kept.to_vec()
                });
                while !made.is_finished() {
                    slots.sync().unwrap();
                }
                made.join().unwrap()
            });
            slots.sync().unwrap();
            let opened = Slots::open(&path, [9; 32].into()).unwrap();
            assert!(kept.iter().all(|key| opened.unwrap(*key).is_ok()));
            let left = opened.retain(&kept.into_iter().collect()).unwrap();
            assert_eq!(left, 0, "keys came back in round {round}");
        }
    }

    #[test]
    fn an_altered_slot_is_damage_and_another_master_key_opens_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.slots");
        let slots = Slots::open(&path, [9; 32].into()).unwrap();
        let key = slots.create().unwrap();
        slots.sync().unwrap();
        let other = Slots::open(&path, [8; 32].into()).unwrap();
        assert!(matches!(other.unwrap(key), Err(StorageError::Damaged { .. })));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[SLOT + 50] ^= 1;
        crate::storage::file::write_atomic(&path, &bytes).unwrap();
        let slots = Slots::open(&path, [9; 32].into()).unwrap();
        assert!(matches!(slots.unwrap(key), Err(StorageError::Damaged { .. })));
    }
}
