use std::path::PathBuf;
use std::sync::Arc;

use crate::dataset::LabelledImage;
use crate::domain::{GalleryId, SampleId, SubjectId};
use crate::gallery::{Gallery, GalleryError};
use crate::service::{Service, ServiceError};
use crate::training::fine_tune::ReadPicture;

use super::FineTuneError;

/// Subjects of a page, while a gallery is listed.
const PAGE: usize = 1000;

/// The images that a gallery retained, to train on. They are opened one by one as training asks for them, and
/// never written anywhere.
#[derive(Clone)]
pub struct GalleryImages {
    gallery: Arc<Gallery>,
    samples: Vec<(LabelledImage, SampleId)>,
}

impl Service {
    /// The images that a gallery retained, with their subjects and attributes.
    ///
    /// # Errors
    /// [`ServiceError`] for a gallery that is not there.
    pub fn training_data(&self, gallery: &GalleryId) -> Result<GalleryImages, ServiceError> {
        gallery_images(&self.0.galleries.get(gallery)?)
    }
}

pub(in crate::service) fn gallery_images(
    gallery: &Arc<Gallery>,
) -> Result<GalleryImages, ServiceError> {
    let mut samples = Vec::new();
    let mut after = None;
    loop {
        let page = gallery.subjects(after.as_ref(), PAGE)?;
        for subject in &page {
            samples.extend(samples_of(gallery, &subject.subject)?);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.subject.clone()),
            _ => break,
        }
    }
    Ok(GalleryImages { gallery: Arc::clone(gallery), samples })
}

/// The images of a subject; none of whoever was erased while the gallery is listed.
fn samples_of(
    gallery: &Gallery,
    subject: &SubjectId,
) -> Result<Vec<(LabelledImage, SampleId)>, GalleryError> {
    let samples = match gallery.subject(subject) {
        Ok(found) => found.samples,
        Err(GalleryError::SubjectNotFound(_) | GalleryError::Erasing(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let with_image = samples.into_iter().filter(|sample| sample.has_image).map(|sample| {
        let image = LabelledImage {
            path: PathBuf::from(format!("{}/{}", sample.subject, sample.sample)),
            subject: sample.subject,
            attributes: sample.attributes,
        };
        (image, sample.sample)
    });
    Ok(with_image.collect())
}

impl GalleryImages {
    /// The gallery.
    #[must_use]
    pub fn id(&self) -> &GalleryId {
        self.gallery.id()
    }

    pub(super) fn images(&self) -> Result<Vec<LabelledImage>, FineTuneError> {
        if self.samples.is_empty() {
            return Err(FineTuneError::NoImages(self.gallery.id().clone()));
        }
        Ok(self.samples.iter().map(|(image, _)| image.clone()).collect())
    }

    pub(super) fn reader(&self) -> Box<ReadPicture<'_>> {
        Box::new(|index| {
            let (image, sample) = &self.samples[index];
            let found = self.gallery.image(&image.subject, sample).map_err(|e| e.to_string())?;
            found.ok_or_else(|| "its image was not kept".to_owned())
        })
    }
}
