//! The allocator of commands that train.

use crate::config::{ALLOCATOR_PURGE, allocator_is_told};

/// Lets the allocator keep what is freed, by starting this program once more in the same process: it reads its
/// settings before anything of ours runs. A training step frees and asks for the same gigabytes again and again,
/// and getting them back from the system, zeroed, costs up to a third of it (`benchmarks/README.md`). A server
/// must not do this: it would hold the most that it ever needed.
#[cfg(unix)]
pub(super) fn keep_freed_memory() {
    use std::os::unix::process::CommandExt as _;

    if allocator_is_told() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let arguments = std::env::args_os().skip(1);
        // Returns only if it failed: then training is slower, no more.
        let _ =
            std::process::Command::new(program).args(arguments).env(ALLOCATOR_PURGE, "-1").exec();
    }
}

/// Elsewhere a process cannot be replaced.
#[cfg(not(unix))]
pub(super) fn keep_freed_memory() {
    let _ = (ALLOCATOR_PURGE, allocator_is_told);
}
