//! Checking backups, and putting them back.
//!
//! A backup is unpacked into a store of its own, `restore.tmp` in the data directory, where whoever restores may open it and change what must be
//! changed (people who were erased since). [`Staged::install`] then puts it in the place of the store that is there: a mark is
//! written, files change places, the mark goes. A start that finds the mark does the rest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use crate::domain::hex;

use super::backup::BackupInfo;
use super::codec::Codec;
use super::commit::from_sled;
use super::frames::{Entry, FrameReader, read_header};
use super::manifest::{Manifest, Mark, counts};
use super::meta::{self, Meta};
use super::open::{log_config, open_log, take_lock};
use super::slots::Slots;
use super::{MasterKey, StorageError, file};

/// A store is unpacked here.
const STAGE: &str = "restore.tmp";
/// There while files change places.
const READY: &str = "restore.ready";
/// What makes a store. The last one is what tells a store.
const FILES: [&str; 4] = ["sled", "keys.slots", "commit.mark", "store.json"];
/// Bytes that are written to the log at once.
const STEP: usize = 4 * 1024 * 1024;

struct Opened {
    reader: FrameReader<BufReader<File>>,
    root_key: MasterKey,
    text: Vec<u8>,
    info: BackupInfo,
}

/// Whose store a backup is of, which can be read without a key.
///
/// # Errors
/// [`StorageError::Backup`] or [`StorageError::Io`].
pub fn backup_of(path: &Path) -> Result<String, StorageError> {
    let mut input = File::open(path).map_err(StorageError::io("open", path))?;
    let (header, _) = read_header(&mut input)?;
    Meta::parse(header.store.as_bytes()).map(|meta| meta.store).map_err(StorageError::backup)
}

fn open(path: &Path, master_key: &MasterKey) -> Result<Opened, StorageError> {
    let input = File::open(path).map_err(StorageError::io("open", path))?;
    let bytes = input.metadata().map_err(StorageError::io("read", path))?.len();
    let mut input = BufReader::with_capacity(1 << 20, input);
    let (header, hash) = read_header(&mut input)?;
    let text = header.store.into_bytes();
    let meta = Meta::parse(&text).map_err(StorageError::backup)?;
    let root_key = match meta.root_key(path, master_key) {
        Err(StorageError::WrongMasterKey { .. }) => {
            let detail = "it was made under another master key: give the one of that time";
            return Err(StorageError::backup(detail));
        }
        other => other?,
    };
    let reader = FrameReader::new(input, root_key.derive("backup"), hash);
    let info = BackupInfo {
        backup: header.backup,
        store: meta.store,
        made_at_ms: header.made_at_ms,
        commit: 0,
        records: 0,
        without_key: 0,
        bytes,
    };
    Ok(Opened { reader, root_key, text, info })
}

/// Reads a whole backup and opens every record in it. Changes nothing.
///
/// # Errors
/// [`StorageError::Backup`] saying what is wrong with it, [`StorageError::Io`].
pub fn verify_backup(path: &Path, master_key: &MasterKey) -> Result<BackupInfo, StorageError> {
    // The slots come last, so it is read twice.
    let mut slots = Vec::new();
    let mut first = open(path, master_key)?;
    while let Some(entry) = first.reader.next()? {
        if let Entry::Slot(at, slot) = entry {
            slots.push((at, slot));
        }
    }
    let dir = tempfile_dir()?;
    let slots_at = dir.0.join("keys.slots");
    Slots::write_file(&slots_at, &slots)?;
    let slots = Slots::open(&slots_at, first.root_key.derive("key slots"))?;
    let codec = Codec::new(first.root_key.derive("records"));
    let mut second = open(path, master_key)?;
    let mut live: BTreeMap<Vec<u8>, Manifest> = BTreeMap::new();
    let mut unread: BTreeMap<Vec<u8>, Unread> = BTreeMap::new();
    while let Some(entry) = second.reader.next()? {
        match entry {
            Entry::Put(key, sealed) => {
                unread.remove(&key);
                match codec.open(&slots, &key, &sealed) {
                    Ok(Some(_)) => {}
                    Err(StorageError::KeyDestroyed) => {
                        unread.insert(key.clone(), Unread::WithoutKey);
                    }
                    Ok(None) | Err(_) => drop(unread.insert(key.clone(), Unread::Damaged)),
                }
                if counts(&key) {
                    let mut one = Manifest::default();
                    one.add(&key, &sealed);
                    live.insert(key, one);
                }
            }
            Entry::Remove(key) => {
                unread.remove(&key);
                live.remove(&key);
            }
            Entry::Slot(..) => {}
            Entry::End(bytes) => {
                let manifest = Manifest::from_bytes(&bytes)
                    .ok_or_else(|| StorageError::backup("its manifest makes no sense"))?;
                let mut found = Manifest::default();
                live.values().for_each(|one| found.join(one));
                if !manifest.same_records(&found) {
                    let (got, said) = (found.records, manifest.records);
                    let detail = format!("it holds {got} records where its manifest says {said}");
                    return Err(StorageError::backup(detail));
                }
                second.info.commit = manifest.sequence;
                second.info.records = manifest.records;
            }
        }
    }
    if let Some((key, _)) = unread.iter().find(|(_, why)| **why == Unread::Damaged) {
        return Err(StorageError::backup(format!("record {} does not open", hex(key))));
    }
    Ok(BackupInfo { without_key: unread.len() as u64, ..second.info })
}

