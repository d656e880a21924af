use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::Caller;
use crate::domain::{Embedding, GalleryId, now_ms};
use crate::gallery::{Aggregate, SearchParams};
use crate::image::Picture;

use super::deployment::Seat;
use super::error::ServiceError;
use super::eyes::micros;
use super::views::{
    CandidateView, Combine, CompareAnswer, Decision, EmbeddingView, Identify, IdentifyAnswer,
    Readiness, Search, SearchAnswer, ThresholdView, Timings, Verify, VerifyAnswer,
};
use super::{Service, blocking, thresholds};

/// Most results of one question.
pub const MAX_RESULTS: usize = 1_000;
/// How long a test picture that went through the model stands for the next.
const READY_FOR: Duration = Duration::from_secs(1);

impl Service {
    /// A gallery and the model that it is asked with. Whoever may not reach the gallery is told so here too: not every
    /// operation names it in its path.
    pub(super) fn seat(&self, id: &GalleryId) -> Result<Seat, ServiceError> {
        if !Caller::current().may_reach(id.as_str()) {
            return Err(ServiceError::GalleryForbidden(id.to_string()));
        }
        self.0.workshop.deployments.seat(&self.0.galleries.get(id)?)
    }

    /// Who is it? Candidates among all enrolled subjects.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn identify(
        &self,
        id: &GalleryId,
        ask: Identify,
    ) -> Result<IdentifyAnswer, ServiceError> {
        let started = Instant::now();
        check_limit(ask.limit)?;
        ask.filter.validate()?;
        let given = check_threshold(ask.threshold)?;
        if let Combine::MeanOf(k) = ask.combine {
            check_count("mean_of", k)?;
        }
        let Seat { serving: live, view: gallery, .. } = self.seat(id)?;
        let enrolled = Arc::clone(gallery.gallery());
        let threshold = given.or_else(|| thresholds::identification(&gallery));
        let mut timings = Timings::default();
        let seen = self.0.eyes.see(&live, ask.image, &mut timings).await?;
        let searching = Instant::now();
        let params = SearchParams {
            limit: ask.limit,
            filter: ask.filter,
            aggregate: ask.combine.into(),
            exact: false,
        };
        let probe = seen.embedding;
        let found = blocking(move || Ok(gallery.search(&probe, &params)?)).await?;
        timings.search_us = micros(searching);
        timings.total_us = micros(started);
        let candidates: Vec<CandidateView> = found
            .into_iter()
            .enumerate()
            .map(|(i, candidate)| CandidateView {
                rank: i + 1,
                subject: candidate.subject,
                similarity: candidate.similarity.get(),
                best_sample: candidate.best.into(),
            })
            .collect();
        let best = candidates.first().map(|candidate| candidate.similarity);
        let decision = threshold.map(|threshold| thresholds::identified(best, threshold));
        if let (Some(Decision::Match), Some(first)) = (decision, candidates.first()) {
            enrolled.interacted(&first.subject, now_ms());
        }
        Ok(IdentifyAnswer {
            candidates,
            decision,
            threshold,
            quality: seen.quality,
            provenance: live.provenance(id),
            timings,
        })
    }

    /// Is it them? The probe against all samples of one subject.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn verify(&self, id: &GalleryId, ask: Verify) -> Result<VerifyAnswer, ServiceError> {
        let started = Instant::now();
        let given = check_threshold(ask.threshold)?;
        let Seat { serving: live, view: gallery, .. } = self.seat(id)?;
        // Before the image is decoded: an unknown subject costs nothing.
        let samples = gallery.gallery().samples_of(&ask.subject)?;
        let threshold = given.or_else(|| thresholds::verification(&gallery, samples));
        let enrolled = Arc::clone(gallery.gallery());
        let mut timings = Timings::default();
        let seen = self.0.eyes.see(&live, ask.image, &mut timings).await?;
        let searching = Instant::now();
        let (probe, subject) = (seen.embedding, ask.subject.clone());
        let samples = blocking(move || Ok(gallery.verify(&subject, &probe)?)).await?;
        timings.search_us = micros(searching);
        timings.total_us = micros(started);
        let Some(best) = samples.first() else {
            return Err(ServiceError::SubjectNotFound(ask.subject));
        };
        let similarity = best.similarity.get();
        let decision = threshold.map(|threshold| thresholds::verified(similarity, threshold));
        if decision == Some(Decision::Match) {
            enrolled.interacted(&ask.subject, now_ms());
        }
        Ok(VerifyAnswer {
            subject: ask.subject,
            similarity,
            decision,
            threshold,
            samples: samples.into_iter().map(Into::into).collect(),
            quality: seen.quality,
            provenance: live.provenance(id),
            timings,
        })
    }

    /// Which hands look like these words, this image, or both?
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn search(&self, id: &GalleryId, ask: Search) -> Result<SearchAnswer, ServiceError> {
        let started = Instant::now();
        check_limit(ask.limit)?;
        ask.filter.validate()?;
        if !(0.0..=1.0).contains(&ask.image_weight) {
            let problem = format!("is {}, 0 to 1 is taken", ask.image_weight);
            return Err(ServiceError::Invalid { field: "image_weight", problem });
        }
        let Seat { serving: live, view: gallery, .. } = self.seat(id)?;
        let mut timings = Timings::default();
        let image = match ask.image {
            Some(file) => Some(self.0.eyes.see(&live, file, &mut timings).await?.embedding),
            None => None,
        };
        let words = match ask.prompt {
            Some(prompt) => {
                let embedding = Instant::now();
                let words = live.embed_prompt(prompt).await?;
                timings.embed_us += micros(embedding);
                Some(words)
            }
            None => None,
        };
        let query = combine(words, image, ask.image_weight)?;
        let searching = Instant::now();
        let params = SearchParams {
            limit: ask.limit,
            filter: ask.filter,
            aggregate: Aggregate::Best,
            exact: false,
        };
        let hits = blocking(move || Ok(gallery.search_samples(&query, &params)?)).await?;
        timings.search_us = micros(searching);
        timings.total_us = micros(started);
        Ok(SearchAnswer {
            hits: hits.into_iter().map(Into::into).collect(),
            provenance: live.provenance(id),
            timings,
        })
    }

    /// How similar are two images?
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn compare(
        &self,
        a: Vec<u8>,
        b: Vec<u8>,
        threshold: Option<f32>,
    ) -> Result<CompareAnswer, ServiceError> {
        let started = Instant::now();
        let threshold = check_threshold(threshold)?;
        let live = Arc::clone(&self.deployment_now().live);
        let mut timings = Timings::default();
        let a = self.0.eyes.see(&live, a, &mut timings).await?;
        let b = self.0.eyes.see(&live, b, &mut timings).await?;
        timings.total_us = micros(started);
        let similarity = a.embedding.similarity(&b.embedding).map_or(-1.0, |s| s.get());
        Ok(CompareAnswer {
            similarity,
            decision: threshold.map(|threshold| thresholds::verified(similarity, threshold)),
            threshold,
            quality: [a.quality, b.quality],
            model: live.batcher.embedder().name().to_owned(),
            fingerprint: live.fingerprint(),
            timings,
        })
    }

    /// The embedding of an image.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn embed_image(&self, image: Vec<u8>) -> Result<EmbeddingView, ServiceError> {
        let live = Arc::clone(&self.deployment_now().live);
        let seen = self.0.eyes.see(&live, image, &mut Timings::default()).await?;
        Ok(view(&seen.embedding, live.fingerprint()))
    }

    /// The embedding of a prompt.
    ///
    /// # Errors
    /// [`ServiceError::Prompt`] for one that is empty or too long.
    pub async fn embed_text(&self, prompt: String) -> Result<EmbeddingView, ServiceError> {
        let live = Arc::clone(&self.deployment_now().live);
        Ok(view(&live.embed_prompt(prompt).await?, live.fingerprint()))
    }

    /// Runs a test picture through the model, if none went through it within the last second: a server that answers this can
    /// answer the rest.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot.
    pub async fn ready(&self) -> Result<Readiness, ServiceError> {
        let live = Arc::clone(&self.deployment_now().live);
        // One at a time, and one answer for all who ask within a second: anybody may ask, without a key.
        let mut last = self.0.readiness.lock().await;
        if let Some((at, readiness)) = &*last
            && at.elapsed() < READY_FOR
            && readiness.fingerprint == live.fingerprint()
        {
            return Ok(readiness.clone());
        }
        let started = Instant::now();
        let side = 64_u32;
        let rgb = (0..side * side * 3).map(|i| (i * 37 % 251) as u8).collect();
        let picture = Picture::from_rgb(side, side, rgb)?;
        let preprocessing = live.batcher.embedder().preprocessing().clone();
        let pixels = blocking(move || Ok(preprocessing.apply(&picture))).await?;
        live.batcher.image(pixels).await?;
        let readiness = Readiness {
            ready: true,
            model: live.batcher.embedder().name().to_owned(),
            fingerprint: live.fingerprint(),
            canary_us: micros(started),
        };
        *last = Some((Instant::now(), readiness.clone()));
        Ok(readiness)
    }
}

