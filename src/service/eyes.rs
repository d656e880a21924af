use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use crate::domain::Embedding;
use crate::image::{DecodeLimits, ImageError, Picture, Preprocessing, QualityLimits, decode, gate};

use super::blocking;
use super::deployment::Serving;
use super::error::ServiceError;
use super::gate::Gate;
use super::options::ServiceOptions;
use super::views::Timings;

/// What a decoder may hold, in bytes. A picture that takes more takes the places of so many decoders.
const DECODER_BYTES: u64 = 64 << 20;

/// From a file to an embedding: decoding is bounded in memory by the number of decoders, and in
/// waiting callers by the queue.
pub(super) struct Eyes {
    limits: DecodeLimits,
    decoders: Gate,
    places: u32,
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
            places: u32::try_from(options.decoders).unwrap_or(u32::MAX).max(1),
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
        let all: Vec<Preprocessing> =
            models.iter().map(|model| model.batcher.embedder().preprocessing().clone()).collect();
        let (pixels, quality, file) = self
            .decode(file, move |picture, file| {
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
        let preprocessing = live.batcher.embedder().preprocessing().clone();
        self.decode(file, move |picture, _| {
            let quality = gate(&picture, &QualityLimits::default())?.score;
            let pixels = preprocessing.apply(&picture);
            Ok(Opened { kept: keep(picture), quality, pixels })
        })
        .await
    }

    /// Decodes a file and does something with the picture, in the place of one decoder, or of as many as it takes memory for.
    async fn decode<T: Send + 'static>(
        &self,
        file: Vec<u8>,
        work: impl FnOnce(Picture, Vec<u8>) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let limits = DecodeLimits { max_working_bytes: DECODER_BYTES, ..self.limits };
        let permit = self.decoders.enter().await?;
        let (file, work, takes) =
            match blocking(move || attempt(file, limits, permit, work)).await? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Takes { file, work, bytes } => (file, work, bytes),
            };
        // With nothing held while it waits, so that no two wait for each other. What takes more than all of them is told so.
        let places =
            u32::try_from(takes.div_ceil(DECODER_BYTES)).unwrap_or(u32::MAX).min(self.places);
        let limits =
            DecodeLimits { max_working_bytes: DECODER_BYTES * u64::from(places), ..self.limits };
        let permit = self.decoders.enter_as(places).await?;
        blocking(move || {
            let _permit = permit;
            work(decode(&file, &limits)?, file)
        })
        .await
    }

    /// Images that one caller may have under way without being told that the queue is full.
    pub(super) fn width(&self) -> usize {
        self.width
    }
}

enum Attempt<T, W> {
    Done(T),
    /// More memory than was allowed.
    Takes {
        file: Vec<u8>,
        work: W,
        bytes: u64,
    },
}

fn attempt<T, W: FnOnce(Picture, Vec<u8>) -> Result<T, ServiceError>>(
    file: Vec<u8>,
    limits: DecodeLimits,
    permit: OwnedSemaphorePermit,
    work: W,
) -> Result<Attempt<T, W>, ServiceError> {
    let _permit = permit;
    match decode(&file, &limits) {
        Ok(picture) => work(picture, file).map(Attempt::Done),
        Err(ImageError::WorkingMemory { bytes, .. }) => Ok(Attempt::Takes { file, work, bytes }),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
