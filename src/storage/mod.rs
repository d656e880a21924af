//! Records on disk: sealed, counted, written for good before anybody is told so. Owns the data
//! directory, its keys and its lock. Must not know what a record means: galleries, subjects and
//! templates are the callers' words.
//!
//! ```text
//! DIR/store.json     format version, store id, root key wrapped by the master key
//! DIR/lock           held exclusively while a process has the store open
//! DIR/sled/          sled 0.34: every value sealed, every batch atomic
//! DIR/keys.slots     one wrapped data key a slot, overwritten in place to erase
//! DIR/commit.mark    the last acknowledged commit, to notice a log that lost its end
//! DIR/ballast        space given back when the disk is full
//! DIR/restore.tmp/   a backup on its way back; `restore.ready` beside it while files change places
//! ```
//!
//! Invariant: a batch is acknowledged only after `flush` *and* `fdatasync` of sled's file, because
//! sled's flush ends in `sync_file_range`, which survives a crash of the process but not of the
//! machine. Invariant: values stay below [`MAX_VALUE`], because sled moves larger pages to blob
//! files that it never syncs.

mod backup;
mod ballast;
mod codec;
mod commit;
mod error;
mod failpoint;
pub mod file;
mod frames;
mod guard;
mod journal;
mod mac;
mod manifest;
mod master;
mod meta;
mod open;
mod restore;
mod slots;
mod store;
mod verify;
mod walk;

pub use backup::BackupInfo;
pub use codec::Seal;
pub use error::StorageError;
pub use failpoint::Failpoint;
pub use journal::{JournalCheck, JournalHead, JournalProblem, Note};
pub use mac::{hmac_sha256, macs_equal};
pub use master::MasterKey;
pub use restore::{Staged, backup_of, rotate_master_key, stage, verify_backup};
pub use slots::DataKey;
pub use store::{Batch, MAX_VALUE, Records, Store, StoreOptions};
