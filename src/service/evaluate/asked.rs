//! A plan as one system can be asked about it: without what it refused, and with what is lost by that counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::evaluation::{Entry, MonteCarlo, Ranking, Session, Trial, rank};

use super::embed::Embedded;
use super::plan::PlannedSet;
use super::{EvaluateError, Selection};

/// Share of the subjects that ask without being enrolled.
pub(super) const STRANGERS: f64 = 0.5;

/// A planned set as one system can be asked about it.
pub(super) struct Asked {
    pub(super) sessions: Vec<Session>,
    /// Labels of probes that could not be searched: their file was refused, or every mate's.
    pub(super) lost: Vec<u64>,
    /// Labels of comparisons with a planned mate that never took place: several of one probe where several of its
    /// mates are enrolled.
    pub(super) uncompared: Vec<u64>,
}

/// What searches for people found, of whom a share is not enrolled.
pub(super) struct Searches {
    pub(super) rankings: Vec<Ranking>,
    /// Mated searches that never took place.
    pub(super) lost: Vec<u64>,
    /// Who was enrolled and who asked, without what was refused.
    pub(super) sessions: Vec<Session>,
}

/// Draws a share of the subjects that asks without being enrolled, and searches.
pub(super) fn open_set(
    planned: &PlannedSet,
    embedded: &Embedded,
    selection: &Selection,
    captures: Option<&[u64]>,
) -> Result<Searches, EvaluateError> {
    // Distractors never ask, so they tell nothing here.
    let asking: BTreeSet<u64> =
        planned.sessions.iter().flat_map(|s| &s.probes).map(|entry| entry.label).collect();
    let mut label_of: BTreeMap<usize, u64> = BTreeMap::new();
    for entry in planned.sessions.iter().flat_map(|s| s.gallery.iter().chain(&s.probes)) {
        if asking.contains(&entry.label) {
            label_of.insert(entry.row, entry.label);
        }
    }
    let (files, labels): (Vec<usize>, Vec<u64>) = label_of.into_iter().unzip();
    let draws =
        MonteCarlo { runs: selection.runs, samples: selection.enrolled, seed: selection.seed };
    let mut sessions = draws.open_set(&labels, STRANGERS)?;
    for entry in sessions.iter_mut().flat_map(|s| s.gallery.iter_mut().chain(&mut s.probes)) {
        entry.row = files[entry.row];
    }
    let asked = ask(&PlannedSet { name: String::new(), sessions }, embedded);
    let rankings = trials(&asked.sessions, embedded, captures)?.iter().map(rank).collect();
    Ok(Searches { rankings, lost: asked.lost, sessions: asked.sessions })
}

pub(super) fn trials<'a>(
    sessions: &'a [Session],
    embedded: &'a Embedded,
    captures: Option<&'a [u64]>,
) -> Result<Vec<Trial<'a>>, EvaluateError> {
    let trial = |session| {
        let trial = Trial::new(&embedded.vectors, session)?;
        Ok(match captures {
            Some(captures) => trial.without_same_capture(captures)?,
            None => trial,
        })
    };
    sessions.iter().map(trial).collect()
}

/// Rows of files become rows of embeddings; what was refused is left out and counted.
pub(super) fn ask(set: &PlannedSet, embedded: &Embedded) -> Asked {
    let (mut lost, mut uncompared) = (Vec::new(), Vec::new());
    let mut sessions = Vec::new();
    for session in &set.sessions {
        let planned = samples(&session.gallery);
        let keep = |entries: &[Entry]| -> Vec<Entry> {
            let row = |entry: &Entry| embedded.row_of[entry.row];
            entries.iter().filter_map(|e| Some(Entry { row: row(e)?, ..*e })).collect()
        };
        let gallery = keep(&session.gallery);
        let enrolled = samples(&gallery);
        for probe in &session.probes {
            let Some(mates) = planned.get(&probe.label).copied() else { continue };
            let compared = match embedded.row_of[probe.row] {
                Some(_) => enrolled.get(&probe.label).copied().unwrap_or(0),
                None => 0,
            };
            uncompared.extend(std::iter::repeat_n(probe.label, mates - compared));
            if compared == 0 {
                lost.push(probe.label);
            }
        }
        sessions.push(Session { gallery, probes: keep(&session.probes) });
    }
    Asked { sessions, lost, uncompared }
}

/// Samples of every label.
pub(super) fn samples(gallery: &[Entry]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    gallery.iter().for_each(|entry| *counts.entry(entry.label).or_default() += 1);
    counts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::evaluation::Vectors;

    #[test]
    fn a_probe_is_lost_once_and_its_comparisons_are_as_often_as_it_has_mates() {
        let entry = |(row, label)| Entry { row, label };
        let session = Session {
            gallery: [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)].map(entry).to_vec(),
            probes: [(6, 1), (7, 1), (8, 2), (9, 3), (10, 4)].map(entry).to_vec(),
        };
        // A probe of 1, one sample of 2, and both of 3 are refused; nobody waits for 4.
        let refused = [6, 3, 4, 5];
        let mut next = 0..;
        let row_of = (0..11).map(|file| if refused.contains(&file) { None } else { next.next() });
        let row_of: Vec<Option<usize>> = row_of.collect();
        let vectors = Arc::new(Vectors::new(1, vec![1.0; 7]).unwrap());
        let embedded = Embedded { vectors, row_of, refusals: Vec::new(), cached: 0, seconds: 0.0 };
        let asked = ask(&PlannedSet { name: String::new(), sessions: vec![session] }, &embedded);
        assert_eq!(asked.lost, [1, 3]);
        assert_eq!(asked.uncompared, [1, 1, 2, 3, 3]);
        assert_eq!((asked.sessions[0].gallery.len(), asked.sessions[0].probes.len()), (3, 4));
    }
}
