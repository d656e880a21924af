use std::ops::Bound;

use crate::domain::{GalleryId, SampleId, SubjectId};

use super::catalogue::{Busy, SubjectEntry};
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

    /// How many samples a subject has. From memory, whatever the store has to say.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`].
    pub fn samples_of(&self, subject: &SubjectId) -> Result<usize, GalleryError> {
        Ok(self.state().present(subject)?.samples.len())
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
        if entry.number != number {
            // And they were enrolled again: those whom was asked about are gone.
            return Err(GalleryError::SubjectNotFound(subject.clone()));
        }
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
        self.sample_doc(subject, sample).map(|(_, doc)| sample_record(subject, doc))
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
        let (numbers @ (subject_number, number), doc) = self.sample_doc(subject, sample)?;
        let Some(expected) = doc.image_bytes else { return Ok(None) };
        let prefix = key::of_sample(key::IMAGE_CHUNK, self.number, subject_number, number);
        let mut image = Vec::with_capacity(expected.min(self.options.max_image_bytes));
        for record in self.store.scan(&prefix) {
            match record {
                Ok((_, chunk)) => image.extend_from_slice(&chunk),
                Err(error) => return Err(self.unless_gone(subject, sample, numbers, error.into())),
            }
        }
        if image.len() == expected {
            return Ok(Some(image));
        }
        let detail = format!("{} of {expected} bytes of the image are there", image.len());
        let error = GalleryError::inconsistent(&prefix, detail);
        Err(self.unless_gone(subject, sample, numbers, error))
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
    ) -> Result<((u64, u64), SampleDoc), GalleryError> {
        let numbers @ (subject_number, number) = self.sample_numbers(subject, sample)?;
        let at = Key::Sample { gallery: self.number, subject: subject_number, sample: number };
        let at = at.encode();
        let error = match self.store.get(&at) {
            Ok(Some(text)) => return Ok((numbers, from_json(&at, &text)?)),
            Ok(None) => GalleryError::inconsistent(&at, "it is missing"),
            Err(error) => error.into(),
        };
        Err(self.unless_gone(subject, sample, numbers, error))
    }

    /// What it means that a sample cannot be read: that it is gone, if somebody removed or erased it meanwhile; `error` if not.
    fn unless_gone(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
        numbers: (u64, u64),
        error: GalleryError,
    ) -> GalleryError {
        // Records go before the state says so: whoever is removing them is waited for.
        let names = vec![Busy::Subject(subject.clone()), Busy::Sample(sample.clone())];
        drop(self.reserve(names));
        match self.sample_numbers(subject, sample) {
            Ok(now) if now == numbers => error,
            // Another of its name.
            Ok(_) => {
                let (subject, sample) = (subject.clone(), sample.clone());
                GalleryError::SampleNotFound { subject, sample }
            }
            Err(gone) => gone,
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::gallery::remove::Doomed;
    use crate::gallery::testing;
    use crate::storage::Batch;

    /// Who reads between a removal's records and its end waits for it; time only for a read that does not.
    #[test]
    fn a_read_beside_a_removal_finds_nothing_and_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (_galleries, gallery) = testing::gallery(dir.path());
        let new = testing::sample();
        gallery.enrol(new.clone()).unwrap();
        let (subject, sample) = (new.subject, new.sample.unwrap());
        let (subject_number, number) = gallery.sample_numbers(&subject, &sample).unwrap();
        let of = (subject.clone(), sample.clone());
        let doomed = Doomed { subject: of.0, sample: of.1, subject_number, number };
        let names = vec![Busy::Subject(subject.clone()), Busy::Sample(sample.clone())];
        let removing = gallery.reserve(names);
        let mut batch = Batch::default();
        gallery.remove_records(&doomed, &mut batch).unwrap();
        gallery.store.commit(batch).unwrap();
        std::thread::scope(|scope| {
            let reads = [
                scope.spawn(|| gallery.image(&subject, &sample).map(drop)),
                scope.spawn(|| gallery.sample(&subject, &sample).map(drop)),
            ];
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(200)
                && !reads.iter().all(|read| read.is_finished())
            {
                std::thread::yield_now();
            }
            gallery.forget_samples(&mut gallery.state(), &[doomed]);
            drop(removing);
            for read in reads {
                let found = read.join().unwrap();
                assert!(matches!(found, Err(GalleryError::SampleNotFound { .. })), "{found:?}");
            }
        });
    }

    #[test]
    fn a_record_that_is_missing_without_a_removal_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (_galleries, gallery) = testing::gallery(dir.path());
        let new = testing::sample();
        gallery.enrol(new.clone()).unwrap();
        let (subject, sample) = (new.subject, new.sample.unwrap());
        let (subject_number, number) = gallery.sample_numbers(&subject, &sample).unwrap();
        let prefix = key::of_sample(key::IMAGE_CHUNK, gallery.number, subject_number, number);
        let mut batch = Batch::default();
        gallery.store.keys(&prefix).unwrap().into_iter().for_each(|at| batch.remove(at));
        gallery.store.commit(batch).unwrap();
        let found = gallery.image(&subject, &sample);
        assert!(matches!(found, Err(GalleryError::Inconsistent { .. })), "{found:?}");
    }
}
