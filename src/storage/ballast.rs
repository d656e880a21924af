use std::io::Write;
use std::path::{Path, PathBuf};

use super::StorageError;

/// Free bytes wanted beyond a batch itself: sled grows by whole segments and must write some of its
/// own, and a sled that meets a full disk stops for good.
const RESERVE: u64 = 16 * 1024 * 1024;

/// Watches the space under a data directory, so that sled never sees a full disk.
pub(super) struct Ballast {
    dir: PathBuf,
    path: PathBuf,
    bytes: u64,
    reserve: u64,
}

impl Ballast {
    pub(super) fn new(dir: &Path, bytes: u64, min_free_bytes: u64) -> Self {
        let reserve = min_free_bytes.max(RESERVE);
        Self { dir: dir.to_owned(), path: dir.join("ballast"), bytes, reserve }
    }

    /// Puts the ballast back when there is room for it and more.
    pub(super) fn restore(&self) -> Result<(), StorageError> {
        let present = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        if present == self.bytes || self.available()? < self.reserve + 2 * self.bytes {
            return Ok(());
        }
        // Real bytes, not a hole: a sparse file would hold no space to give back.
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&self.path)?;
            let block = vec![0x5a_u8; 1 << 20];
            let mut left = self.bytes;
            while left > 0 {
                let step = left.min(block.len() as u64);
                file.write_all(&block[..step as usize])?;
                left -= step;
            }
            file.sync_all()
        };
        write().map_err(StorageError::io("write", &self.path))
    }

    /// Gives the ballast's space back.
    pub(super) fn release(&self) {
        match std::fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(bytes = self.bytes, "the disk is full: ballast released"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the disk is full and the ballast stays"),
        }
    }

    /// Checks that `bytes` more can be written. Erasures and removals may use the ballast's space.
    pub(super) fn admit(&self, bytes: u64, removes_only: bool) -> Result<(), StorageError> {
        let needed = self.reserve.saturating_add(bytes.saturating_mul(3));
        let available = self.available()?;
        if available >= needed {
            return Ok(());
        }
        self.release();
        if removes_only {
            return Ok(());
        }
        Err(StorageError::Full { dir: self.dir.clone(), available, needed })
    }

    #[cfg(unix)]
    fn available(&self) -> Result<u64, StorageError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|errno| StorageError::io("ask for free space in", &self.dir)(errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(not(unix))]
    fn available(&self) -> Result<u64, StorageError> {
        Ok(u64::MAX)
    }
}
