use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::domain::Embedding;
use crate::image::{DecodeLimits, QualityLimits, decode, gate};

use super::blocking;
use super::deployment::Deployment;
use super::error::ServiceError;
use super::options::ServiceOptions;
use super::views::Timings;

/// From a file to an embedding: decoding is bounded in memory by the number of decoders, and in
/// waiting callers by the queue.
pub(super) struct Eyes {
    limits: DecodeLimits,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    width: usize,
}

/// What was seen in a file.
pub(super) struct Seen {
    pub(super) embedding: Embedding,
    pub(super) quality: f32,
    /// The file itself, for retention.
    pub(super) file: Vec<u8>,
}

impl Eyes {
    pub(super) fn new(options: &ServiceOptions) -> Self {
        Self {
            limits: DecodeLimits {
                max_file_bytes: options.max_image_bytes,
                ..DecodeLimits::default()
            },
            permits: Arc::new(Semaphore::new(options.decoders.max(1))),
            waiting: AtomicUsize::new(0),
            queue: options.decode_queue,
            // So many fill the decoders and the model's batches.
            width: options.decode_queue.min(options.queue).clamp(1, 32),
        }
    }

    /// Decodes, judges, preprocesses and embeds one image file.
    pub(super) async fn see(
        &self,
        live: &Deployment,
        file: Vec<u8>,
        timings: &mut Timings,
    ) -> Result<Seen, ServiceError> {
        let started = Instant::now();
        let permit = {
            let _place = self.queue_up()?;
            Arc::clone(&self.permits).acquire_owned().await.map_err(|_| ServiceError::Stopping)?
        };
        let (limits, preprocessing) =
            (self.limits, live.batcher.embedder().preprocessing().clone());
        let (file, quality, pixels) = blocking(move || {
            let _permit = permit;
            let picture = decode(&file, &limits)?;
            let quality = gate(&picture, &QualityLimits::default())?;
            let pixels = preprocessing.apply(&picture);
            Ok((file, quality.score, pixels))
        })
        .await?;
        timings.decode_us += micros(started);
        let started = Instant::now();
        let embedding = live.batcher.image(pixels).await?;
        timings.embed_us += micros(started);
        Ok(Seen { embedding, quality, file })
    }

    /// Images that one caller may have under way without being told that the queue is full.
    pub(super) fn width(&self) -> usize {
        self.width
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

pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
