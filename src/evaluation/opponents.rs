use std::borrow::Cow;
use std::collections::HashMap;

use super::{Entry, Trial};

/// Whom a probe is compared with: every gallery sample, or every label by the closest of its samples, as a
/// verification against a whole subject does it.
pub(super) struct Opponents<'a> {
    trial: &'a Trial<'a>,
    /// One for each comparison.
    pub(super) entries: Cow<'a, [Entry]>,
    /// Each gallery sample's place among the entries; `None` where they are the samples.
    places: Option<Vec<usize>>,
}

impl<'a> Opponents<'a> {
    pub(super) fn samples(trial: &'a Trial<'a>) -> Self {
        Self { trial, entries: Cow::Borrowed(&trial.session.gallery), places: None }
    }

    pub(super) fn labels(trial: &'a Trial<'a>) -> Self {
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        let places = trial.session.gallery.iter().map(|sample| {
            *known.entry(sample.label).or_insert_with(|| {
                entries.push(*sample);
                entries.len() - 1
            })
        });
        let places = Some(places.collect());
        Self { trial, entries: Cow::Owned(entries), places }
    }

    /// The score of each comparison of a probe, `NEG_INFINITY` where none counts. row: its similarities to the
    /// gallery, in gallery order.
    pub(super) fn scores<'r>(&self, probe: Entry, row: &'r [f32]) -> Cow<'r, [f32]> {
        let samples = self.trial.session.gallery.iter().zip(row);
        let counted = |(sample, score): (&Entry, &f32)| match self.trial.counts(probe, *sample) {
            true => *score,
            false => f32::NEG_INFINITY,
        };
        match &self.places {
            None if !self.trial.filters() => Cow::Borrowed(row),
            None => samples.map(counted).collect::<Vec<f32>>().into(),
            Some(places) => {
                let mut best = vec![f32::NEG_INFINITY; self.entries.len()];
                for (place, score) in places.iter().zip(samples.map(counted)) {
                    best[*place] = best[*place].max(score);
                }
                best.into()
            }
        }
    }
}
