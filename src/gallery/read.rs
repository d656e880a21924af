use std::ops::Bound;
use std::sync::Arc;

use crate::domain::{Embedding, GalleryId, SampleId, SubjectId};

use super::index::{Hit, Snapshot};
use super::key::{self, Key};
use super::record::{SampleDoc, from_json};
use super::types::{
    Aggregate, Candidate, GalleryInfo, MAX_LIMIT, SampleHit, SampleRecord, SearchParams,
    SelfRetrieval, SubjectRecord, SubjectSummary,
};
use super::{Gallery, GalleryError};

impl Gallery {
    /// The gallery's name.
    #[must_use]
    pub fn id(&self) -> &GalleryId {
        &self.doc.id
    }

    /// What the gallery is and holds.
    #[must_use]
    pub fn info(&self) -> GalleryInfo {
        let (subjects, samples) = {
            let state = self.state();
            (state.subjects.len(), state.samples.len())
        };
        GalleryInfo {
            id: self.doc.id.clone(),
            dim: self.doc.dim,
            generation: self.doc.generation,
            fingerprint: self.doc.fingerprint,
            retain_images: self.doc.retain_images,
            description: self.doc.description.clone(),
            subjects,
            samples,
            created_at_ms: self.doc.created_at_ms,
            index: self.index.info(),
        }
    }

    /// Subjects after `after`, at most `limit`, sorted by id.
    ///
    /// # Errors
    /// [`GalleryError::Limit`].
    pub fn subjects(
        &self,
        after: Option<&SubjectId>,
        limit: usize,
    ) -> Result<Vec<SubjectSummary>, GalleryError> {
        check_limit(limit)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let page = state.subjects.range((from, Bound::<&SubjectId>::Unbounded));
        Ok(page
            .filter(|(_, entry)| !entry.erasing)
            .take(limit)
            .map(|(id, entry)| SubjectSummary { subject: id.clone(), samples: entry.samples.len() })
            .collect())
    }

    /// A subject with its samples, in order of their enrolment.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`] or the store's.
    pub fn subject(&self, subject: &SubjectId) -> Result<SubjectRecord, GalleryError> {
        let number = self.state().present(subject)?.number;
        let prefix = key::of_subject(key::SAMPLE, self.number, number);
        let samples = self
            .store
            .scan(&prefix)
            .map(|record| {
                let (at, text) = record?;
                Ok(sample_record(subject, from_json(&at, &text)?))
            })
            .collect::<Result<_, GalleryError>>();
        // An erasure may have overtaken the scan.
        self.state().present(subject)?;
        Ok(SubjectRecord { subject: subject.clone(), samples: samples? })
    }

