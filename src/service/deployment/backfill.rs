//! Templates of the new model for what is enrolled already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::domain::Embedding;
use crate::gallery::{Gallery, GalleryError, Gap, TemplateSpace};
use crate::image::{DecodeLimits, decode};
use crate::jobs::{JobContext, JobFailure};
use crate::model::Embedder;
use crate::storage::{Failpoint, StorageError};

/// Images in memory at a time.
const BATCH: usize = 16;

/// One pass over what lacks a template.
pub(super) struct Backfill<'a> {
    pub(super) context: &'a JobContext<'a>,
    pub(super) embedder: &'a Embedder,
    pub(super) to: TemplateSpace,
    pub(super) limits: DecodeLimits,
    pub(super) images_per_second: Option<f64>,
    pub(super) failpoint: &'a Failpoint,
}

/// How far a backfill is, over all galleries and passes.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) total: u64,
    /// Samples that have no image to make a template from.
    pub(super) without_image: u64,
}

impl Backfill<'_> {
    /// Makes a template for every gap of these galleries that has an image.
    pub(super) fn pass(
        &self,
        galleries: &[Arc<Gallery>],
        tally: &mut Tally,
    ) -> Result<(), JobFailure> {
        let gaps: Vec<(&Arc<Gallery>, Vec<Gap>)> =
            galleries.iter().map(|gallery| (gallery, gallery.gaps())).collect();
        let waiting: usize = gaps.iter().map(|(_, gaps)| gaps.len()).sum();
        tally.total = tally.done + waiting as u64;
        tally.without_image = 0;
        for (gallery, gaps) in gaps {
            for part in gaps.chunks(BATCH) {
                if self.context.cancelled() {
                    return Err(JobFailure::interrupted());
                }
                let begun = Instant::now();
                let before = tally.without_image;
                self.part(gallery, part, tally)?;
                self.failpoint.reach("deploy.backfilling");
                tally.done += part.len() as u64 - (tally.without_image - before);
                self.context.progress(tally.done + tally.without_image, tally.total);
                if let Some(rate) = self.images_per_second {
                    self.rest(Duration::from_secs_f64(part.len() as f64 / rate), begun);
                }
            }
        }
        Ok(())
    }

    /// Waits until so long after `begun`, or until the job is to end.
    fn rest(&self, pace: Duration, begun: Instant) {
        while begun.elapsed() < pace && !self.context.cancelled() {
            std::thread::sleep(Duration::from_millis(20).min(pace.saturating_sub(begun.elapsed())));
        }
    }

    fn part(
        &self,
        gallery: &Arc<Gallery>,
        gaps: &[Gap],
        tally: &mut Tally,
    ) -> Result<(), JobFailure> {
        let opened: Vec<Result<Option<Seen>, JobFailure>> =
            gaps.par_iter().map(|gap| self.open(gallery, gap)).collect();
        let (mut seen, mut pixels) = (Vec::new(), Vec::new());
        for opened in opened {
            match opened? {
                Some(Seen::Picture(gap, values)) => {
                    seen.push(gap);
                    pixels.push(values);
                }
                Some(Seen::NoImage) => tally.without_image += 1,
                None => {}
            }
        }
        if pixels.is_empty() {
            return Ok(());
        }
        let embedded = self.embedder.embed_pixels(&pixels).map_err(|e| failed("model", e))?;
        let templates: Result<Vec<Embedding>, JobFailure> =
            embedded.into_iter().map(|e| e.map_err(|e| failed("model", e))).collect();
        let made = seen.into_iter().zip(templates?).collect();
        match gallery.fill(self.to, made) {
            Ok(_) => Ok(()),
            // Deleted while the images were embedded.
            Err(GalleryError::GalleryNotFound(_)) => Ok(()),
            Err(error) => Err(gallery_failure(error)),
        }
    }

    /// `None` for a sample that is gone.
    fn open(&self, gallery: &Gallery, gap: &Gap) -> Result<Option<Seen>, JobFailure> {
        let image = match gallery.image(gap.subject(), gap.sample()) {
            Ok(Some(image)) => image,
            Ok(None) => return Ok(Some(Seen::NoImage)),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(gallery_failure(error)),
        };
        // The quality gate let it in when it was enrolled.
        let picture = decode(&image, &self.limits).map_err(|error| {
            let about =
                format!("an image of gallery `{}` cannot be decoded: {error}", gallery.id());
            JobFailure::new("image", about)
        })?;
        Ok(Some(Seen::Picture(gap.clone(), self.embedder.preprocessing().apply(&picture))))
    }
}

enum Seen {
    Picture(Gap, Vec<f32>),
    NoImage,
}

fn is_gone(error: &GalleryError) -> bool {
    matches!(
        error,
        GalleryError::SubjectNotFound(_)
            | GalleryError::SampleNotFound { .. }
            | GalleryError::Erasing(_)
            | GalleryError::GalleryNotFound(_)
            | GalleryError::Storage(StorageError::KeyDestroyed)
    )
}

pub(super) fn failed(code: &str, error: impl std::error::Error) -> JobFailure {
    JobFailure::new(code, crate::service::error::chain(&error))
}

pub(super) fn gallery_failure(error: GalleryError) -> JobFailure {
    let code = if matches!(&error, GalleryError::Storage(StorageError::Full { .. })) {
        "storage_full"
    } else if matches!(&error, GalleryError::Storage(_)) {
        "storage"
    } else if matches!(&error, GalleryError::Gaps { .. }) {
        "gaps"
    } else {
        "gallery"
    };
    // Where the store lies is nobody's business.
    if let GalleryError::Storage(StorageError::Full { available, needed, .. }) = &error {
        let about = format!("the disk is full: {available} bytes are free and {needed} are needed");
        return JobFailure::new(code, about);
    }
    failed(code, error)
}
