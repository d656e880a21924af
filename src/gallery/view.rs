use std::sync::Arc;

use crate::domain::{Calibration, Embedding, SampleId, SubjectId};

use super::index::{Hit, Snapshot};
use super::read::check_limit;
use super::space::{Role, Space, TemplateSpace};
use super::types::{Aggregate, Candidate, MAX_LIMIT, SampleHit, SearchParams, SelfRetrieval};
use super::{Gallery, GalleryError};

/// A gallery in one of its spaces: whoever holds this asks in that space to the end, whatever a deployment does meanwhile.
#[derive(Debug, Clone)]
pub struct GalleryView {
    gallery: Arc<Gallery>,
    space: Arc<Space>,
}

impl Gallery {
    /// The gallery in a space of this generation and model, in which every sample has a template that was to have one;
    /// `None` when it has none, or one that is still being filled.
    #[must_use]
    pub fn at(self: &Arc<Self>, wanted: TemplateSpace) -> Option<GalleryView> {
        let spaces = self.spaces.load();
        let complete = |space: &Arc<Space>| match &spaces.beside {
            Some((beside, Role::Filling)) => !Arc::ptr_eq(beside, space),
            Some((_, Role::Previous)) | None => true,
        };
        let mut both = spaces.both();
        let space = both.find(|space| space.of == wanted && complete(space))?;
        Some(GalleryView { gallery: Arc::clone(self), space: Arc::clone(space) })
    }

    /// The spaces that a new sample is to have a template in, the one that is searched first; true where it may come later.
    #[must_use]
    pub fn spaces(&self) -> Vec<(TemplateSpace, bool)> {
        let spaces = self.spaces.load();
        let beside = spaces.beside.iter().map(|(space, role)| (space.of, *role == Role::Filling));
        std::iter::once((spaces.home.of, false)).chain(beside).collect()
    }

    /// The space that it would be searched in if the last deployment were undone.
    #[must_use]
    pub fn previous_or_home(&self) -> TemplateSpace {
        let spaces = self.spaces.load();
        match &spaces.beside {
            Some((previous, Role::Previous)) => previous.of,
            Some((_, Role::Filling)) | None => spaces.home.of,
        }
    }

    /// The gallery in the space that it is searched in.
    #[must_use]
    pub fn home(self: &Arc<Self>) -> GalleryView {
        GalleryView { gallery: Arc::clone(self), space: Arc::clone(&self.spaces.load().home) }
    }

    /// The gallery in the space that a deployment is filling, as far as that is.
    #[must_use]
    pub fn filling(self: &Arc<Self>) -> Option<GalleryView> {
        match &self.spaces.load().beside {
            Some((space, Role::Filling)) => {
                Some(GalleryView { gallery: Arc::clone(self), space: Arc::clone(space) })
            }
            Some((_, Role::Previous)) | None => None,
        }
    }

    /// [`GalleryView::search`] at home.
    ///
    /// # Errors
    /// As there.
    pub fn search(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<Candidate>, GalleryError> {
        self.spaces.load().home.search(query, params)
    }

    /// [`GalleryView::search_samples`] at home.
    ///
    /// # Errors
    /// As there.
    pub fn search_samples(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        self.spaces.load().home.search_samples(query, params)
    }

    /// [`GalleryView::verify`] at home.
    ///
    /// # Errors
    /// As there.
    pub fn verify(
        &self,
        subject: &SubjectId,
        query: &Embedding,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        let number = self.state().present(subject)?.number;
        self.spaces.load().home.of_subject(number, query)
    }

    /// Asks about every sample with its own template, at home.
    ///
    /// # Errors
    /// None today; a gallery on other storage may have some.
    pub fn audit(&self) -> Result<SelfRetrieval, GalleryError> {
        Ok(self.audit_while(|_, _| true)?.unwrap_or_default())
    }

    /// The same, telling how many samples of how many were asked about; `None` once `go_on` says no.
    ///
    /// # Errors
    /// None today; a gallery on other storage may have some.
    pub fn audit_while(
        &self,
        go_on: impl FnMut(usize, usize) -> bool,
    ) -> Result<Option<SelfRetrieval>, GalleryError> {
        Ok(self.spaces.load().home.index.load().audit(go_on))
    }
}

impl GalleryView {
    /// The gallery.
    #[must_use]
    pub fn gallery(&self) -> &Arc<Gallery> {
        &self.gallery
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> TemplateSpace {
        self.space.of
    }

    /// Samples with a template in this space.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.space.index.live()
    }

    /// Whose they are and what they are called.
    #[must_use]
    pub fn listed(&self) -> Vec<(SubjectId, SampleId)> {
        let rows = self.space.index.rows().into_iter();
        rows.map(|row| (SubjectId::clone(&row.subject), row.sample.clone())).collect()
    }

