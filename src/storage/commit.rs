use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::StorageError;
use super::ballast::Ballast;
use super::codec::{Codec, Seal};
use super::journal::{HEAD_KEY, JournalHead, note_key};
use super::manifest::{MANIFEST_KEY, Manifest, Mark, counts};
use super::slots::Slots;

/// Key and sealed value, or `None` to remove.
pub(super) type Operation = (Vec<u8>, Option<Vec<u8>>);

/// One caller's batch, and where to answer.
pub(super) struct Request {
    pub(super) operations: Vec<Operation>,
    /// What is to be written into the journal with it.
    pub(super) notes: Vec<Vec<u8>>,
    /// Part of an erasure, which a full disk must not hinder.
    pub(super) erases: bool,
    /// The number of its first note.
    pub(super) reply: SyncSender<Result<u64, StorageError>>,
}

/// What is asked of the committer.
pub(super) enum Message {
    Commit(Request),
    /// Done between two commits, while nothing is written.
    Between(Box<dyn FnOnce(&mut Committer) + Send>),
}

/// Most batches and bytes that share one sync.
const GROUP_BATCHES: usize = 512;
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The only writer of the log. Takes whatever batches wait, writes them as one, syncs once, and
/// answers all of them.
pub(super) struct Committer {
    pub(super) dir: PathBuf,
    pub(super) db: sled::Db,
    pub(super) log: File,
    pub(super) codec: Arc<Codec>,
    pub(super) slots: Arc<Slots>,
    pub(super) manifest: Manifest,
    pub(super) head: JournalHead,
    pub(super) mark: Mark,
    pub(super) ballast: Arc<Ballast>,
    /// Keys that were written since a backup last asked, while there is one.
    pub(super) changed: Option<HashSet<Vec<u8>>>,
    /// Why nothing is written any more.
    pub(super) failed: Option<String>,
}

