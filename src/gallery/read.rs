use std::ops::Bound;

use crate::domain::{GalleryId, SampleId, SubjectId};

use super::catalogue::SubjectEntry;
use super::key::{self, Key};
use super::record::{SampleDoc, from_json};
use super::types::{
    BesideInfo, GalleryInfo, MAX_LIMIT, SampleRecord, SubjectRecord, SubjectSummary,
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
        let spaces = self.spaces.load();
        let home = spaces.home.of;
        let beside = spaces.beside.as_ref().map(|(space, role)| BesideInfo {
            space: space.of,
            role: *role,
            samples: space.index.live(),
        });
        GalleryInfo {
            id: self.doc.id.clone(),
            dim: home.dim,
            generation: home.generation,
            fingerprint: home.fingerprint,
            retain_images: self.doc.retain_images,
            allow_training: self.doc.allow_training,
            description: self.doc.description.clone(),
            policy: **self.policy.load(),
            subjects,
            samples,
            created_at_ms: self.doc.created_at_ms,
            index: spaces.home.index.info(),
            beside,
        }
    }

    /// SHA-256 of every sample's image file, with whose it is; of one subject or of all. Of those too who are about to be erased.
    #[must_use]
    pub fn contents(&self, of: Option<&SubjectId>) -> Vec<(SubjectId, SampleId, [u8; 32])> {
        let state = self.state();
        let mut found = Vec::new();
        let mut add = |id: &SubjectId, entry: &SubjectEntry| {
            let samples = entry.samples.iter();
            found.extend(samples.map(|(s, of)| (id.clone(), s.clone(), of.content_hash)));
        };
        match of {
            Some(id) => state.subjects.get(id).into_iter().for_each(|entry| add(id, entry)),
            None => state.subjects.iter().for_each(|(id, entry)| add(id, entry)),
        }
        found
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
        let state = self.state();
        let entry = state.present(subject)?;
        Ok(SubjectRecord {
            subject: subject.clone(),
            samples: samples?,
            consent: entry.consent.clone(),
            last_interaction_ms: entry.last_ms,
        })
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

    /// The sample of this subject with this content, when it is enrolled and can be found.
    #[must_use]
    pub fn has_content(&self, subject: &SubjectId, content_hash: &[u8; 32]) -> Option<SampleId> {
        let (sample, subject_number, number) = {
            let state = self.state();
            let entry = state.present(subject).ok()?;
            let sample = entry.by_content.get(content_hash)?.clone();
            let number = entry.samples.get(&sample)?.number;
            (sample, entry.number, number)
        };
        let found = self.spaces.load().finds(subject_number, number);
        found.then_some(sample)
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
}

pub(super) fn check_limit(got: usize) -> Result<(), GalleryError> {
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
        flags: doc.flags,
    }
}