    /// A sample's template in this space; `None` when it has none, or is gone.
    #[must_use]
    pub fn template_of(&self, subject: &SubjectId, sample: &SampleId) -> Option<Embedding> {
        let numbers = self.gallery.sample_numbers(subject, sample).ok()?;
        self.gallery.template(self.space.of, numbers).ok().flatten()
    }

    /// The thresholds of this space; `None` while there are none.
    #[must_use]
    pub fn calibration(&self) -> Option<Arc<Calibration>> {
        self.space.calibration.load_full()
    }

    /// The closest subjects, best first, ties by enrolment. Gives `limit` of them, or everyone who has a sample
    /// that the filter admits.
    ///
    /// # Errors
    /// [`GalleryError::Dimensions`], [`GalleryError::Limit`], [`GalleryError::MeanOf`] or
    /// [`GalleryError::Attributes`].
    pub fn search(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<Candidate>, GalleryError> {
        self.space.search(query, params)
    }

    /// The closest samples, best first, ties by enrolment. Gives `limit` of them, or all that the
    /// filter admits.
    ///
    /// # Errors
    /// As [`GalleryView::search`].
    pub fn search_samples(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        self.space.search_samples(query, params)
    }

    /// Compares with every sample of one subject, best first.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`] or [`GalleryError::Dimensions`].
    pub fn verify(
        &self,
        subject: &SubjectId,
        query: &Embedding,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        let number = self.gallery.state().present(subject)?.number;
        self.space.of_subject(number, query)
    }

    /// The sample that [`GalleryView::verify`] finds closest, with its template; `None` for a subject without samples.
    ///
    /// # Errors
    /// As [`GalleryView::verify`].
    pub fn closest_template(
        &self,
        subject: &SubjectId,
        query: &Embedding,
    ) -> Result<Option<(SampleHit, Embedding)>, GalleryError> {
        self.space.check_dim(query)?;
        let number = self.gallery.state().present(subject)?.number;
        let snapshot = self.space.index.load();
        let Some(hit) = snapshot.of_subject(number, query.as_slice()).into_iter().next() else {
            return Ok(None);
        };
        let template = Embedding::from_unit(snapshot.template(hit.row))
            .map_err(|error| GalleryError::Index(error.to_string()))?;
        Ok(Some((sample_hit(&snapshot, hit), template)))
    }

    /// Asks about every sample with its own template, telling how many of how many were asked about; `None` once `go_on`
    /// says no.
    #[must_use]
    pub fn audit_while(&self, go_on: impl FnMut(usize, usize) -> bool) -> Option<SelfRetrieval> {
        self.space.index.load().audit(go_on)
    }
}

impl Space {
    fn check_dim(&self, embedding: &Embedding) -> Result<(), GalleryError> {
        let (got, expected) = (embedding.dim(), self.of.dim);
        if got == expected { Ok(()) } else { Err(GalleryError::Dimensions { got, expected }) }
    }

    fn check_search(&self, query: &Embedding, params: &SearchParams) -> Result<(), GalleryError> {
        self.check_dim(query)?;
        check_limit(params.limit)?;
        params.filter.validate()?;
        match params.aggregate {
            Aggregate::MeanTop(got) if !(1..=MAX_LIMIT).contains(&got) => {
                Err(GalleryError::MeanOf { got })
            }
            Aggregate::Best | Aggregate::MeanTop(_) => Ok(()),
        }
    }

    fn search(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<Candidate>, GalleryError> {
        self.check_search(query, params)?;
        let snapshot = self.index.load();
        let found = snapshot.subjects(query.as_slice(), params);
        let candidates = found.into_iter().map(|hit| {
            let best = sample_hit(&snapshot, hit.best);
            Candidate { subject: best.subject.clone(), similarity: hit.similarity, best }
        });
        Ok(candidates.collect())
    }

    fn search_samples(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        self.check_search(query, params)?;
        let snapshot = self.index.load();
        let found = snapshot.samples(query.as_slice(), params);
        Ok(found.into_iter().map(|hit| sample_hit(&snapshot, hit)).collect())
    }

    fn of_subject(&self, number: u64, query: &Embedding) -> Result<Vec<SampleHit>, GalleryError> {
        self.check_dim(query)?;
        let snapshot = self.index.load();
        let found = snapshot.of_subject(number, query.as_slice());
        Ok(found.into_iter().map(|hit| sample_hit(&snapshot, hit)).collect())
    }
}

fn sample_hit(snapshot: &Arc<Snapshot>, hit: Hit) -> SampleHit {
    let info = snapshot.info(hit.row);
    SampleHit {
        subject: SubjectId::clone(&info.subject),
        sample: info.sample.clone(),
        similarity: hit.similarity,
        attributes: info.attributes.clone(),
    }
}