impl Committer {
    /// Serves until every sender is gone, then makes the mark durable.
    pub(super) fn run(mut self, requests: &Receiver<Message>) {
        let mut held = None;
        while let Some(message) = held.take().or_else(|| requests.recv().ok()) {
            let first = match message {
                Message::Commit(first) => first,
                Message::Between(work) => {
                    // Whoever asked notices that no answer comes.
                    let _ = catch_unwind(AssertUnwindSafe(|| work(&mut self)));
                    continue;
                }
            };
            let mut bytes = size(&first);
            let mut group = vec![first];
            while group.len() < GROUP_BATCHES && bytes < GROUP_BYTES {
                match requests.try_recv() {
                    Ok(Message::Commit(next)) => {
                        bytes += size(&next);
                        group.push(next);
                    }
                    Ok(between) => {
                        held = Some(between);
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.serve(group);
        }
        if let Err(error) = self.mark.sync() {
            tracing::warn!(%error, "the commit mark is not durable");
        }
    }

    /// Writes a group and answers all of it. Where there is no room for it, those who only remove do not share the refusal of
    /// those who write.
    fn serve(&mut self, group: Vec<Request>) {
        let next = self.head.length + 1;
        let result = match &self.failed {
            Some(reason) => Err(StorageError::Stopped { reason: reason.clone() }),
            None => self.commit_guarded(&group),
        };
        let full = matches!(&result, Err(StorageError::Full { .. }));
        if full && !group.iter().all(removes) {
            let (removing, writing): (Vec<_>, Vec<_>) = group.into_iter().partition(removes);
            answer(writing, &result, next);
            if !removing.is_empty() {
                self.serve(removing);
            }
            return;
        }
        // After a failed write nobody knows what is in the log, so nothing may follow it. A
        // refusal for lack of space came before the write and may pass.
        if let Err(error) = &result
            && !full
            && self.failed.is_none()
        {
            tracing::error!(%error, "a commit failed: the store takes no more writes");
            self.failed = Some(format!("an earlier commit failed: {error}"));
        }
        answer(group, &result, next);
    }

    fn commit_guarded(&mut self, group: &[Request]) -> Result<(), StorageError> {
        let bytes: usize = group.iter().map(size).sum();
        self.ballast.admit(bytes as u64, group.iter().all(removes))?;
        catch_unwind(AssertUnwindSafe(|| self.commit(group)))
            .unwrap_or_else(|_| Err(StorageError::damaged(&self.dir, "the log cannot be written")))
    }

    fn commit(&mut self, group: &[Request]) -> Result<(), StorageError> {
        let mut manifest = self.manifest;
        let mut latest: HashMap<&[u8], Option<&[u8]>> = HashMap::new();
        for (key, value) in group.iter().flat_map(|request| &request.operations) {
            latest.insert(key, value.as_deref());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in latest {
            if counts(key) {
                let before = self.db.get(key).map_err(|error| self.sled_error(error))?;
                if let Some(before) = before {
                    manifest.remove(key, &before);
                }
                if let Some(sealed) = value {
                    manifest.add(key, sealed);
                }
            }
            match value {
                Some(sealed) => batch.insert(key, sealed),
                None => batch.remove(key),
            }
        }
        let mut changed: Vec<Vec<u8>> = Vec::new();
        if self.changed.is_some() {
            changed.extend(group.iter().flat_map(|r| &r.operations).map(|(key, _)| key.clone()));
        }
        let mut head = self.head;
        for content in group.iter().flat_map(|request| &request.notes) {
            head = head.after(content);
            let key = note_key(head.length);
            let value = [&head.hash[..], content].concat();
            batch.insert(key.as_slice(), self.codec.seal(&self.slots, &key, &value, Seal::Store)?);
            changed.push(key);
        }
        if head != self.head {
            let before = self.db.get(HEAD_KEY).map_err(|error| self.sled_error(error))?;
            if let Some(before) = before {
                manifest.remove(HEAD_KEY, &before);
            }
            let sealed = self.codec.seal(&self.slots, HEAD_KEY, &head.to_bytes(), Seal::Store)?;
            manifest.add(HEAD_KEY, &sealed);
            batch.insert(HEAD_KEY, sealed);
            changed.push(HEAD_KEY.to_vec());
        }
        manifest.sequence += 1;
        let sealed =
            self.codec.seal(&self.slots, MANIFEST_KEY, &manifest.to_bytes(), Seal::Store)?;
        batch.insert(MANIFEST_KEY, sealed);
        // A record must never outlive the key it is sealed under.
        self.slots.sync().map_err(|error| self.slots_error(error))?;
        self.db.apply_batch(batch).map_err(|error| self.sled_error(error))?;
        self.db.flush().map_err(|error| self.sled_error(error))?;
        self.log.sync_data().map_err(StorageError::io("sync", &self.dir.join("sled/db")))?;
        self.mark.write(&manifest)?;
        self.manifest = manifest;
        self.head = head;
        if let Some(tracked) = &mut self.changed {
            tracked.extend(changed);
        }
        Ok(())
    }

    /// A disk without room for a key is full, like one without room for a record; the log is as it was.
    fn slots_error(&self, error: StorageError) -> StorageError {
        if let StorageError::Io { source, .. } = &error
            && source.kind() == std::io::ErrorKind::StorageFull
        {
            return self.sled_error(sled::Error::Io(source.kind().into()));
        }
        error
    }

    fn sled_error(&self, error: sled::Error) -> StorageError {
        if is_full(&error) {
            self.ballast.release();
        }
        from_sled(&self.dir, error)
    }
}

/// Whether a request is written even where the disk is full.
fn removes(request: &Request) -> bool {
    let writes = request.operations.iter().any(|(_, value)| value.is_some());
    request.erases || (!writes && request.notes.is_empty())
}

/// Tells each how it went; `next` is the number of the group's first note.
fn answer(group: Vec<Request>, result: &Result<(), StorageError>, mut next: u64) {
    for request in group {
        // A caller that left meanwhile needs no answer.
        let _ = request.reply.send(result.clone().map(|()| next));
        next += request.notes.len() as u64;
    }
}

fn size(request: &Request) -> usize {
    let operations = request.operations.iter();
    let notes: usize = request.notes.iter().map(Vec::len).sum();
    notes
        + operations
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
            .sum::<usize>()
}

/// Whether sled met a full disk.
pub(super) fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull)
}

/// sled's errors in this room's words.
pub(super) fn from_sled(dir: &std::path::Path, error: sled::Error) -> StorageError {
    let detail = match error {
        sled::Error::Io(source) => return StorageError::io("use", &dir.join("sled"))(source),
        sled::Error::Corruption { at, .. } => format!("a page does not check out ({at:?})"),
        sled::Error::ReportableBug(text) | sled::Error::Unsupported(text) => text,
        sled::Error::CollectionNotFound(_) => "a tree is missing".to_owned(),
    };
    StorageError::damaged(dir, detail)
}
