//! Removing samples: one that a caller names, and those that a deployment dropped for good.

use std::collections::HashSet;

use crate::domain::{SampleId, SubjectId};
use crate::storage::Batch;

use super::catalogue::{Busy, State};
use super::key;
use super::{Gallery, GalleryError};

/// Samples removed by one batch, for which whoever changes their subjects waits.
const AT_ONCE: usize = 256;

/// A sample that is to go. It is its number that says which: the name may be given to another.
#[derive(Debug, Clone)]
pub(super) struct Doomed {
    pub(super) subject: SubjectId,
    pub(super) sample: SampleId,
    pub(super) subject_number: u64,
    pub(super) number: u64,
}

impl Gallery {
    /// Removes a sample with its template and image. The subject stays, even without samples.
    ///
    /// # Errors
    /// [`GalleryError::SubjectNotFound`], [`GalleryError::SampleNotFound`] or the store's.
    pub fn remove_sample(
        &self,
        subject: &SubjectId,
        sample: &SampleId,
    ) -> Result<(), GalleryError> {
        let names = vec![Busy::Subject(subject.clone()), Busy::Sample(sample.clone())];
        let _reservation = self.reserve(names);
        let (subject_number, number) = self.sample_numbers(subject, sample)?;
        let (subject, sample) = (subject.clone(), sample.clone());
        let doomed = Doomed { subject, sample, subject_number, number };
        let mut batch = Batch::default();
        self.remove_records(&doomed, &mut batch)?;
        self.store.commit(batch)?;
        self.forget_samples(&mut self.state(), &[doomed]);
        self.changed();
        Ok(())
    }

    /// Has a batch remove everything that is kept of a sample.
    pub(super) fn remove_records(
        &self,
        doomed: &Doomed,
        batch: &mut Batch,
    ) -> Result<(), GalleryError> {
        for kind in [key::SAMPLE, key::TEMPLATE, key::IMAGE_CHUNK] {
            let prefix = key::of_sample(kind, self.number, doomed.subject_number, doomed.number);
            self.store.keys(&prefix)?.into_iter().for_each(|key| batch.remove(key));
        }
        Ok(())
    }

    /// Has nobody find samples whose records are gone. Whoever calls it has reserved their subjects.
    pub(super) fn forget_samples(&self, state: &mut State, gone: &[Doomed]) {
        for Doomed { subject, sample, .. } in gone {
            if let Some(entry) = state.subjects.get_mut(subject)
                && let Some(removed) = entry.samples.remove(sample)
            {
                entry.by_content.remove(&removed.content_hash);
            }
            state.samples.remove(sample);
        }
        match gone {
            [] => {}
            [one] => {
                self.spaces.each_index(|index| index.remove_sample(one.subject_number, one.number))
            }
            many => {
                let numbers: HashSet<u64> = many.iter().map(|doomed| doomed.number).collect();
                self.spaces.each_index(|index| index.remove_samples(&numbers));
            }
        }
    }

    /// Removes every sample that has no template at home, for as long as `go_on` says so. Says whether it came to its end.
    pub(super) fn drop_lacking(&self, go_on: &dyn Fn() -> bool) -> Result<bool, GalleryError> {
        let mut lacking: HashSet<u64> = {
            let state = self.state();
            let entries = state.subjects.values().flat_map(|entry| entry.samples.values());
            entries.map(|sample| sample.number).collect()
        };
        // After the state, which a sample is in no earlier than its row is here: what is enrolled meanwhile lacks nothing.
        for row in self.spaces.load().home.index.rows() {
            lacking.remove(&row.number);
        }
        let doomed: Vec<Doomed> = {
            let state = self.state();
            let samples = state.subjects.iter().flat_map(|(subject, entry)| {
                entry.samples.iter().map(move |(sample, of)| (subject, entry.number, sample, of))
            });
            let doomed = samples.filter(|(.., of)| lacking.contains(&of.number));
            let doomed = doomed.map(|(subject, subject_number, sample, of)| Doomed {
                subject: subject.clone(),
                sample: sample.clone(),
                subject_number,
                number: of.number,
            });
            doomed.collect()
        };
        for part in doomed.chunks(AT_ONCE) {
            if !go_on() {
                return Ok(false);
            }
            let names = part.iter().flat_map(|one| {
                [Busy::Subject(one.subject.clone()), Busy::Sample(one.sample.clone())]
            });
            let _reservation = self.reserve(names.collect());
            // What is gone by another hand, or was enrolled anew under its name, is not what was listed.
            let still: Vec<Doomed> = {
                let state = self.state();
                part.iter().filter(|one| state.has(one)).cloned().collect()
            };
            let mut batch = Batch::default();
            for one in &still {
                self.remove_records(one, &mut batch)?;
            }
            self.store.commit(batch)?;
            self.forget_samples(&mut self.state(), &still);
        }
        self.changed();
        Ok(true)
    }
}

impl State {
    /// Whether a sample is still the one of this number.
    fn has(&self, doomed: &Doomed) -> bool {
        let entry = self.present(&doomed.subject).ok();
        let sample = entry.and_then(|entry| entry.samples.get(&doomed.sample));
        sample.is_some_and(|sample| sample.number == doomed.number)
    }
}
