//! Whether galleries decide as well by the thresholds of a new model as by those that they have.

use std::sync::Arc;

use crate::domain::{CalibratedThreshold, Calibration, GalleryId};
use crate::gallery::Gallery;

use crate::service::error::ServiceError;
use crate::service::thresholds::{covers_gallery, covers_subject};

/// Subjects of a page, while a gallery is listed.
const PAGE: usize = 1000;

/// The galleries that decide by thresholds and would not, or less strictly, by these.
pub(super) fn worse_off(
    galleries: &[Arc<Gallery>],
    new: Option<&Calibration>,
) -> Result<Vec<GalleryId>, ServiceError> {
    let mut found = Vec::new();
    for gallery in galleries {
        if is_worse_off(gallery, new)? {
            found.push(gallery.id().clone());
        }
    }
    Ok(found)
}

fn is_worse_off(gallery: &Gallery, new: Option<&Calibration>) -> Result<bool, ServiceError> {
    let Some(now) = gallery.calibration() else { return Ok(false) };
    let Some(new) = new else { return Ok(true) };
    let identifies = !now.identification.is_empty();
    let is_worse = is_looser(&now.verification, &new.verification)
        || is_looser(&now.identification, &new.identification)
        || identifies && !covers_gallery(new, &gallery.info());
    if is_worse || now.verification.is_empty() {
        return Ok(is_worse);
    }
    Ok(!covers_subject(new, most_samples(gallery)?))
}

/// Whether the strictest target is higher than it was, or there is none any more.
fn is_looser(now: &[CalibratedThreshold], new: &[CalibratedThreshold]) -> bool {
    match (now.last(), new.last()) {
        (Some(now), Some(new)) => new.target > now.target,
        (Some(_), None) => true,
        (None, Some(_) | None) => false,
    }
}

/// Samples of the subject who has most.
fn most_samples(gallery: &Gallery) -> Result<usize, ServiceError> {
    let (mut most, mut after) = (0, None);
    loop {
        let page = gallery.subjects(after.as_ref(), PAGE)?;
        most = page.iter().map(|subject| subject.samples).fold(most, usize::max);
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.subject.clone()),
            Some(_) | None => return Ok(most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_higher_strictest_target_is_looser() {
        let list = |targets: &[f64]| -> Vec<CalibratedThreshold> {
            let threshold = |target: &f64| CalibratedThreshold {
                target: *target,
                similarity: 0.5,
                rate: 0.0,
                upper: *target,
            };
            targets.iter().map(threshold).collect()
        };
        for (now, new, looser) in [
            (&[][..], &[][..], false),
            (&[], &[0.1], false),
            (&[0.1], &[], true),
            (&[0.1, 0.01], &[0.01], false),
            (&[0.01], &[0.1, 0.001], false),
            (&[0.1, 0.01], &[0.1], true),
        ] {
            assert_eq!(is_looser(&list(now), &list(new)), looser, "{now:?} -> {new:?}");
        }
    }
}
