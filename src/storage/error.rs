use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store cannot do what was asked. Cloneable, because one failed group commit answers
/// many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Another process holds the store.
    #[error("the store at `{}` is in use by another process", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// What is on disk is not what was acknowledged.
    #[error(
        "the store at `{}` is damaged: {detail}; nothing was changed, put back a backup with `handclip gallery restore`",
        dir.display()
    )]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// Opening took too long, as sled does on some damaged files.
    #[error(
        "the store at `{}` did not open within {seconds} s and may be damaged: allow more time, or put back a backup with `handclip gallery restore`",
        dir.display()
    )]
    OpenTimeout {
        /// The data directory.
        dir: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// Too little space to write safely; reads and erasures still work.
    #[error(
        "the disk under `{}` is full: {available} bytes are free and {needed} are needed",
        dir.display()
    )]
    Full {
        /// The data directory.
        dir: PathBuf,
        /// Bytes free.
        available: u64,
        /// Bytes wanted before the next write.
        needed: u64,
    },
    /// Written by a newer program.
    #[error("the store has format {found}, this program reads up to {supported}: use a newer one")]
    Format {
        /// Format on disk.
        found: u32,
        /// Newest format this program knows.
        supported: u32,
    },
    /// The master key does not belong to this store.
    #[error("the master key is not the one that the store at `{}` was made with", dir.display())]
    WrongMasterKey {
        /// The data directory.
        dir: PathBuf,
    },
    /// Not a master key.
    #[error("the master key {origin} is not 64 hexadecimal digits")]
    MasterKeyFormat {
        /// Where it came from; never the key itself.
        origin: String,
    },
    /// The program that was to give the key did not.
    #[error("the command that is to print the master key failed: {detail}")]
    MasterKeyCommand {
        /// What happened; never what it printed.
        detail: String,
    },
    /// The key file may be read by others.
    #[error("the master key file `{}` can be read by others (mode {mode:o}): chmod 600 it", path.display())]
    MasterKeyMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The record's data key was destroyed by an erasure.
    #[error("the data key of this record was destroyed")]
    KeyDestroyed,
    /// A backup that is not whole, or not one.
    #[error("the backup cannot be used: {detail}")]
    Backup {
        /// What is wrong with it.
        detail: String,
    },
    /// A value over the limit.
    #[error("a record of {got} bytes was given, at most {max} are taken")]
    TooLarge {
        /// Bytes given.
        got: usize,
        /// Most bytes taken.
        max: usize,
    },
    /// The store was closed, or stopped writing after an earlier failure.
    #[error("the store takes no more writes: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

impl StorageError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(super) fn backup(detail: impl Into<String>) -> Self {
        Self::Backup { detail: detail.into() }
    }

    pub(super) fn damaged(dir: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { dir: dir.to_owned(), detail: detail.into() }
    }
}
