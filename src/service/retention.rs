//! Erases whose time is over.

use super::Service;
use super::audit::{AuditLog, Deed};
use super::error::ServiceError;
use super::workshop::Workshop;

/// Most people that one look erases in a gallery: the rest is due at the next.
const AT_ONCE: usize = 1_000;

/// Writes down who was seen, and erases whose consent has ended or who was not seen for as long as their gallery keeps people. Says how
/// many were erased.
pub(super) fn sweep(
    workshop: &Workshop,
    audit: &AuditLog,
    now_ms: u64,
) -> Result<usize, ServiceError> {
    let mut erased = 0;
    for gallery in workshop.galleries.list() {
        gallery.save_interactions()?;
        for (subject, why) in gallery.overdue(now_ms).into_iter().take(AT_ONCE) {
            let deed = Deed::erasing("subject.erase").gallery(gallery.id()).subject(&subject);
            let deed = deed.about(why.as_str());
            audit.around("retention", &deed, || {
                workshop.forget(&gallery, &subject, None)?;
                Ok(gallery.erase_subject(&subject)?)
            })?;
            erased += 1;
        }
    }
    if erased > 0 {
        tracing::info!(erased, "erased people whose time was over");
    }
    Ok(erased)
}

impl Service {
    /// Erases whose time is over at a moment; a server does it by itself. Says how many.
    ///
    /// # Errors
    /// The store's; what was erased until then is.
    pub async fn sweep_retention(&self, now_ms: u64) -> Result<usize, ServiceError> {
        let service = self.clone();
        super::blocking(move || sweep(&service.0.workshop, &service.0.audit, now_ms)).await
    }
}
