//! From a gallery's calibration to a decision. A calibration says nothing of galleries larger, or subjects with more
//! samples, than it was measured with: there is no match then, only something for a person to look at.

use crate::domain::{CalibratedThreshold, Calibration};
use crate::gallery::{GalleryInfo, GalleryView};

use super::views::{Decision, TargetRateView, ThresholdView};

/// The strictest threshold for a 1:N question.
pub(super) fn identification(gallery: &GalleryView) -> Option<ThresholdView> {
    let calibration = gallery.calibration()?;
    let covered = covers_gallery(&calibration, &gallery.gallery().info());
    view(&calibration.identification, "fpir", covered)
}

/// The strictest threshold for a 1:1 question about a subject with so many samples.
pub(super) fn verification(gallery: &GalleryView, samples: usize) -> Option<ThresholdView> {
    let calibration = gallery.calibration()?;
    view(&calibration.verification, "fmr", covers_subject(&calibration, samples))
}

/// Whether a 1:N question to a gallery lies within what was measured.
pub(super) fn covers_gallery(calibration: &Calibration, info: &GalleryInfo) -> bool {
    let most = calibration.gallery_subjects.saturating_mul(calibration.samples_per_subject);
    info.subjects <= calibration.gallery_subjects && info.samples <= most
}

/// Whether a 1:1 question about a subject with so many samples does.
pub(super) fn covers_subject(calibration: &Calibration, samples: usize) -> bool {
    samples <= calibration.samples_per_subject
}

fn view(
    thresholds: &[CalibratedThreshold],
    rate: &'static str,
    covered: bool,
) -> Option<ThresholdView> {
    let (loosest, strictest) = (thresholds.first()?, thresholds.last()?);
    Some(ThresholdView {
        similarity: strictest.similarity,
        source: "calibration",
        target: Some(TargetRateView {
            rate,
            at_most: strictest.target,
            uncertain_from: loosest.similarity,
            covered,
        }),
    })
}

/// What a best similarity among all subjects means.
pub(super) fn identified(best: Option<f32>, threshold: ThresholdView) -> Decision {
    best.map_or(Decision::Unknown, |best| decide(best, threshold, Decision::Unknown))
}

/// What a similarity to one subject means.
pub(super) fn verified(similarity: f32, threshold: ThresholdView) -> Decision {
    decide(similarity, threshold, Decision::NoMatch)
}

fn decide(similarity: f32, threshold: ThresholdView, otherwise: Decision) -> Decision {
    let (uncertain_from, covered) = match threshold.target {
        Some(target) => (target.uncertain_from, target.covered),
        None => (threshold.similarity, true),
    };
    if similarity >= threshold.similarity && covered {
        Decision::Match
    } else if similarity >= uncertain_from {
        Decision::Uncertain
    } else {
        otherwise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(covered: Option<bool>) -> ThresholdView {
        let target = covered.map(|covered| TargetRateView {
            rate: "fpir",
            at_most: 0.01,
            uncertain_from: 0.6,
            covered,
        });
        ThresholdView { similarity: 0.8, source: "calibration", target }
    }

    #[test]
    fn between_the_loosest_and_the_strictest_threshold_a_person_decides() {
        let decision = |similarity| identified(Some(similarity), threshold(Some(true)));
        assert_eq!(decision(0.8), Decision::Match);
        assert_eq!(decision(0.79), Decision::Uncertain);
        assert_eq!(decision(0.6), Decision::Uncertain);
        assert_eq!(decision(0.59), Decision::Unknown);
        assert_eq!(identified(None, threshold(Some(true))), Decision::Unknown);
        assert_eq!(verified(0.59, threshold(Some(true))), Decision::NoMatch);
    }

    #[test]
    fn where_the_calibration_does_not_reach_nothing_matches() {
        assert_eq!(identified(Some(0.99), threshold(Some(false))), Decision::Uncertain);
        assert_eq!(verified(0.5, threshold(Some(false))), Decision::NoMatch);
    }

    #[test]
    fn a_threshold_of_the_request_leaves_nothing_uncertain() {
        assert_eq!(verified(0.8, threshold(None)), Decision::Match);
        assert_eq!(verified(0.79, threshold(None)), Decision::NoMatch);
    }
}
