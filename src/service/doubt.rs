//! Whether an enrolment looks like what it says: like nobody else, and like the subject's own samples.

use crate::domain::{Embedding, HandAttributes, OnMatch, SampleFlag, SubjectId};
use crate::gallery::{Aggregate, GalleryView, SearchParams};

use super::error::ServiceError;
use super::thresholds;

/// What is known of an enrolment beside its embedding.
pub(super) struct Doubt {
    pub(super) subject: SubjectId,
    pub(super) attributes: HandAttributes,
    /// Whoever enrols knows better.
    pub(super) allow_match: bool,
    /// Whoever enrols may know whom it looks like.
    pub(super) may_read: bool,
}

impl Doubt {
    /// Compares with who is enrolled, by the gallery's thresholds. Without thresholds there is nothing to say. Two enrolments at the
    /// same time do not see each other.
    ///
    /// # Errors
    /// [`ServiceError::MatchesAnother`] where the gallery takes no such enrolment.
    pub(super) fn flags(
        &self,
        view: &GalleryView,
        probe: &Embedding,
    ) -> Result<Vec<SampleFlag>, ServiceError> {
        let mut flags = Vec::new();
        if let Some(other) = self.another(view, probe)? {
            if view.gallery().policy().on_match == OnMatch::Refuse && !self.allow_match {
                return Err(ServiceError::MatchesAnother(self.may_read.then_some(other)));
            }
            flags.push(SampleFlag::MatchesAnother);
        }
        if self.is_far(view, probe) {
            flags.push(SampleFlag::FarFromSubject);
        }
        Ok(flags)
    }

    /// The closest other subject, if an identification would take the image for them.
    fn another(
        &self,
        view: &GalleryView,
        probe: &Embedding,
    ) -> Result<Option<SubjectId>, ServiceError> {
        let Some(threshold) = thresholds::identification(view) else { return Ok(None) };
        let params = SearchParams {
            // The subject may be among them.
            limit: 2,
            filter: crate::domain::AttributeFilter::default(),
            aggregate: Aggregate::Best,
            exact: false,
        };
        let found = view.search(probe, &params)?;
        let other = found.into_iter().find(|candidate| candidate.subject != self.subject);
        let matches = other.filter(|other| other.similarity.get() >= threshold.similarity);
        Ok(matches.map(|other| other.subject))
    }

    /// Whether it is unlike all samples of its subject that show the same hand from the same side. Of others nothing can be said: a palm
    /// is no back of a hand.
    fn is_far(&self, view: &GalleryView, probe: &Embedding) -> bool {
        // Somebody new is unlike nobody.
        let Ok(known) = view.verify(&self.subject, probe) else { return false };
        let Some(threshold) = thresholds::verification(view, known.len()) else { return false };
        let least = threshold.target.map_or(threshold.similarity, |target| target.uncertain_from);
        let HandAttributes { aspect, side, .. } = self.attributes;
        let mut alike = known
            .iter()
            .filter(|hit| (hit.attributes.aspect, hit.attributes.side) == (aspect, side))
            .peekable();
        alike.peek().is_some() && alike.all(|hit| hit.similarity.get() < least)
    }
}
