use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::domain::hex;

use super::ballast::Ballast;
use super::codec::{Codec, OVERHEAD, Opener, Seal};
use super::commit::{Committer, Message, Operation, Request, from_sled};
use super::slots::{DataKey, Slots};
use super::verify::Unverified;
use super::{Failpoint, MasterKey, StorageError};

/// Largest value of a record, in bytes. sled keeps up to 17 records on a page and moves a page over a
/// quarter of a segment to a blob file, which it never syncs; this keeps pages below that.
pub const MAX_VALUE: usize = 24 * 1024;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data directory; created when missing.
    pub dir: PathBuf,
    /// The key that wraps every other.
    pub master_key: MasterKey,
    /// Longest that opening, loading and checking may take, with a second more for every 16 MiB of the log.
    pub open_timeout: Duration,
    /// Bytes held back for when the disk is full.
    pub ballast_bytes: u64,
    /// Free bytes below which writes are refused; at least 16 MiB are always kept.
    pub min_free_bytes: u64,
    /// A step to crash at.
    pub failpoint: Failpoint,
}

impl StoreOptions {
    /// The defaults: two minutes to open, 16 MiB of ballast, 16 MiB kept free.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, master_key: MasterKey) -> Self {
        Self {
            dir: dir.into(),
            master_key,
            open_timeout: Duration::from_secs(120),
            ballast_bytes: 16 * 1024 * 1024,
            min_free_bytes: 0,
            failpoint: Failpoint::default(),
        }
    }
}

/// A key, and what to write there; `None` removes it.
type Unsealed = (Vec<u8>, Option<(Vec<u8>, Seal)>);

/// Changes that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    operations: Vec<Unsealed>,
    notes: Vec<Vec<u8>>,
    erases: bool,
}

impl Batch {
    /// A batch that belongs to an erasure: it is written even when the disk is full, into the space that
    /// the ballast gives back.
    #[must_use]
    pub fn of_erasure() -> Self {
        Self { erases: true, ..Self::default() }
    }

    /// Writes `value` under `key`, sealed under `seal`. Keys start with a byte of 0x01 to 0x6f, or of 0x80 to 0xef for bulk, which is
    /// authenticated when read and not checked at open.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>, seal: Seal) {
        self.operations.push((key, Some((value, seal))));
    }

    /// Removes `key`; nothing happens when it is not there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.operations.push((key, None));
    }

    /// Adds a note to the journal.
    pub fn note(&mut self, content: Vec<u8>) {
        self.notes.push(content);
    }

    /// Adds another batch's changes after this one's.
    pub fn append(&mut self, mut other: Self) {
        self.operations.append(&mut other.operations);
        self.notes.append(&mut other.notes);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.notes.is_empty()
    }
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) id: String,
    pub(super) db: sled::Db,
    pub(super) codec: Arc<Codec>,
    pub(super) slots: Arc<Slots>,
    /// What every other key is derived from.
    pub(super) root_key: MasterKey,
    /// Until everything was held against the manifest.
    pub(super) unverified: Mutex<Option<Unverified>>,
    pub(super) committer: Mutex<Option<(SyncSender<Message>, JoinHandle<()>)>>,
    /// Held over a backup.
    pub(super) backing_up: Mutex<()>,
    pub(super) failpoint: Failpoint,
    pub(super) ballast: Arc<Ballast>,
    // Held, not read: the lock goes with the handle.
    pub(super) _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        stop(&mut self.committer.lock());
    }
}

fn stop(committer: &mut Option<(SyncSender<Message>, JoinHandle<()>)>) {
    if let Some((requests, thread)) = committer.take() {
        drop(requests);
        if thread.join().is_err() {
            tracing::error!("the committer panicked");
        }
    }
}

/// A data directory, open. Clones share it.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Inner>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.dir.display())
    }
}