fn view(embedding: &Embedding, fingerprint: crate::domain::Fingerprint) -> EmbeddingView {
    EmbeddingView { dim: embedding.dim(), embedding: embedding.as_slice().to_vec(), fingerprint }
}

/// The direction between words and image, `image_weight` of the way from the one to the other.
fn combine(
    words: Option<Embedding>,
    image: Option<Embedding>,
    image_weight: f32,
) -> Result<Embedding, ServiceError> {
    match (words, image) {
        (Some(words), Some(image)) => {
            let mixed = words.as_slice().iter().zip(image.as_slice());
            let mixed = mixed.map(|(w, i)| w * (1.0 - image_weight) + i * image_weight).collect();
            Embedding::from_raw(mixed).map_err(|error| ServiceError::Prompt(error.to_string()))
        }
        (Some(query), None) | (None, Some(query)) => Ok(query),
        (None, None) => Err(ServiceError::Invalid {
            field: "prompt",
            problem: "or `image` is needed, or both".to_owned(),
        }),
    }
}

pub(super) fn check_limit(limit: usize) -> Result<(), ServiceError> {
    check_count("limit", limit)
}

fn check_count(field: &'static str, count: usize) -> Result<(), ServiceError> {
    if (1..=MAX_RESULTS).contains(&count) {
        return Ok(());
    }
    Err(ServiceError::Invalid {
        field,
        problem: format!("is {count}, 1 to {MAX_RESULTS} is taken"),
    })
}

fn check_threshold(threshold: Option<f32>) -> Result<Option<ThresholdView>, ServiceError> {
    match threshold {
        None => Ok(None),
        Some(similarity) if (-1.0..=1.0).contains(&similarity) => {
            Ok(Some(ThresholdView { similarity, source: "request", target: None }))
        }
        Some(similarity) => Err(ServiceError::Invalid {
            field: "threshold",
            problem: format!("is {similarity}, -1 to 1 is taken"),
        }),
    }
}
