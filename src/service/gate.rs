use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ServiceError;

/// Bounds how much work of a kind is under way, and how many callers wait for their turn; one more is refused.
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
}

impl Gate {
    pub(super) fn new(at_a_time: usize, queue: usize) -> Self {
        let permits = Arc::new(Semaphore::new(at_a_time.max(1)));
        Self { permits, waiting: AtomicUsize::new(0), queue }
    }

    /// Waits for a turn, which lasts as long as the permit.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let _place = self.queue_up()?;
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| ServiceError::Stopping)
    }

    fn queue_up(&self) -> Result<Place<'_>, ServiceError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.waiting);
        if waiting >= self.queue { Err(ServiceError::Busy { waiting }) } else { Ok(place) }
    }
}

/// A caller's place in the queue, given up when it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
