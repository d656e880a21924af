//! Erases whose time is over.

use crate::domain::SubjectId;
use crate::gallery::Gallery;

use super::Service;
use super::audit::{AuditLog, Deed};
use super::error::ServiceError;
use super::workshop::Workshop;

/// Most people that one look erases in a gallery: the rest is due at the next.
const AT_ONCE: usize = 1_000;

/// Writes down who was seen, and erases whose consent has ended or who was not seen for as long as their gallery keeps people. Says how
/// many were erased; what fails for one keeps no other from being erased, and is told at the end.
pub(super) fn sweep(
    workshop: &Workshop,
    audit: &AuditLog,
    now_ms: u64,
) -> Result<usize, ServiceError> {
    let (mut erased, mut failed) = (0, None);
    for gallery in workshop.galleries.list() {
        if let Err(error) = gallery.save_interactions() {
            // A full disk is no reason to keep people.
            tracing::warn!(%error, gallery = %gallery.id(), "who was seen is not written down; trying again");
        }
        for (subject, _) in gallery.overdue(now_ms).into_iter().take(AT_ONCE) {
            match erase(workshop, audit, &gallery, &subject, now_ms) {
                Ok(gone) => erased += usize::from(gone),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    if erased > 0 {
        tracing::info!(erased, "erased people whose time was over");
    }
    failed.map_or(Ok(erased), Err)
}

/// Erases somebody unless their time is not over any more, and says whether it was: while others were erased they may have agreed
/// anew, or been erased and enrolled again.
fn erase(
    workshop: &Workshop,
    audit: &AuditLog,
    gallery: &Gallery,
    subject: &SubjectId,
    now_ms: u64,
) -> Result<bool, ServiceError> {
    let Some(why) = gallery.why_overdue(subject, now_ms) else { return Ok(false) };
    let deed = Deed::erasing("subject.erase").gallery(gallery.id()).subject(subject);
    let erased = audit.around("retention", &deed.about(why.as_str()), || {
        workshop.forget(gallery, subject, None)?;
        let erased = gallery.erase_overdue(subject, now_ms)?;
        erased.ok_or_else(|| ServiceError::SubjectNotFound(subject.clone()))
    });
    match erased {
        Ok(_) => Ok(true),
        // In between; the line in the log has its outcome.
        Err(ServiceError::SubjectNotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Service {
    /// Erases whose time is over at a moment; a server does it by itself. Says how many.
    ///
    /// # Errors
    /// The first that was met, after everybody else was erased.
    pub async fn sweep_retention(&self, now_ms: u64) -> Result<usize, ServiceError> {
        let service = self.clone();
        super::blocking(move || sweep(&service.0.workshop, &service.0.audit, now_ms)).await
    }
}
