use crate::domain::GalleryId;

use super::error::ServiceError;
use super::views::{AuditView, GalleryView};
use super::{Service, blocking};

impl Service {
    /// Looks for every sample with its own template; a sound index finds all.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub async fn audit_gallery(&self, id: &GalleryId) -> Result<AuditView, ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        blocking(move || {
            let audit = gallery.audit()?;
            Ok(AuditView { samples: audit.samples, found: audit.found, missed: audit.missed })
        })
        .await
    }

    /// Merges recent enrolments into the index's frozen segment and writes its snapshot.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`].
    pub async fn compact_gallery(&self, id: &GalleryId) -> Result<GalleryView, ServiceError> {
        let gallery = self.0.galleries.get(id)?;
        blocking(move || {
            gallery.compact()?;
            Ok(gallery.info().into())
        })
        .await
    }
}
