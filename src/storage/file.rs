//! Files that are either the old or the new ones, whatever happens in between.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::StorageError;

/// Extension of a file that is not whole yet.
pub(crate) const UNFINISHED: &str = "tmp";

/// Replaces the file at `path`, or leaves it as it was: a temporary file beside it is written
/// and synced, renamed over it, and the directory synced.
///
/// # Errors
/// [`StorageError::Io`] naming the step and the file.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    write_with_mode(path, bytes, 0o644)
}

/// As [`write_atomic`], readable by the owner only.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    write_with_mode(path, bytes, 0o600)
}

/// As [`write_private`], of a file that is not there yet: where somebody else makes it at the same time, one of the two does. Says whether
/// it was this one; of the other's, all is there.
pub(super) fn create_private(path: &Path, bytes: &[u8]) -> Result<bool, StorageError> {
    let taken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AlreadyExists;
    let (dir, temporary) = beside(path);
    let made = (|| {
        write_new(&temporary, bytes, 0o600)?;
        match std::fs::hard_link(&temporary, path) {
            Ok(()) => Ok(true),
            Err(error) if taken(&error) => Ok(false),
            // A file system without links. A crash may leave a part, which is refused, and whoever is second never replaces it.
            Err(_) => match write_new(path, bytes, 0o600) {
                Ok(()) => Ok(true),
                Err(StorageError::Io { source, .. }) if taken(&source) => Ok(false),
                Err(error) => Err(error),
            },
        }
    })();
    // A left-over temporary file is as private as the other.
    let _ = std::fs::remove_file(&temporary);
    let made = made?;
    sync_dir(dir)?;
    Ok(made)
}

/// A file's directory, and a name there that nobody else uses.
fn beside(path: &Path) -> (&Path, PathBuf) {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{UNFINISHED}", uuid::Uuid::new_v4().simple()));
    (dir, dir.join(name))
}

/// Writes and syncs a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StorageError> {
    let mut file = create_new(path, mode)?;
    file.write_all(bytes).map_err(StorageError::io("write", path))?;
    file.sync_all().map_err(StorageError::io("sync", path))
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StorageError> {
    let (dir, temporary) = beside(path);
    let written = (|| {
        write_new(&temporary, bytes, mode)?;
        std::fs::rename(&temporary, path).map_err(StorageError::io("replace", path))
    })();
    if written.is_err() {
        // The error already says what failed; a left-over temporary file harms nobody.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}

fn create_new(path: &Path, mode: u32) -> Result<File, StorageError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path).map_err(StorageError::io("create", path))
}

/// Bytes of a file that are in memory while it is hashed.
pub(crate) const PIECE: usize = 64 * 1024;

/// Opens a plain file. A device or a pipe, which may never end, is refused.
pub(crate) fn open_plain(path: &Path) -> std::io::Result<File> {
    // Before it is opened: to open a pipe is to wait for whoever writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("no plain file"));
    }
    File::open(path)
}

/// Size and SHA-256 of what is read, a part of it in memory at a time.
pub(crate) fn sha256(mut from: impl Read) -> std::io::Result<(u64, [u8; 32])> {
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok((bytes, hash.finalize().into())),
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    let handle = File::open(dir).map_err(StorageError::io("open", dir))?;
    handle.sync_all().map_err(StorageError::io("sync", dir))
}

/// How long somebody who holds a lock may still be on their way out.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes a file's lock, which nobody else may hold for longer than a moment: a process that was told to stop is gone a little
/// later, and a program that this process starts holds its locks until it is running.
pub(crate) fn lock_soon(file: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Creates a directory, its parents too, which only the owner may enter.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), StorageError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(StorageError::io("create", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_whole_file_and_leaves_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_cannot_be_done_says_where_and_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("taken");
        std::fs::create_dir(&target).unwrap();
        let error = write_atomic(&target, b"x").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert!(target.is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(create_private(&path, b"first").unwrap());
        assert!(!create_private(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
