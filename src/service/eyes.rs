use std::sync::Arc;
use std::time::Instant;

use crate::domain::Embedding;
use crate::image::{DecodeLimits, Picture, Preprocessing, QualityLimits, decode, gate};

use super::blocking;
use super::deployment::Serving;
use super::error::ServiceError;
use super::gate::Gate;
use super::options::ServiceOptions;
use super::views::Timings;

/// From a file to an embedding: decoding is bounded in memory by the number of decoders, and in
/// waiting callers by the queue.
pub(super) struct Eyes {
    limits: DecodeLimits,
    decoders: Gate,
    width: usize,
}

/// What was seen in a file.
pub(super) struct Seen {
    pub(super) embedding: Embedding,
    pub(super) quality: f32,
}

/// What several models saw in a file.
pub(super) struct SeenByAll {
    pub(super) embeddings: Vec<Result<Embedding, ServiceError>>,
    pub(super) quality: f32,
    /// The file itself, for retention.
    pub(super) file: Vec<u8>,
}

/// A file before the model sees it.
pub(super) struct Opened<T> {
    pub(super) kept: T,
    pub(super) quality: f32,
    /// `[3, height, width]`, as the model takes it.
    pub(super) pixels: Vec<f32>,
}

impl Eyes {
    pub(super) fn new(options: &ServiceOptions) -> Self {
        Self {
            limits: DecodeLimits {
                max_file_bytes: options.max_image_bytes,
                ..DecodeLimits::default()
            },
            decoders: Gate::new(options.decoders, options.decode_queue),
            // So many fill the decoders and the model's batches.
            width: options.decode_queue.min(options.queue).clamp(1, 32),
        }
    }

    /// Decodes, judges, preprocesses and embeds one image file.
    pub(super) async fn see(
        &self,
        live: &Serving,
        file: Vec<u8>,
        timings: &mut Timings,
    ) -> Result<Seen, ServiceError> {
        let started = Instant::now();
        let opened = self.open(live, file, drop).await?;
        timings.decode_us += micros(started);
        let started = Instant::now();
        let embedding = live.batcher.image(opened.pixels).await?;
        timings.embed_us += micros(started);
        Ok(Seen { embedding, quality: opened.quality })
    }

    /// The same for several models, of one decoding; what each of them says is in its place.
    pub(super) async fn see_with(
        &self,
        models: &[Arc<Serving>],
        file: Vec<u8>,
        timings: &mut Timings,
    ) -> Result<SeenByAll, ServiceError> {
        let started = Instant::now();
        let permit = self.decoders.enter().await?;
        let limits = self.limits;
        let all: Vec<Preprocessing> =
            models.iter().map(|model| model.batcher.embedder().preprocessing().clone()).collect();
        let (pixels, quality, file) = blocking(move || {
            let _permit = permit;
            let picture = decode(&file, &limits)?;
            let quality = gate(&picture, &QualityLimits::default())?.score;
            let pixels: Vec<Vec<f32>> = all.iter().map(|one| one.apply(&picture)).collect();
            Ok((pixels, quality, file))
        })
        .await?;
        timings.decode_us += micros(started);
        let started = Instant::now();
        let under_way =
            models.iter().zip(pixels).map(|(model, pixels)| model.batcher.image(pixels));
        let embedded = futures_util::future::join_all(under_way).await;
        timings.embed_us += micros(started);
        let embeddings = embedded.into_iter().map(|one| one.map_err(ServiceError::from)).collect();
        Ok(SeenByAll { embeddings, quality, file })
    }

    /// Decodes, judges and preprocesses one image file. `keep` says what is left of the picture when the decoder is
    /// free for the next one.
    pub(super) async fn open<T: Send + 'static>(
        &self,
        live: &Serving,
        file: Vec<u8>,
        keep: impl FnOnce(Picture) -> T + Send + 'static,
    ) -> Result<Opened<T>, ServiceError> {
        let permit = self.decoders.enter().await?;
        let (limits, preprocessing) =
            (self.limits, live.batcher.embedder().preprocessing().clone());
        blocking(move || {
            let _permit = permit;
            let picture = decode(&file, &limits)?;
            let quality = gate(&picture, &QualityLimits::default())?.score;
            let pixels = preprocessing.apply(&picture);
            Ok(Opened { kept: keep(picture), quality, pixels })
        })
        .await
    }

    /// Images that one caller may have under way without being told that the queue is full.
    pub(super) fn width(&self) -> usize {
        self.width
    }
}

pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
