use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::access::Caller;
use crate::domain::{GalleryId, Scope, SubjectId};
use crate::gallery::{MAX_BATCH, NewSample, Template, TemplateSpace};

use super::audit::{Deed, Outcome};
use super::deployment::Seat;
use super::doubt::Doubt;
use super::error::ServiceError;
use super::eyes::micros;
use super::galleries::check_consent;
use super::keys::require;
use super::views::{EnrolledView, Enrolment, Timings};
use super::{Service, blocking};

/// An enrolment before it is stored.
enum Prepared {
    /// Its image was seen.
    New(Box<New>),
    /// The same file is enrolled for the same subject.
    Known(EnrolledView),
}

/// What to store, and what it took.
struct New {
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
        let seat = self.seat(id)?;
        let new = match self.prepare(&seat, new).await? {
            Prepared::New(new) => vec![*new],
            Prepared::Known(view) => return Ok(view),
        };
        let deed = People::of(&new).deed(id);
        self.audited(deed, async {
            let mut answers = store(&seat, new).await?;
            let lost = || Err(ServiceError::Internal("nothing was enrolled".to_owned()));
            answers.pop().unwrap_or_else(lost)
        })
        .await
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
        let seat = self.seat(id)?;
        let mut answers: Vec<Option<Result<EnrolledView, ServiceError>>> = Vec::new();
        let mut ready = Vec::new();
        let under_way = new.into_iter().map(|item| self.prepare(&seat, item));
        let mut prepared = futures_util::stream::iter(under_way).buffered(self.0.eyes.width());
        while let Some(prepared) = prepared.next().await {
            match prepared {
                Ok(Prepared::New(new)) => {
                    answers.push(None);
                    ready.push(*new);
                }
                Ok(Prepared::Known(view)) => answers.push(Some(Ok(view))),
                Err(error) => answers.push(Some(Err(error))),
            }
        }
        drop(prepared);
        let mut stored = if ready.is_empty() {
            Vec::new().into_iter()
        } else {
            let people = People::of(&ready);
            let deed = people.deed(id);
            let outcomes = |answers: &Vec<Result<_, _>>| people.outcomes(answers);
            self.audited_each(deed, store(&seat, ready), outcomes).await?.into_iter()
        };
        Ok(answers
            .into_iter()
            .map(|answer| {
                answer.or_else(|| stored.next()).unwrap_or_else(|| {
                    Err(ServiceError::Internal("an item got no answer".to_owned()))
                })
            })
            .collect())
    }

    async fn prepare(&self, seat: &Seat, new: Enrolment) -> Result<Prepared, ServiceError> {
        let (live, gallery) = (&seat.serving, seat.gallery());
        let started = Instant::now();
        new.attributes.validate()?;
        if new.allow_match {
            require(&Caller::current(), &[Scope::Admin])?;
        }
        if let Some(consent) = &new.consent {
            check_consent(gallery, &new.subject, consent)?;
        }
        let mut timings = Timings::default();
        let file = new.image;
        let (file, content_hash) = blocking(move || {
            let content_hash: [u8; 32] = Sha256::digest(&file).into();
            Ok((file, content_hash))
        })
        .await?;
        // Before anything is decoded, so that an enrolment that was cut off is soon where it was.
        let known = gallery.has_content(&new.subject, &content_hash);
        if let Some(record) = known.and_then(|name| gallery.sample(&new.subject, &name).ok()) {
            // What they agree to now counts, whether or not the image is news.
            if let Some(consent) = new.consent {
                self.set_consent(gallery.id(), &record.subject, consent).await?;
            }
            timings.total_us = micros(started);
            return Ok(Prepared::Known(EnrolledView {
                gallery: gallery.id().clone(),
                subject: record.subject,
                sample: record.sample,
                created: false,
                quality: record.quality,
                flags: record.flags,
                generation: live.generation,
                fingerprint: live.fingerprint(),
                timings,
            }));
        }
        let models = seat.deployment.writers(gallery);
        let models = models.ok_or_else(|| ServiceError::ModelMismatch {
            gallery: gallery.info().fingerprint.to_string(),
            serving: live.fingerprint().to_string(),
        })?;
        let seen = self.0.eyes.see_with(&models, file, &mut timings).await?;
        let home = models.iter().position(|model| model.space() == live.space());
        // Without thresholds nothing can be doubted.
        let home = home.filter(|_| seat.view.calibration().is_some());
        let probe = home.and_then(|at| seen.embeddings.get(at)?.as_ref().ok()).cloned();
        let mut templates = Vec::with_capacity(models.len());
        for (model, embedding) in models.iter().zip(seen.embeddings) {
            let TemplateSpace { generation, fingerprint, .. } = model.space();
            match embedding {
                Ok(embedding) => templates.push(Template { generation, fingerprint, embedding }),
                // The deployment finds out: nobody who enrols has to suffer from a model that does not serve.
                Err(error) if seat.deployment.is_filling(model) => {
                    tracing::warn!(%error, "the model that is being brought has nothing to say of an image");
                }
                Err(error) => return Err(error),
            }
        }
        let flags = match probe {
            Some(probe) => {
                let asked = Doubt {
                    subject: new.subject.clone(),
                    attributes: new.attributes.clone(),
                    allow_match: new.allow_match,
                    may_read: Caller::current().has_any(&[Scope::Identify, Scope::Read]),
                };
                let view = seat.view.clone();
                blocking(move || asked.flags(&view, &probe)).await?
            }
            None => Vec::new(),
        };
        let sample = NewSample {
            subject: new.subject,
            sample: new.sample,
            attributes: new.attributes,
            quality: seen.quality,
            templates,
            content_hash,
            image: gallery.info().retain_images.then_some(seen.file),
            consent: new.consent,
            flags,
        };
        Ok(Prepared::New(Box::new(New { sample, timings, started })))
    }
}