impl Store {
    /// Whether there is a store in a directory, sound or not.
    ///
    /// # Errors
    /// [`StorageError::Io`] where that cannot be told: what may not be looked at is not absent.
    pub fn exists(dir: &Path) -> Result<bool, StorageError> {
        let there = |name: &str| {
            let path = dir.join(name);
            path.try_exists().map_err(StorageError::io("look for", &path))
        };
        Ok(there("store.json")? || there("sled")?)
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Where a test wants the process to end.
    pub(crate) fn failpoint(&self) -> &Failpoint {
        &self.0.failpoint
    }

    /// Makes a batch durable. Returns when it is; concurrent callers share one sync.
    ///
    /// # Errors
    /// [`StorageError::Full`] with nothing written, [`StorageError::TooLarge`],
    /// [`StorageError::KeyDestroyed`] for a seal that is gone, [`StorageError::Stopped`] after a close or failure.
    pub fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.committed(batch).map(drop)
    }

    /// As [`Store::commit`]; gives the number of the batch's first note.
    ///
    /// # Errors
    /// As there.
    pub fn committed(&self, batch: Batch) -> Result<u64, StorageError> {
        self.send(batch)?.recv().map_err(|_| closed())?
    }

    /// As [`Store::commit`], without waiting until it is durable: for what a crash may take, such as how something went
    /// that is known to have begun.
    ///
    /// # Errors
    /// Those that show before anything is written.
    pub fn commit_later(&self, batch: Batch) -> Result<(), StorageError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send(batch).map(drop)
    }

    fn send(&self, batch: Batch) -> Result<Receiver<Result<u64, StorageError>>, StorageError> {
        let Batch { operations, notes, erases } = batch;
        if let Some(note) = notes.iter().find(|note| note.len() > Self::max_note()) {
            return Err(StorageError::TooLarge { got: note.len(), max: Self::max_note() });
        }
        let operations = self.seal(operations)?;
        let (reply, outcome) = sync_channel(1);
        self.ask(Message::Commit(Request { operations, notes, erases, reply }))?;
        Ok(outcome)
    }

    fn ask(&self, message: Message) -> Result<(), StorageError> {
        self.verify()?;
        let requests = self.0.committer.lock().as_ref().map(|(requests, _)| requests.clone());
        requests.ok_or_else(closed)?.send(message).map_err(|_| closed())
    }

    /// Does something between two commits, while nothing is written.
    pub(super) fn between<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Committer) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let (reply, outcome) = sync_channel(1);
        // The answer has room for it, so that the committer never waits.
        let work = move |committer: &mut Committer| drop(reply.send(work(committer)));
        self.ask(Message::Between(Box::new(work)))?;
        outcome.recv().map_err(|_| closed())
    }

    fn seal(&self, operations: Vec<Unsealed>) -> Result<Vec<Operation>, StorageError> {
        let seal_one = |(key, value): (Vec<u8>, Option<(Vec<u8>, Seal)>)| {
            let Some((value, seal)) = value else { return Ok((key, None)) };
            if value.len() + OVERHEAD > MAX_VALUE {
                return Err(StorageError::TooLarge { got: value.len(), max: MAX_VALUE - OVERHEAD });
            }
            let sealed = self.0.codec.seal(&self.0.slots, &key, &value, seal)?;
            Ok((key, Some(sealed)))
        };
        operations.into_iter().map(seal_one).collect()
    }

    /// Longest plain value that [`Batch::put`] takes, in bytes.
    #[must_use]
    pub fn max_value() -> usize {
        MAX_VALUE - OVERHEAD
    }

    /// Longest content of a note, in bytes.
    #[must_use]
    pub fn max_note() -> usize {
        Self::max_value() - 32
    }

    /// The store's own name, which its backups have too.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it does not open, [`StorageError::KeyDestroyed`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let sealed = self.0.db.get(key).map_err(|error| from_sled(&self.0.dir, error))?;
        sealed.map(|sealed| self.unseal(key, &sealed)).transpose()
    }

    fn unseal(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StorageError> {
        let mut opener = Opener::default();
        self.unseal_next(&mut opener, key, sealed)?;
        Ok(opener.into_plain())
    }

    pub(super) fn unseal_next<'a>(
        &self,
        opener: &'a mut Opener,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<&'a [u8], StorageError> {
        self.0.codec.open_next(&self.0.slots, opener, key, sealed)?.ok_or_else(|| {
            StorageError::damaged(&self.0.dir, format!("record {} does not open", hex(key)))
        })
    }

    /// Every record whose key starts with `prefix`, in key order.
    #[must_use]
    pub fn scan(&self, prefix: &[u8]) -> Records {
        Records { store: self.clone(), iter: self.0.db.scan_prefix(prefix) }
    }

    /// Every key that starts with `prefix`, in order, without opening the records.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the log cannot be read.
    pub fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StorageError> {
        let keys = self.0.db.scan_prefix(prefix).keys();
        keys.map(|key| key.map(|key| key.to_vec()).map_err(|e| from_sled(&self.0.dir, e))).collect()
    }

    /// Makes a data key. It is durable with the first batch that is committed after it.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn create_data_key(&self) -> Result<DataKey, StorageError> {
        self.verify()?;
        self.0.slots.create()
    }

    /// Destroys data keys for good: overwritten in place and synced when this returns.
    ///
    /// # Errors
    /// [`StorageError::Io`]; try again.
    pub fn destroy_data_keys(&self, data_keys: &[DataKey]) -> Result<(), StorageError> {
        self.verify()?;
        self.0.slots.destroy(data_keys)
    }

    /// Destroys every data key that is not in `live`, and says how many.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn retain_data_keys(&self, live: &HashSet<DataKey>) -> Result<usize, StorageError> {
        self.verify()?;
        self.0.slots.retain(live)
    }

    /// A key for one purpose of the caller's, derived from the store's root key.
    #[must_use]
    pub fn derive_key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.0.root_key.derive(&format!("caller/{purpose}"))
    }

    /// Waits for the batches under way and takes no more. Reading goes on.
    pub fn close(&self) {
        stop(&mut self.0.committer.lock());
    }
}