/// Why a record of a backup does not open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    WithoutKey,
    Damaged,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_dir() -> Result<Folder, StorageError> {
    let name = format!("handclip-{}", uuid::Uuid::new_v4().simple());
    let dir = std::env::temp_dir().join(name);
    file::create_private_dir(&dir)?;
    Ok(Folder(dir))
}

/// A backup that was unpacked and waits to be put in place.
#[derive(Debug)]
pub struct Staged {
    dir: PathBuf,
    info: BackupInfo,
    // Held, not read: nobody opens the store meanwhile.
    _lock: File,
}

/// Unpacks a backup beside the store of a data directory, which is made if need be and must not be open.
///
/// # Errors
/// [`StorageError::InUse`], [`StorageError::Backup`], [`StorageError::Io`]; the store that is there is as it was.
pub fn stage(path: &Path, dir: &Path, master_key: &MasterKey) -> Result<Staged, StorageError> {
    file::create_private_dir(dir)?;
    let lock = take_lock(dir)?;
    finish(dir)?;
    let at = dir.join(STAGE);
    remove(&at)?;
    let mut opened = open(path, master_key)?;
    file::create_private_dir(&at)?;
    let unpacked = unpack(&mut opened, &at);
    if unpacked.is_err() {
        remove(&at)?;
    }
    unpacked?;
    Ok(Staged { dir: dir.to_owned(), info: opened.info, _lock: lock })
}

fn unpack(opened: &mut Opened, at: &Path) -> Result<(), StorageError> {
    let failed = |error| from_sled(at, error);
    let db = open_log(&log_config(at)).map_err(failed)?;
    let mut batch = sled::Batch::default();
    let mut bytes = 0;
    let mut slots = Vec::new();
    while let Some(entry) = opened.reader.next()? {
        match entry {
            Entry::Put(key, value) => {
                bytes += key.len() + value.len();
                batch.insert(key, value);
            }
            Entry::Remove(key) => batch.remove(key),
            Entry::Slot(slot, bytes) => slots.push((slot, bytes)),
            Entry::End(manifest) => {
                let manifest = Manifest::from_bytes(&manifest).unwrap_or_default();
                opened.info.commit = manifest.sequence;
                opened.info.records = manifest.records;
            }
        }
        if bytes >= STEP {
            db.apply_batch(std::mem::take(&mut batch)).map_err(failed)?;
            bytes = 0;
        }
    }
    db.apply_batch(batch).map_err(failed)?;
    db.flush().map_err(failed)?;
    drop(db);
    let log = at.join("sled/db");
    let log = File::open(&log).map_err(StorageError::io("open", &log))?;
    log.sync_all().map_err(StorageError::io("sync", at))?;
    file::sync_dir(&at.join("sled"))?;
    Slots::write_file(&at.join("keys.slots"), &slots)?;
    // Without a mark, which takes the place of the one that the other log has.
    drop(Mark::open(&at.join("commit.mark"), opened.root_key.derive("commit mark"))?);
    meta::put(at, &opened.text)
}

impl Staged {
    /// Where it was unpacked: a data directory like any other.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.join(STAGE)
    }

    /// What was unpacked.
    #[must_use]
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Puts it in the place of the store that is there, whose keys are overwritten. The unpacked store must be closed.
    ///
    /// # Errors
    /// [`StorageError::Io`]; the next start or restore goes on from there.
    pub fn install(self) -> Result<BackupInfo, StorageError> {
        file::write_private(&self.dir.join(READY), b"")?;
        finish(&self.dir)?;
        Ok(self.info)
    }

    /// Throws it away.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn discard(self) -> Result<(), StorageError> {
        remove(&self.dir())
    }
}

/// Does what is left of putting a store in place. May be repeated.
pub(super) fn finish(dir: &Path) -> Result<(), StorageError> {
    let (mark, stage) = (dir.join(READY), dir.join(STAGE));
    if !mark.exists() {
        // Left by a restore that was cut off before it counted.
        return remove(&stage);
    }
    for name in FILES {
        let (from, to) = (stage.join(name), dir.join(name));
        if !from.exists() {
            // It changed its place already.
            continue;
        }
        if name == "keys.slots" {
            overwrite(&to)?;
        }
        remove(&to)?;
        std::fs::rename(&from, &to).map_err(StorageError::io("put in place", &to))?;
        file::sync_dir(dir)?;
    }
    remove(&stage)?;
    remove(&mark)?;
    file::sync_dir(dir)
}

/// Leaves nothing of a file of keys on the disk, as far as the file system writes in place.
fn overwrite(path: &Path) -> Result<(), StorageError> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(StorageError::io("open", path))?;
    std::io::copy(&mut std::io::repeat(0).take(metadata.len()), &mut file)
        .and_then(|_| file.flush())
        .and_then(|()| file.sync_all())
        .map_err(StorageError::io("overwrite", path))
}

fn remove(path: &Path) -> Result<(), StorageError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(StorageError::io("remove", path))
}

/// Wraps the keys of a store under another master key; the one before opens it no more. The store must not be open.
///
/// # Errors
/// [`StorageError::InUse`], [`StorageError::WrongMasterKey`], [`StorageError::Io`].
pub fn rotate_master_key(dir: &Path, old: &MasterKey, new: &MasterKey) -> Result<(), StorageError> {
    let _lock = take_lock(dir)?;
    finish(dir)?;
    meta::rewrap(dir, old, new)
}
