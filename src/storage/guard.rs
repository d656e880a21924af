use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::StorageError;

/// Runs `open` on a thread of its own. A panic, as sled has on some damaged files, becomes
/// [`StorageError::Damaged`], and taking longer than `timeout` [`StorageError::OpenTimeout`]. A thread
/// cannot be stopped: after a time-out it stays behind, holding sled's lock, until the process ends.
pub(super) fn guarded<T, E>(
    dir: &Path,
    timeout: Duration,
    open: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StorageError> + Send + 'static,
{
    let (done, outcome) = mpsc::sync_channel(1);
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(open));
        // Nobody listens after a time-out.
        let _ = done.send(result);
    };
    std::thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(work)
        .map_err(StorageError::io("start a thread to open", dir))?;
    match outcome.recv_timeout(timeout) {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(StorageError::damaged(dir, format!("the log cannot be read ({text})")).into())
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let seconds = timeout.as_secs().max(1);
            Err(StorageError::OpenTimeout { dir: dir.to_owned(), seconds }.into())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(StorageError::damaged(dir, "the log cannot be read").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_and_a_hang_become_errors() {
        let dir = Path::new("/data");
        let panicked =
            guarded::<(), StorageError>(dir, Duration::from_secs(60), || panic!("odd page {}", 7));
        assert!(panicked.unwrap_err().to_string().contains("odd page 7"));
        let (_hold, never) = mpsc::channel::<()>();
        let hung = guarded(dir, Duration::from_millis(20), move || {
            Ok::<_, StorageError>(never.recv().is_ok())
        });
        assert!(matches!(hung, Err(StorageError::OpenTimeout { .. })));
        assert_eq!(guarded(dir, Duration::from_secs(60), || Ok::<_, StorageError>(7)).unwrap(), 7);
    }
}