/// Records in key order; each is opened as it is reached.
pub struct Records {
    store: Store,
    iter: sled::Iter,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records(..)")
    }
}

impl Iterator for Records {
    type Item = Result<(Vec<u8>, Vec<u8>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.iter.next()?;
        Some(match item {
            Ok((key, sealed)) => {
                self.store.unseal(&key, &sealed).map(|value| (key.to_vec(), value))
            }
            Err(error) => Err(from_sled(&self.store.0.dir, error)),
        })
    }
}

fn closed() -> StorageError {
    StorageError::Stopped { reason: "it is closed".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_with_an_erasure_on_a_full_disk_does_not_keep_it_from_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions {
            ballast_bytes: 0,
            min_free_bytes: u64::MAX / 8,
            ..StoreOptions::new(dir.path(), MasterKey::from_hex(&"1f".repeat(32)).unwrap())
        });
        let store = store.unwrap();
        let (begun, begins) = sync_channel(1);
        let (go, goes) = sync_channel(1);
        let (first, erasure, last) = std::thread::scope(|scope| {
            let holder = store.clone();
            // While the committer is held, all of these come to wait for it.
            scope.spawn(move || {
                holder.between(move |_| {
                    begun.send(()).unwrap();
                    goes.recv().unwrap()
                })
            });
            begins.recv().unwrap();
            let send = |mut batch: Batch, number: u8| {
                batch.put(vec![4, number], vec![number], Seal::Store);
                batch.note(vec![number]);
                store.send(batch).unwrap()
            };
            let first = send(Batch::default(), 1);
            let erasure = send(Batch::of_erasure(), 2);
            let last = send(Batch::default(), 3);
            go.send(()).unwrap();
            (first.recv().unwrap(), erasure.recv().unwrap(), last.recv().unwrap())
        });
        assert_eq!(erasure.unwrap(), 1, "its note is the first");
        for refused in [first, last] {
            assert!(matches!(refused, Err(StorageError::Full { .. })));
        }
        let written: Vec<u8> = store.scan(&[4]).map(|record| record.unwrap().0[1]).collect();
        assert_eq!(written, [2]);
    }
}
