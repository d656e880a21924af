use std::time::Instant;

use crate::domain::GalleryId;
use crate::gallery::{Gallery, MAX_BATCH, NewSample};

use super::deployment::Deployment;
use super::error::ServiceError;
use super::eyes::micros;
use super::views::{EnrolledView, Enrolment, Timings};
use super::{Service, blocking};

/// An enrolment whose image was seen: what to store, with its quality and what it took.
struct Prepared {
    sample: NewSample,
    timings: Timings,
    started: Instant,
}

impl Service {
    /// Enrols one image. Durable, and found by the next search, when it returns. The same file for the
    /// same subject is enrolled once, however often it is sent.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing is enrolled then.
    pub async fn enrol(
        &self,
        id: &GalleryId,
        new: Enrolment,
    ) -> Result<EnrolledView, ServiceError> {
        let live = self.0.live.load_full();
        let gallery = self.0.galleries.get(id)?;
        live.check(&gallery)?;
        let prepared = self.prepare(&live, &gallery, new).await?;
        let mut answers = store(&live, id, gallery, vec![prepared]).await?;
        answers
            .pop()
            .unwrap_or_else(|| Err(ServiceError::Internal("nothing was enrolled".to_owned())))
    }

    /// Enrols many images, each by itself: one that fails does not keep the others out. Writes of one
    /// call are acknowledged together.
    ///
    /// # Errors
    /// [`ServiceError`] when none could be tried.
    pub async fn enrol_batch(
        &self,
        id: &GalleryId,
        new: Vec<Enrolment>,
    ) -> Result<Vec<Result<EnrolledView, ServiceError>>, ServiceError> {
        if new.is_empty() || new.len() > MAX_BATCH {
            let problem = format!("holds {}, 1 to {MAX_BATCH} are taken", new.len());
            return Err(ServiceError::Invalid { field: "samples", problem });
        }
        let live = self.0.live.load_full();
        let gallery = self.0.galleries.get(id)?;
        live.check(&gallery)?;
        let mut answers: Vec<Option<Result<EnrolledView, ServiceError>>> = Vec::new();
        let mut ready = Vec::new();
        // So many at a time fill the decoders and the model's batches, and no queue.
        for chunk in chunks(new, 32) {
            let seen = futures_util::future::join_all(
                chunk.into_iter().map(|item| self.prepare(&live, &gallery, item)),
            );
            for prepared in seen.await {
                match prepared {
                    Ok(prepared) => {
                        answers.push(None);
                        ready.push(prepared);
                    }
                    Err(error) => answers.push(Some(Err(error))),
                }
            }
        }
        let mut stored = store(&live, id, gallery, ready).await?.into_iter();
        Ok(answers
            .into_iter()
            .map(|answer| {
                answer.or_else(|| stored.next()).unwrap_or_else(|| {
                    Err(ServiceError::Internal("an item got no answer".to_owned()))
                })
            })
            .collect())
    }

    async fn prepare(
        &self,
        live: &Deployment,
        gallery: &Gallery,
        new: Enrolment,
    ) -> Result<Prepared, ServiceError> {
        let started = Instant::now();
        new.attributes.validate()?;
        let mut timings = Timings::default();
        let seen = self.0.eyes.see(live, new.image, &mut timings).await?;
        let sample = NewSample {
            subject: new.subject,
            sample: new.sample,
            attributes: new.attributes,
            quality: seen.quality,
            embedding: seen.embedding,
            generation: live.generation,
            fingerprint: live.fingerprint(),
            content_hash: seen.content_hash,
            image: gallery.info().retain_images.then_some(seen.file),
        };
        Ok(Prepared { sample, timings, started })
    }
}

async fn store(
    live: &Deployment,
    id: &GalleryId,
    gallery: std::sync::Arc<Gallery>,
    prepared: Vec<Prepared>,
) -> Result<Vec<Result<EnrolledView, ServiceError>>, ServiceError> {
    let writing = Instant::now();
    let mut about = Vec::with_capacity(prepared.len());
    let mut samples = Vec::with_capacity(prepared.len());
    for item in prepared {
        about.push((item.sample.quality, item.timings, item.started));
        samples.push(item.sample);
    }
    let results = blocking(move || Ok(gallery.enrol_batch(samples))).await?;
    let answer = results.into_iter().zip(about).map(|(result, (quality, mut timings, started))| {
        let enrolled = result?;
        timings.search_us = micros(writing);
        timings.total_us = micros(started);
        Ok(EnrolledView {
            gallery: id.clone(),
            subject: enrolled.subject,
            sample: enrolled.sample,
            created: enrolled.created,
            quality,
            generation: live.generation,
            fingerprint: live.fingerprint(),
            timings,
        })
    });
    Ok(answer.collect())
}

fn chunks<T>(items: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(size).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}
