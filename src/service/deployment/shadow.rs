//! What the challenger would have answered: enrolled samples ask about themselves under both models, each without its own
//! sample, before any caller is answered by the new one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::domain::{AttributeFilter, SubjectId};
use crate::gallery::{Aggregate, Gallery, GalleryView, SearchParams};
use crate::jobs::{JobContext, JobFailure};

use super::backfill::gallery_failure;
use crate::service::thresholds;
use crate::service::views::Decision;

/// Where both models agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Shadow {
    /// Samples that asked: those whose subject has another sample.
    pub(super) probes: usize,
    /// Both found the same subject first.
    pub(super) same_top: usize,
    /// The subject itself was found first by the model that serves.
    pub(super) right_before: usize,
    /// The subject itself was found first by the challenger.
    pub(super) right_after: usize,
    /// Both have thresholds, and decide differently.
    pub(super) flips: usize,
    /// Both have thresholds.
    pub(super) decided: usize,
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} enrolled samples asked about without themselves, {} have the same subject first under both models; \
             right {} before and {} after; {} of {} decisions differ",
            self.probes,
            self.same_top,
            self.right_before,
            self.right_after,
            self.flips,
            self.decided
        )
    }
}

/// What one model says of a sample.
struct Said {
    top: SubjectId,
    decision: Option<Decision>,
}

/// Asks about at most so many samples, spread evenly over all galleries.
pub(super) fn replay(
    context: &JobContext<'_>,
    galleries: &[Arc<Gallery>],
    most: usize,
) -> Result<Shadow, JobFailure> {
    let mut shadow = Shadow::default();
    let pairs: Vec<(GalleryView, GalleryView)> =
        galleries.iter().filter_map(|gallery| Some((gallery.home(), gallery.filling()?))).collect();
    let total: usize = pairs.iter().map(|(_, new)| new.samples()).sum();
    let step = total.div_ceil(most.max(1)).max(1);
    if most == 0 {
        return Ok(shadow);
    }
    let mut at = 0;
    for (old, new) in &pairs {
        let listed = new.listed();
        let mut samples: HashMap<&SubjectId, usize> = HashMap::new();
        listed.iter().for_each(|(subject, _)| *samples.entry(subject).or_default() += 1);
        for (subject, sample) in &listed {
            at += 1;
            // Without its only sample a subject cannot be found.
            if at % step != 0 || samples.get(subject).is_none_or(|samples| *samples < 2) {
                continue;
            }
            if context.cancelled() {
                return Err(JobFailure::interrupted());
            }
            let said = |view: &GalleryView| -> Result<Option<Said>, JobFailure> {
                let Some(query) = view.template_of(subject, sample) else { return Ok(None) };
                let params = SearchParams {
                    limit: 2,
                    filter: AttributeFilter::default(),
                    aggregate: Aggregate::Best,
                    exact: false,
                };
                let hits = view.search_samples(&query, &params).map_err(gallery_failure)?;
                let other = hits.into_iter().find(|hit| hit.sample != *sample);
                Ok(other.map(|hit| Said {
                    decision: thresholds::identification(view).map(|threshold| {
                        thresholds::identified(Some(hit.similarity.get()), threshold)
                    }),
                    top: hit.subject,
                }))
            };
            let (Some(before), Some(after)) = (said(old)?, said(new)?) else { continue };
            shadow.probes += 1;
            shadow.same_top += usize::from(before.top == after.top);
            shadow.right_before += usize::from(before.top == *subject);
            shadow.right_after += usize::from(after.top == *subject);
            if let (Some(before), Some(after)) = (before.decision, after.decision) {
                shadow.decided += 1;
                shadow.flips += usize::from(before != after);
            }
        }
    }
    Ok(shadow)
}
