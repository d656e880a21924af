//! Tar archives that strangers made: plain files and folders, within bounds, and nothing outside the folder they go to.

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

use super::room::check_disk;

/// Longest extended header, in bytes.
const MAX_EXTENDED: u64 = 64 * 1024;
/// Deepest folder.
const MAX_DEPTH: usize = 16;
/// Bytes of a header, and what content is filled up to.
const BLOCK: u64 = 512;
/// Bytes that an entry may take beside its content: header, filling, and a usual extended header with its own.
const BESIDE: u64 = 4096;

/// Bounds of what is unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArchiveLimits {
    /// Most bytes of all files.
    pub(super) bytes: u64,
    /// Most files and folders.
    pub(super) entries: usize,
}

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// It holds something else than plain files and folders, or lies about them.
    #[error("the archive is refused: {0}")]
    Refused(String),
    /// It holds more than is taken.
    #[error("the archive holds more than {bytes} bytes or {entries} entries")]
    TooLarge {
        /// Most bytes.
        bytes: u64,
        /// Most entries.
        entries: usize,
    },
    /// The disk is full, or fails.
    #[error("cannot unpack the archive")]
    Io(#[source] std::io::Error),
}

impl ArchiveError {
    fn refused(about: impl Into<String>) -> Self {
        Self::Refused(about.into())
    }
}

/// Counts what is read, and ends where more comes than may.
struct Counted<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
    max: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        if self.read.get() > self.max { Err(ErrorKind::FileTooLarge.into()) } else { Ok(read) }
    }
}

/// Unpacks into an empty folder. What an archive that is refused left there is the caller's to remove, and what must
/// outlive a crash the caller's to sync.
pub(super) fn unpack(
    reader: impl Read,
    into: &Path,
    limits: ArchiveLimits,
) -> Result<(), ArchiveError> {
    let position = Cell::new(0);
    // Content that is passed over, as that of a folder, counts too.
    let beside = (limits.entries as u64 + 16).saturating_mul(BESIDE);
    let max = limits.bytes.saturating_add(beside);
    let mut archive = Archive::new(Counted { inner: reader, read: &position, max });
    let too_large = || ArchiveError::TooLarge { bytes: limits.bytes, entries: limits.entries };
    let broken = |error: std::io::Error| {
        if error.kind() == ErrorKind::FileTooLarge {
            too_large()
        } else {
            ArchiveError::refused(error.to_string())
        }
    };
    let (mut left, mut entries, mut end) = (limits.bytes, 0, 0);
    // Raw, so that no extension of the format is followed unseen.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        entries += 1;
        if entries > limits.entries {
            return Err(too_large());
        }
        let size = entry.header().entry_size().map_err(broken)?;
        end = entry.raw_file_position().saturating_add(size).div_ceil(BLOCK).saturating_mul(BLOCK);
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader) {
            extended(&mut entry, size)?;
            continue;
        }
        let is_dir = kind == EntryType::Directory;
        if !is_dir && kind != EntryType::Regular {
            let kind = char::from(kind.as_byte());
            return Err(ArchiveError::refused(format!(
                "it has an entry of type `{kind}`; only plain files and folders are taken"
            )));
        }
        let target = into.join(plain(&entry.path_bytes())?);
        if is_dir {
            make_dir(&target)?;
            continue;
        }
        if size > left {
            return Err(too_large());
        }
        left -= size;
        check_disk(into, size).map_err(ArchiveError::Io)?;
        let mut file = make_file(&target)?;
        let copied = copy(&mut entry, &mut file, &broken)?;
        if copied != size {
            return Err(ArchiveError::refused(format!("it ends {} bytes early", size - copied)));
        }
    }
    if entries == 0 {
        return Err(ArchiveError::refused("it is empty, or no tar archive"));
    }
    // An archive that was cut off after an entry looks whole but for the block of zeros that ends it.
    if position.get() < end.saturating_add(BLOCK) {
        return Err(ArchiveError::refused(
            "it ends early: the block that ends an archive is missing",
        ));
    }
    Ok(())
}

fn make_file(target: &Path) -> Result<File, ArchiveError> {
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    made.map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            ArchiveError::refused("it has a name twice")
        } else {
            ArchiveError::Io(error)
        }
    })
}

/// Tells what the archive fails to give from what the disk fails to take.
fn copy(
    from: &mut impl Read,
    to: &mut File,
    broken: &dyn Fn(std::io::Error) -> ArchiveError,
) -> Result<u64, ArchiveError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut copied = 0;
    loop {
        let read = from.read(&mut buffer).map_err(broken)?;
        if read == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..read]).map_err(ArchiveError::Io)?;
        copied += read as u64;
    }
}

/// Takes times and the like, and nothing that says where or how large an entry is.
fn extended(entry: &mut impl Read, size: u64) -> Result<(), ArchiveError> {
    if size > MAX_EXTENDED {
        return Err(ArchiveError::refused("an extended header is too long"));
    }
    let mut bytes = Vec::new();
    entry
        .take(MAX_EXTENDED)
        .read_to_end(&mut bytes)
        .map_err(|error| ArchiveError::refused(error.to_string()))?;
    if bytes.len() as u64 != size {
        return Err(ArchiveError::refused("it ends within an extended header"));
    }
    for keyword in ["path=", "linkpath=", "size=", "GNU.sparse"] {
        if bytes.windows(keyword.len()).any(|window| window == keyword.as_bytes()) {
            return Err(ArchiveError::refused(
                "it has names longer than 100 bytes or sparse files",
            ));
        }
    }
    Ok(())
}

