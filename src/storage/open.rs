//! Opening the files of a store.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::ballast::Ballast;
use super::codec::Codec;
use super::commit::{from_sled, is_full};
use super::journal::{HEAD_KEY, JournalHead};
use super::manifest::{MANIFEST_KEY, Manifest, Mark};
use super::slots::Slots;
use super::{StorageError, file};

const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// Templates are in memory anyway, and what else is read comes from the system's cache.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// What the guarded thread hands back.
pub(super) struct Opened {
    pub(super) db: sled::Db,
    pub(super) slots: Slots,
    pub(super) manifest: Manifest,
    pub(super) head: JournalHead,
    pub(super) mark: Mark,
}

pub(super) fn take_lock(dir: &Path) -> Result<File, StorageError> {
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StorageError::io("open", &path))?;
    match file::lock_soon(&lock) {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StorageError::io("lock", &path)(error)),
    }
}

pub(super) fn open_files(
    dir: &Path,
    codec: &Codec,
    ballast: &Ballast,
    slots_key: Zeroizing<[u8; 32]>,
    mark_key: Zeroizing<[u8; 32]>,
) -> Result<Opened, StorageError> {
    let mut mark = Mark::open(&dir.join("commit.mark"), mark_key)?;
    let marked = mark.read()?;
    let slots = Slots::open(&dir.join("keys.slots"), slots_key)?;
    let config = log_config(dir);
    let db = match open_log(&config) {
        Err(error) if is_full(&error) => {
            ballast.release();
            open_log(&config)
        }
        other => other,
    }
    .map_err(|error| from_sled(dir, error))?;
    let manifest = read_manifest(dir, &db, codec, &slots, marked)?;
    let head = head(dir, &db, codec, &slots)?;
    Ok(Opened { db, slots, manifest, head, mark })
}

/// How sled is to keep the log of a data directory.
pub(super) fn log_config(dir: &Path) -> sled::Config {
    sled::Config::new()
        .path(dir.join("sled"))
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        // The committer flushes; a timer would only add half-written states.
        .flush_every_ms(None)
}

fn head(
    dir: &Path,
    db: &sled::Db,
    codec: &Codec,
    slots: &Slots,
) -> Result<JournalHead, StorageError> {
    let stored = db.get(HEAD_KEY).map_err(|error| from_sled(dir, error))?;
    let Some(sealed) = stored else { return Ok(JournalHead::default()) };
    let plain = codec.open(slots, HEAD_KEY, &sealed)?;
    plain
        .and_then(|plain| JournalHead::from_bytes(&plain))
        .ok_or_else(|| StorageError::damaged(dir, "the journal's head does not open"))
}

/// Opens sled's file. Its threads may hold sled's own lock a little longer than the store that was
/// closed in this process; no other process can, because it would need `lock` first.
pub(super) fn open_log(config: &sled::Config) -> Result<sled::Db, sled::Error> {
    const WAIT: Duration = Duration::from_millis(20);
    const TRIES: usize = 250;
    let held = |error: &sled::Error| match error {
        sled::Error::Io(error) => error.to_string().contains("could not acquire lock"),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => false,
    };
    for _ in 0..TRIES {
        match config.open() {
            Err(error) if held(&error) => std::thread::sleep(WAIT),
            other => return other,
        }
    }
    config.open()
}

/// What the log says that it holds, held against the mark beside it.
fn read_manifest(
    dir: &Path,
    db: &sled::Db,
    codec: &Codec,
    slots: &Slots,
    marked: Option<Manifest>,
) -> Result<Manifest, StorageError> {
    let damaged = |detail: String| StorageError::damaged(dir, detail);
    let stored = db.get(MANIFEST_KEY).map_err(|error| from_sled(dir, error))?;
    let manifest = match stored {
        None => Manifest::default(),
        Some(sealed) => codec
            .open(slots, MANIFEST_KEY, &sealed)?
            .and_then(|plain| Manifest::from_bytes(&plain))
            .ok_or_else(|| damaged("the manifest does not open".to_owned()))?,
    };
    let marked = marked.unwrap_or_default();
    if manifest.sequence < marked.sequence {
        return Err(damaged(format!(
            "the log ends at commit {}, and commit {} was acknowledged",
            manifest.sequence, marked.sequence
        )));
    }
    if manifest.sequence == marked.sequence && !manifest.same_records(&marked) {
        return Err(damaged("the log is not the one that was acknowledged".to_owned()));
    }
    Ok(manifest)
}
