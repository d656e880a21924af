use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::access::Caller;
use crate::domain::{
    Calibration, Consent, DAY_MS, GalleryId, GalleryPolicy, SampleId, Scope, SubjectId, now_ms,
};
use crate::gallery::{Gallery, GallerySpec};

use super::Service;
use super::audit::Deed;
use super::error::ServiceError;
use super::keys::require;
use super::recognition::check_limit;
use super::views::{
    ErasureCheckView, ErasureView, GalleryView, NewGallery, SampleView, SubjectPage,
    SubjectSummaryView, SubjectView,
};

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Most entries.
    pub limit: usize,
    /// What the page before gave.
    pub token: Option<String>,
}

impl PageRequest {
    fn after(&self) -> Result<Option<SubjectId>, ServiceError> {
        let refuse = || ServiceError::Invalid {
            field: "page_token",
            problem: "is not one that a page gave".to_owned(),
        };
        let Some(token) = &self.token else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refuse())?;
        let text = String::from_utf8(bytes).map_err(|_| refuse())?;
        SubjectId::new(text).map(Some).map_err(|_| refuse())
    }
}

impl Service {
    /// Makes a gallery in the space of the model that serves.
    ///
    /// # Errors
    /// [`ServiceError::GalleryExists`].
    pub async fn create_gallery(&self, new: NewGallery) -> Result<GalleryView, ServiceError> {
        let service = self.clone();
        let deed = Deed::new("gallery.create").gallery(&new.id);
        self.change(deed, move || {
            let created = service.0.galleries.create_with(|| {
                let (home, beside) = service.deployment_now().spaces();
                GallerySpec {
                    id: new.id,
                    dim: home.dim,
                    generation: home.generation,
                    fingerprint: home.fingerprint,
                    beside,
                    retain_images: new.retain_images,
                    allow_training: new.allow_training,
                    description: new.description,
                    policy: new.policy,
                }
            });
            Ok(created?.info().into())
        })
        .await
    }

    /// All galleries, by name.
    #[must_use]
    pub fn galleries(&self) -> Vec<GalleryView> {
        self.0.galleries.list().iter().map(|gallery| gallery.info().into()).collect()
    }