/// Whose images are enrolled, in the order in which they come first, and which: by their places.
struct People(Vec<(SubjectId, Vec<usize>)>);

impl People {
    fn of(new: &[New]) -> Self {
        let mut people: Vec<(SubjectId, Vec<usize>)> = Vec::new();
        let mut places = HashMap::new();
        for (at, New { sample, .. }) in new.iter().enumerate() {
            let place = *places.entry(sample.subject.clone()).or_insert(people.len());
            if place == people.len() {
                people.push((sample.subject.clone(), Vec::new()));
            }
            people[place].1.push(at);
        }
        Self(people)
    }

    fn deed(&self, id: &GalleryId) -> Deed {
        self.0.iter().fold(Deed::new("enrol").gallery(id), |deed, (subject, images)| {
            deed.subject_about(subject, format!("{} images", images.len()))
        })
    }

    fn outcomes<T, E>(&self, answers: &[Result<T, E>]) -> Vec<Outcome> {
        let of = |(_, images): &(SubjectId, Vec<usize>)| {
            let all = images.len();
            let done =
                images.iter().filter(|at| answers.get(**at).is_some_and(Result::is_ok)).count();
            let about = (0 < done && done < all).then(|| format!("{done} of {all} images"));
            Outcome { done: done > 0, about }
        };
        self.0.iter().map(of).collect()
    }
}

async fn store(
    seat: &Seat,
    new: Vec<New>,
) -> Result<Vec<Result<EnrolledView, ServiceError>>, ServiceError> {
    let (live, gallery) = (&seat.serving, Arc::clone(seat.gallery()));
    let id = gallery.id().clone();
    let writing = Instant::now();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let mut about = Vec::with_capacity(new.len());
    let mut samples = Vec::with_capacity(new.len());
    for item in new {
        about.push((item.sample.quality, item.sample.flags.clone(), item.timings, item.started));
        samples.push(item.sample);
    }
    let results = blocking(move || Ok(gallery.enrol_batch(samples))).await?;
    let answer =
        results.into_iter().zip(about).map(|(result, (quality, flags, mut timings, started))| {
            let enrolled = result?;
            timings.search_us = micros(writing);
            timings.total_us = micros(started);
            Ok(EnrolledView {
                gallery: id.clone(),
                subject: enrolled.subject,
                sample: enrolled.sample,
                created: enrolled.created,
                quality,
                flags,
                generation: live.generation,
                fingerprint: live.fingerprint(),
                timings,
            })
        });
    Ok(answer.collect())
}