    /// One sample.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], [`GalleryError::SampleNotFound`] or the store's.
    pub fn sample(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<SampleRecord, GalleryError> {
        self.sample_doc(subject, sample).map(|(_, _, doc)| sample_record(subject, doc))
    }

    /// The retained image of a sample, as it was enrolled; `None` when none was kept.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], [`GalleryError::SampleNotFound`],
    /// [`GalleryError::Inconsistent`] when a part is missing, or the store's.
    pub fn image(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<Option<Vec<u8>>, GalleryError> {
        let (subject_number, number, doc) = self.sample_doc(subject, sample)?;
        let Some(expected) = doc.image_bytes else { return Ok(None) };
        let prefix = key::of_sample(key::IMAGE_CHUNK, self.number, subject_number, number);
        let mut image = Vec::with_capacity(expected.min(self.options.max_image_bytes));
        for record in self.store.scan(&prefix) {
            image.extend_from_slice(&record?.1);
        }
        if image.len() == expected {
            return Ok(Some(image));
        }
        self.sample_numbers(subject, sample)?;
        let detail = format!("{} of {expected} bytes of the image are there", image.len());
        Err(GalleryError::inconsistent(&prefix, detail))
    }

    /// The sample of this subject with this content, when it is enrolled.
    #[must_use]
    pub fn has_content(&self, subject: &SubjectId, content_hash: &[u8; 32]) -> Option<SampleId> {
        let state = self.state();
        state.present(subject).ok()?.by_content.get(content_hash).cloned()
    }

    fn sample_doc(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<(u64, u64, SampleDoc), GalleryError> {
        let (subject_number, number) = self.sample_numbers(subject, sample)?;
        let at = Key::Sample { gallery: self.number, subject: subject_number, sample: number };
        let at = at.encode();
        match self.store.get(&at)? {
            Some(text) => Ok((subject_number, number, from_json(&at, &text)?)),
            None => {
                // Removed since, or lost.
                self.sample_numbers(subject, sample)?;
                Err(GalleryError::inconsistent(&at, "it is missing"))
            }
        }
    }

    pub(super) fn sample_numbers(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<(u64, u64), GalleryError> {
        let state = self.state();
        let entry = state.present(subject)?;
        match entry.samples.get(sample) {
            Some(found) => Ok((entry.number, found.number)),
            None => Err(GalleryError::SampleNotFound {
                subject: subject.clone(),
                sample: sample.clone(),
            }),
        }
    }

    pub(super) fn check_dim(&self, embedding: &Embedding) -> Result<(), GalleryError> {
        let (got, expected) = (embedding.dim(), self.doc.dim);
        if got == expected { Ok(()) } else { Err(GalleryError::Dimensions { got, expected }) }
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
        self.check_search(query, params)?;
        let snapshot = self.index.load();
        let found = snapshot.subjects(query.as_slice(), params);
        let candidates = found.into_iter().map(|hit| {
            let best = sample_hit(&snapshot, hit.best);
            Candidate { subject: best.subject.clone(), similarity: hit.similarity, best }
        });
        Ok(candidates.collect())
    }

    /// The closest samples, best first, ties by enrolment. Gives `limit` of them, or all that the
    /// filter admits.
    ///
    /// # Errors
    /// As [`Gallery::search`].
    pub fn search_samples(
        &self,
        query: &Embedding,
        params: &SearchParams,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        self.check_search(query, params)?;
        let snapshot = self.index.load();
        let found = snapshot.samples(query.as_slice(), params);
        Ok(found.into_iter().map(|hit| sample_hit(&snapshot, hit)).collect())
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

    /// Compares with every sample of one subject, best first.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`] or [`GalleryError::Dimensions`].
    pub fn verify(
        &self,
        subject: &SubjectId,
        query: &Embedding,
    ) -> Result<Vec<SampleHit>, GalleryError> {
        self.check_dim(query)?;
        let number = self.state().present(subject)?.number;
        let snapshot = self.index.load();
        let found = snapshot.of_subject(number, query.as_slice());
        Ok(found.into_iter().map(|hit| sample_hit(&snapshot, hit)).collect())
    }

    /// The sample that [`Gallery::verify`] finds closest, with its template; `None` for a subject without samples.
    ///
    /// # Errors
    /// As [`Gallery::verify`].
    pub fn closest_template(
        &self,
        subject: &SubjectId,
        query: &Embedding,
    ) -> Result<Option<(SampleHit, Embedding)>, GalleryError> {
        self.check_dim(query)?;
        let number = self.state().present(subject)?.number;
        let snapshot = self.index.load();
        let Some(hit) = snapshot.of_subject(number, query.as_slice()).into_iter().next() else {
            return Ok(None);
        };
        let template = Embedding::from_unit(snapshot.template(hit.row).to_vec())
            .map_err(|error| GalleryError::Index(error.to_string()))?;
        Ok(Some((sample_hit(&snapshot, hit), template)))
    }

    /// Asks about every sample with its own template.
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
        Ok(self.index.load().audit(go_on))
    }
}

fn check_limit(got: usize) -> Result<(), GalleryError> {
    if (1..=MAX_LIMIT).contains(&got) { Ok(()) } else { Err(GalleryError::Limit { got }) }
}

fn sample_record(subject: &SubjectId, doc: SampleDoc) -> SampleRecord {
    SampleRecord {
        subject: subject.clone(),
        sample: doc.id,
        attributes: doc.attributes,
        quality: doc.quality,
        content_hash: doc.content_hash.0,
        created_at_ms: doc.created_at_ms,
        has_image: doc.image_bytes.is_some(),
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
