//! How much the machine has left. The store stops for good on a full disk, so nobody else may fill it.

use std::io::{Error, ErrorKind};
use std::path::Path;

/// Bytes of the disk that are left to the store, whatever else is written.
const RESERVE: u64 = 256 * 1024 * 1024;

/// Refuses to write `bytes` more below `dir` when the store would be left without room.
pub(super) fn check_disk(dir: &Path, bytes: u64) -> Result<(), Error> {
    let needed = bytes.saturating_add(RESERVE);
    match free_disk(dir) {
        Some(free) if free < needed => {
            let about = format!("{needed} bytes are needed and {free} are free");
            Err(Error::new(ErrorKind::StorageFull, about))
        }
        Some(_) | None => Ok(()),
    }
}

/// Bytes that can be written on a folder's disk; `None` where the system does not tell.
pub(super) fn free_disk(dir: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(dir).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

/// Bytes of memory that the system, or the group that the process is confined to, can still give.
pub(super) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let read = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse().ok()
    };
    let group =
        read("memory.max").and_then(|max| Some(max.saturating_sub(read("memory.current")?)));
    Some(group.map_or(system, |group| group.min(system)))
}
