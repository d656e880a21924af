//! What the allocator does with memory that is freed. It reads its settings before anything of ours runs, so that a command which
//! wants others starts this program once more in the same process.

use crate::config::{ALLOCATOR_PURGE, allocator_is_told};

/// For commands that train: kept. A training step frees and asks for the same gigabytes again and again, and getting
/// them back from the system, zeroed, costs up to a third of it (`benchmarks/README.md`).
pub(super) fn keep_freed_memory() {
    purge_after("-1");
}

/// For servers: back to the system a thousandth of a second after it was freed. Later, a decoder would take fresh memory beside what
/// the one before it has left, and decoders together more than they are allowed.
pub(super) fn return_freed_memory() {
    purge_after("1");
}

#[cfg(unix)]
fn purge_after(milliseconds: &str) {
    use std::os::unix::process::CommandExt as _;

    if allocator_is_told() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let arguments = std::env::args_os().skip(1);
        let mut again = std::process::Command::new(program);
        // Returns only if it failed: then the allocator does as it usually does.
        let _ = again.args(arguments).env(ALLOCATOR_PURGE, milliseconds).exec();
    }
}

/// Elsewhere a process cannot be replaced.
#[cfg(not(unix))]
fn purge_after(_: &str) {
    let _ = (ALLOCATOR_PURGE, allocator_is_told);
}