/// A path below the folder, of plain names.
fn plain(bytes: &[u8]) -> Result<PathBuf, ArchiveError> {
    let bad = || {
        let shown: String = String::from_utf8_lossy(bytes).chars().take(100).collect();
        ArchiveError::refused(format!("it has an entry named {shown:?}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    if text.chars().any(char::is_control) || text.contains('\\') {
        return Err(bad());
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if path.components().count() > MAX_DEPTH {
        return Err(bad());
    }
    Ok(path)
}

fn make_dir(path: &Path) -> Result<(), ArchiveError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| {
        if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
            ArchiveError::refused("it has a file where a folder is to be")
        } else {
            ArchiveError::Io(error)
        }
    })
}

/// Writes these files of a folder as an archive, the same bytes for the same files.
pub(super) fn pack(
    writer: impl Write,
    dir: &Path,
    names: &[String],
    below: &str,
) -> std::io::Result<()> {
    let mut builder = Builder::new(writer);
    for name in names {
        let mut file = File::open(dir.join(name))?;
        let mut header = Header::new_ustar();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, format!("{below}/{name}"), &mut file)?;
    }
    builder.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ArchiveLimits = ArchiveLimits { bytes: 1 << 20, entries: 10 };

    fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o777);
        header.set_cksum();
        header
    }

    fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, data) in entries {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<(), ArchiveError>) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let result = unpack(bytes, &inside, LIMITS);
        let outside = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(outside, 1, "nothing was written outside");
        (dir, result)
    }

    #[test]
    fn plain_files_and_folders_are_unpacked() {
        let file = EntryType::Regular;
        let bytes = archive(&[
            (header(b"./a/", EntryType::Directory, 0), b""),
            (header(b"a/b", file, 3), b"abc"),
            (header(b"c", file, 0), b""),
        ]);
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        assert_eq!(std::fs::read(dir.path().join("inside/a/b")).unwrap(), b"abc");
        assert!(dir.path().join("inside/c").is_file());
    }

    #[test]
    fn what_leads_outside_or_lies_is_refused() {
        let file = EntryType::Regular;
        for (what, bytes) in [
            ("parent", archive(&[(header(b"../x", file, 1), b"x")])),
            ("parent below", archive(&[(header(b"a/../../x", file, 1), b"x")])),
            ("absolute", archive(&[(header(b"/tmp/x", file, 1), b"x")])),
            ("symbolic link", archive(&[(header(b"x", EntryType::Symlink, 0), b"")])),
            ("hard link", archive(&[(header(b"x", EntryType::Link, 0), b"")])),
            ("device", archive(&[(header(b"x", EntryType::Char, 0), b"")])),
            ("pipe", archive(&[(header(b"x", EntryType::Fifo, 0), b"")])),
            ("long name", archive(&[(header(b"x", EntryType::GNULongName, 4), b"/etc")])),
            ("sparse", archive(&[(header(b"x", EntryType::GNUSparse, 0), b"")])),
            (
                "extended path",
                archive(&[(header(b"x", EntryType::XHeader, 14), b"14 path=/etc/x")]),
            ),
            ("control", archive(&[(header(b"a\nb", file, 1), b"x")])),
            ("twice", archive(&[(header(b"x", file, 1), b"x"), (header(b"./x", file, 1), b"y")])),
            (
                "file as folder",
                archive(&[(header(b"x", file, 1), b"x"), (header(b"x/y", file, 1), b"y")]),
            ),
            ("no archive", vec![7; 2048]),
            ("empty", vec![0; 2048]),
        ] {
            let (_dir, result) = unpacked(&bytes);
            assert!(matches!(result, Err(ArchiveError::Refused(_))), "{what}: {result:?}");
        }
        let whole = archive(&[(header(b"x", file, 2000), &[1; 2000])]);
        // The last but one looks whole, but for the block that ends an archive.
        for at in [1, 600, 1500, 2400, 2560, 3000] {
            let (_dir, result) = unpacked(&whole[..at]);
            assert!(matches!(result, Err(ArchiveError::Refused(_))), "cut at {at}: {result:?}");
        }
    }

    #[test]
    fn bounds_hold() {
        let file = EntryType::Regular;
        let huge = archive(&[(header(b"x", file, 1 << 40), b"x")]);
        assert!(matches!(unpacked(&huge).1, Err(ArchiveError::TooLarge { .. })));
        // What is passed over counts as well.
        let filler = vec![1; 2 << 20];
        let folder = archive(&[(header(b"d/", EntryType::Directory, 2 << 20), &filler)]);
        assert!(matches!(unpacked(&folder).1, Err(ArchiveError::TooLarge { .. })));
        let names: Vec<String> = (0..11).map(|n| format!("f{n}")).collect();
        let many: Vec<(Header, &[u8])> =
            names.iter().map(|name| (header(name.as_bytes(), file, 0), &b""[..])).collect();
        assert!(matches!(unpacked(&archive(&many)).1, Err(ArchiveError::TooLarge { .. })));
    }
    #[test]
    fn the_disk_is_not_filled() {
        let dir = tempfile::tempdir().unwrap();
        let huge = archive(&[(header(b"x", EntryType::Regular, 1 << 60), b"x")]);
        let limits = ArchiveLimits { bytes: u64::MAX, entries: 10 };
        match unpack(&huge[..], dir.path(), limits) {
            Err(ArchiveError::Io(error)) => assert_eq!(error.kind(), ErrorKind::StorageFull),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
