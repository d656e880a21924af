//! Which threads go first when there are more of them than processors. Knows nothing of what they do.

/// Every step is worth a quarter of the processor's time beside a thread that has not made it: a job that has hours.
pub const FAR_BACK: i32 = 15;
/// Work that queries are not to wait for, but that must get on while they come: beside one that never rests it has a fourth of the
/// processor.
pub const BEHIND: i32 = 5;

/// Lets threads of the process that have not made so many steps go before this one.
pub fn give_way(steps: i32) {
    // On Linux this is the thread's own, not the process's.
    if let Err(error) = rustix::process::nice(steps) {
        tracing::warn!(%error, "work in the background is as urgent as queries");
    }
}
