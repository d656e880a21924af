//! Opening a store.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::ballast::Ballast;
use super::codec::Codec;
use super::commit::{Committer, from_sled, is_full};
use super::guard::guarded;
use super::journal::{HEAD_KEY, JournalHead};
use super::manifest::{MANIFEST_KEY, Manifest, Mark};
use super::slots::Slots;
use super::store::{Inner, StoreOptions};
use super::verify::Unverified;
use super::{Failpoint, MasterKey, StorageError, Store, file, meta, restore};

const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// Templates are in memory anyway, and what else is read comes from the system's cache.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Batches that may wait for the committer; further callers block.
const QUEUE: usize = 1024;
/// Bytes of the log for which opening may take a second longer; a slow disk gives more.
const READ_A_SECOND: u64 = 16 * 1024 * 1024;

/// What a store is made of besides its files.
struct Parts {
    dir: PathBuf,
    id: String,
    root_key: MasterKey,
    ballast: Arc<Ballast>,
    lock: File,
    failpoint: Failpoint,
}

/// Runs `work` on a pool of its own: sled may never come back from a damaged file, and nobody else should wait for that.
fn on_all_cores<T: Send>(dir: &Path, work: impl FnOnce() -> T + Send) -> Result<T, StorageError> {
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("store-open-{at}"));
    let pool = pool.build().map_err(|error| {
        StorageError::io("start threads to open", dir)(std::io::Error::other(error))
    })?;
    Ok(pool.install(work))
}

impl Store {
    /// Opens the store in a directory, or makes one there, and checks every record's presence
    /// against the manifest.
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::Damaged`], [`StorageError::OpenTimeout`],
    /// [`StorageError::WrongMasterKey`], [`StorageError::Format`] or [`StorageError::Io`].
    pub fn open(options: StoreOptions) -> Result<Self, StorageError> {
        Ok(Self::open_with(options, |_| Ok::<_, StorageError>(()))?.0)
    }

    /// The same, with `load` called before the check, for which nothing that it walks through is read again. What it finds is nothing to
    /// rely on until this returns: a store that is damaged is refused whatever it made of it, and a write out of it waits for the check.
    /// Called on a pool of threads of its own.
    ///
    /// # Errors
    /// As [`Store::open`], and those of `load`.
    pub fn open_with<T, E>(
        options: StoreOptions,
        load: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<(Self, T), E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let StoreOptions {
            dir,
            master_key,
            open_timeout,
            ballast_bytes,
            min_free_bytes,
            failpoint,
        } = options;
        file::create_private_dir(&dir)?;
        let lock = take_lock(&dir)?;
        restore::finish(&dir)?;
        let ballast = Arc::new(Ballast::new(&dir, ballast_bytes, min_free_bytes));
        let meta::Opened { id, root_key, new } = meta::open(&dir, &master_key)?;
        let log = dir.join("sled/db");
        let large = std::fs::metadata(&log).map_or(0, |log| log.len()) / READ_A_SECOND;
        let at = dir.clone();
        guarded(&at, open_timeout + Duration::from_secs(large), move || {
            let store = Self::assemble(Parts { dir, id, root_key, ballast, lock, failpoint })?;
            if new {
                file::sync_dir(&store.0.dir.join("sled"))?;
                file::sync_dir(&store.0.dir)?;
            }
            let loaded = on_all_cores(&store.0.dir, || {
                let loaded = load(&store);
                // What fails may have failed on damage, which says more.
                store.verify()?;
                loaded
            })??;
            store.0.ballast.restore()?;
            Ok((store, loaded))
        })
    }

    fn assemble(parts: Parts) -> Result<Self, StorageError> {
        let Parts { dir, id, root_key, ballast, lock, failpoint } = parts;
        let codec = Arc::new(Codec::new(root_key.derive("records")));
        let (slots_key, mark_key) = (root_key.derive("key slots"), root_key.derive("commit mark"));
        let opened = open_files(&dir, &codec, &ballast, slots_key, mark_key)?;
        let slots = Arc::new(opened.slots);
        let log_path = dir.join("sled/db");
        let log = File::open(&log_path).map_err(StorageError::io("open", &log_path))?;
        let committer = Committer {
            dir: dir.clone(),
            db: opened.db.clone(),
            log,
            codec: Arc::clone(&codec),
            slots: Arc::clone(&slots),
            manifest: opened.manifest,
            head: opened.head,
            mark: opened.mark,
            ballast: Arc::clone(&ballast),
            changed: None,
            failed: None,
        };
        let (requests, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run(&queue))
            .map_err(StorageError::io("start a thread for", &dir))?;
        Ok(Self(Arc::new(Inner {
            dir,
            id,
            db: opened.db,
            codec,
            slots,
            root_key,
            unverified: Mutex::new(Some(Unverified::new(opened.manifest))),
            committer: Mutex::new(Some((requests, thread))),
            backing_up: Mutex::default(),
            failpoint,
            ballast,
            _lock: lock,
        })))
    }
}

/// What the guarded thread hands back.
struct Opened {
    db: sled::Db,
    slots: Slots,
    manifest: Manifest,
    head: JournalHead,
    mark: Mark,
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

fn open_files(
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
