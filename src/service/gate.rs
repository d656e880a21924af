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
        self.enter_as(1).await
    }

    /// The same for a turn that counts as several: at most as many as there are.
    pub(super) async fn enter_as(&self, places: u32) -> Result<OwnedSemaphorePermit, ServiceError> {
        let _place = self.queue_up()?;
        let permits = Arc::clone(&self.permits).acquire_many_owned(places);
        permits.await.map_err(|_| ServiceError::Stopping)
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

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;

    use super::*;

    #[tokio::test]
    async fn so_many_are_under_way_so_many_wait_and_one_more_is_refused() {
        let gate = Gate::new(1, 2);
        let first = gate.enter().await.unwrap();
        let (mut second, mut third) = (Box::pin(gate.enter()), Box::pin(gate.enter()));
        assert!(poll_immediate(&mut second).await.is_none());
        assert!(poll_immediate(&mut third).await.is_none());
        let refused = poll_immediate(gate.enter()).await;
        assert!(matches!(refused, Some(Err(ServiceError::Busy { waiting: 2 }))));
        // Whoever leaves gives the place up, and whoever is done the turn.
        drop(second);
        drop(first);
        let third = third.await.unwrap();
        let mut fourth = Box::pin(gate.enter());
        assert!(poll_immediate(&mut fourth).await.is_none());
        drop(third);
        assert!(fourth.await.is_ok());
    }
}