    /// One gallery.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub fn gallery(&self, id: &GalleryId) -> Result<GalleryView, ServiceError> {
        Ok(self.0.galleries.get(id)?.info().into())
    }

    /// The thresholds that a gallery decides with.
    ///
    /// # Errors
    /// [`ServiceError::NotCalibrated`].
    pub fn calibration(&self, id: &GalleryId) -> Result<Arc<Calibration>, ServiceError> {
        let found = self.0.galleries.get(id)?.calibration();
        found.ok_or_else(|| ServiceError::NotCalibrated(id.clone()))
    }

    /// Has a gallery decide with these thresholds, or with none. Durable when it returns.
    ///
    /// # Errors
    /// [`ServiceError::ModelMismatch`] for thresholds of another model.
    pub async fn set_calibration(
        &self,
        id: &GalleryId,
        calibration: Option<Calibration>,
    ) -> Result<(), ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        let deed = Deed::new("gallery.calibrate").gallery(id);
        self.change(deed, move || Ok(gallery.set_calibration(calibration)?)).await
    }

    /// Deletes a gallery with everyone in it.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub async fn delete_gallery(&self, id: &GalleryId) -> Result<(), ServiceError> {
        let (galleries, id) = (self.0.galleries.clone(), id.clone());
        let gallery = galleries.get(&id)?;
        let deed = Deed::erasing("gallery.delete").gallery(&id);
        let workshop = Arc::clone(&self.0.workshop);
        self.change(deed, move || {
            workshop.forget_everybody(&gallery)?;
            Ok(galleries.delete(&id)?)
        })
        .await
    }

    /// A page of a gallery's subjects, by id.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a limit out of bounds or a token that is none.
    pub fn subjects(
        &self,
        id: &GalleryId,
        page: &PageRequest,
    ) -> Result<SubjectPage, ServiceError> {
        check_limit(page.limit)?;
        let gallery = self.0.galleries.get(id)?;
        // One more than asked for tells whether there is a next page.
        let mut found = gallery.subjects(page.after()?.as_ref(), page.limit + 1)?;
        let more = found.len() > page.limit;
        found.truncate(page.limit);
        let next_page_token =
            found.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(last.subject.as_str()));
        let subjects = found
            .into_iter()
            .map(|s| SubjectSummaryView { subject: s.subject, samples: s.samples })
            .collect();
        Ok(SubjectPage { subjects, next_page_token })
    }

    /// A subject with their samples.
    ///
    /// # Errors
    /// [`ServiceError::SubjectNotFound`].
    pub fn subject(
        &self,
        id: &GalleryId,
        subject: &SubjectId,
    ) -> Result<SubjectView, ServiceError> {
        let record = self.0.galleries.get(id)?.subject(subject)?;
        let samples = record.samples.into_iter().map(SampleView::from).collect();
        Ok(SubjectView {
            gallery: id.clone(),
            subject: record.subject,
            samples,
            consent: record.consent,
            last_interaction_ms: record.last_interaction_ms,
        })
    }

    /// One sample.
    ///
    /// # Errors
    /// [`ServiceError::SampleNotFound`].
    pub fn sample(
        &self,
        id: &GalleryId,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<SampleView, ServiceError> {
        Ok(self.0.galleries.get(id)?.sample(subject, sample)?.into())
    }

    /// Removes one sample. Durable when it returns.
    ///
    /// # Errors
    /// [`ServiceError::SampleNotFound`].
    pub async fn remove_sample(
        &self,
        id: &GalleryId,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<(), ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        let deed = Deed::erasing("sample.remove").gallery(id).subject(subject);
        let (subject, sample) = (subject.clone(), sample.clone());
        let workshop = Arc::clone(&self.0.workshop);
        self.change(deed, move || {
            workshop.forget(&gallery, &subject, Some(&sample))?;
            Ok(gallery.remove_sample(&subject, &sample)?)
        })
        .await
    }

    /// Erases a subject: their data key is destroyed, then everything under it. Durable when it returns.
    ///
    /// # Errors
    /// [`ServiceError::SubjectNotFound`].
    pub async fn erase_subject(
        &self,
        id: &GalleryId,
        subject: &SubjectId,
    ) -> Result<ErasureView, ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        let deed = Deed::erasing("subject.erase").gallery(id).subject(subject);
        let subject = subject.clone();
        let workshop = Arc::clone(&self.0.workshop);
        self.change(deed, move || {
            workshop.forget(&gallery, &subject, None)?;
            Ok(gallery.erase_subject(&subject)?.into())
        })
        .await
    }

    /// Whether a receipt of an erasure was issued by this store, unaltered, and the subject is not enrolled again.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub fn verify_erasure(&self, receipt: ErasureView) -> Result<ErasureCheckView, ServiceError> {
        let gallery = self.0.galleries.get(&receipt.gallery)?;
        let enrolled = gallery.samples_of(&receipt.subject).is_ok();
        Ok(ErasureCheckView { genuine: gallery.is_genuine(&receipt.into()), enrolled })
    }

    /// Writes down what a subject agreed to. Durable when it returns.
    ///
    /// # Errors
    /// [`ServiceError::SubjectNotFound`], [`ServiceError::ScopeMissing`] where it ends sooner than it did, [`ServiceError::Invalid`] for a consent that is none or has ended.
    pub async fn set_consent(
        &self,
        id: &GalleryId,
        subject: &SubjectId,
        consent: Consent,
    ) -> Result<SubjectView, ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        check_consent(&gallery, subject, &consent)?;
        let deed = Deed::new("subject.consent").gallery(id).subject(subject);
        let of = subject.clone();
        self.change(deed, move || Ok(gallery.set_consent(&of, consent)?)).await?;
        self.subject(id, subject)
    }

    /// Changes who may be in a gallery, and for how long. Durable when it returns.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub async fn set_policy(
        &self,
        id: &GalleryId,
        policy: GalleryPolicy,
    ) -> Result<GalleryView, ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        let deed = Deed::new("gallery.policy").gallery(id);
        self.change(deed, move || Ok(gallery.set_policy(policy)?)).await?;
        self.gallery(id)
    }
}

/// With its consent somebody ends: whoever may not erase them may not have it end sooner than it would, nor, where there was
/// none, within a day.
pub(super) fn check_consent(
    gallery: &Gallery,
    subject: &SubjectId,
    consent: &Consent,
) -> Result<(), ServiceError> {
    let Ok(known) = gallery.consent(subject) else { return Ok(()) };
    let ends = known.map_or(now_ms().saturating_add(DAY_MS), |known| known.expires_at_ms);
    if consent.expires_at_ms < ends {
        require(&Caller::current(), &[Scope::Erase])?;
    }
    Ok(())
}
