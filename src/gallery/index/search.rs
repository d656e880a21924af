//! How a snapshot answers.
//!
//! Two ways to the closest samples, both of which end in exact similarities: a scan of bits, whose shortlist holds them almost
//! always, and an exact scan. Only how complete they are differs, and everything here that needs more than it was given asks again
//! for more. Under a filter that lets few through an exact scan is faster: only what is admitted costs time, and what is closest among it may be
//! far from the probe, and hard to tell apart in bits.

use std::cmp::Ordering;
use std::collections::HashMap;

use rayon::prelude::*;

use crate::domain::{AttributeFilter, Similarity};
use crate::gallery::types::{Aggregate, SearchParams, SelfRetrieval};

use super::Snapshot;
use super::rows::Admission;
use super::scan::{Score, candidates};
use super::{rough, scan};

/// Where fewer than one row in so many pass a filter, bits of the others cost more than they save.
const ADMITTED_ONE_IN: usize = 12;

/// A row and its exact similarity to the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::gallery) struct Hit {
    pub(in crate::gallery) similarity: Similarity,
    pub(in crate::gallery) row: u32,
}

/// A subject's closest row and its similarity by the aggregate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::gallery) struct SubjectHit {
    pub(in crate::gallery) similarity: Similarity,
    pub(in crate::gallery) best: Hit,
}

/// The closest samples, best first, and whether they are all that is admitted.
struct Found {
    hits: Vec<Hit>,
    complete: bool,
}

/// One probe against one snapshot.
struct Probe<'a> {
    snapshot: &'a Snapshot,
    query: &'a [f32],
    admission: Admission<'a>,
    exact: bool,
    /// Scores of everything admitted, once it was scanned.
    scanned: Option<Vec<Score>>,
}

impl<'a> Probe<'a> {
    fn new(
        snapshot: &'a Snapshot,
        query: &'a [f32],
        filter: &'a AttributeFilter,
        exact: bool,
    ) -> Self {
        let admission = Admission::new(filter);
        let exact = exact
            || !snapshot.reads_bits()
            || !admission.admits_one_in(ADMITTED_ONE_IN, &snapshot.rows);
        Self { snapshot, query, admission, exact, scanned: None }
    }

    fn order(&self, a: &Hit, b: &Hit) -> Ordering {
        let number = |hit: &Hit| self.snapshot.rows.info(hit.row).number;
        b.similarity.cmp(&a.similarity).then_with(|| number(a).cmp(&number(b)))
    }

    /// The `wanted` closest samples.
    fn closest(&mut self, wanted: usize) -> Found {
        if !self.exact {
            if let Some(scores) = rough::scores(self.snapshot, self.query, wanted, &self.admission)
            {
                let hits = self.best(&scores, wanted);
                // Fewer than that may be all that there are: a scan says so.
                if hits.len() == wanted {
                    return Found { complete: false, hits };
                }
            }
            self.exact = true;
        }
        let scores = self
            .scanned
            .take()
            .unwrap_or_else(|| scan::scores(self.snapshot, self.query, &self.admission));
        let found = Found { complete: scores.len() <= wanted, hits: self.best(&scores, wanted) };
        self.scanned = Some(scores);
        found
    }

    fn best(&self, scores: &[Score], wanted: usize) -> Vec<Hit> {
        let candidates = candidates(scores, wanted).into_iter();
        let mut hits: Vec<Hit> = candidates.map(|row| self.hit(row)).collect();
        hits.sort_unstable_by(|a, b| self.order(a, b));
        hits.truncate(wanted);
        hits
    }

    fn hit(&self, row: u32) -> Hit {
        exact(self.snapshot, self.query, row)
    }

    /// The subjects of `hits`, best first.
    fn subjects_by_best(&self, hits: &[Hit]) -> Vec<SubjectHit> {
        let mut seen = std::collections::HashSet::new();
        let of = |hit: &Hit| self.snapshot.rows.info(hit.row).subject_number;
        hits.iter()
            .filter(|hit| seen.insert(of(hit)))
            .map(|hit| SubjectHit { similarity: hit.similarity, best: *hit })
            .collect()
    }

    /// The subjects of `hits` by the mean of each one's `of` closest admitted samples.
    fn subjects_by_mean(&self, found: &Found, of: usize) -> Vec<SubjectHit> {
        let rows = &self.snapshot.rows;
        let mut groups: HashMap<u64, Vec<Hit>> = HashMap::new();
        for hit in &found.hits {
            groups.entry(rows.info(hit.row).subject_number).or_default().push(*hit);
        }
        if !found.complete {
            // The samples of these subjects that were not among the closest count too.
            for group in groups.values_mut() {
                group.clear();
            }
            for (first, block) in (0_u32..).step_by(super::rows::BLOCK).zip(rows.blocks.iter()) {
                for at in 0..block.len() {
                    if let Some(group) = groups.get_mut(&block.subjects[at])
                        && self.admission.admits(block, at)
                    {
                        group.push(self.hit(first + at as u32));
                    }
                }
            }
        }
        let mut subjects: Vec<SubjectHit> = groups
            .into_values()
            .filter_map(|mut group| {
                group.sort_unstable_by(|a, b| self.order(a, b));
                group.truncate(of);
                let sum: f64 = group.iter().map(|hit| f64::from(hit.similarity.get())).sum();
                let similarity = Similarity::clamped((sum / group.len() as f64) as f32);
                group.first().map(|best| SubjectHit { similarity, best: *best })
            })
            .collect();
        let number = |hit: &SubjectHit| rows.info(hit.best.row).number;
        subjects.sort_unstable_by(|a, b| {
            b.similarity.cmp(&a.similarity).then_with(|| number(a).cmp(&number(b)))
        });
        subjects
    }
}

/// The closest samples, best first, ties by enrolment.
pub(super) fn samples(snapshot: &Snapshot, query: &[f32], params: &SearchParams) -> Vec<Hit> {
    Probe::new(snapshot, query, &params.filter, params.exact).closest(params.limit).hits
}

/// The closest subjects, best first, ties by enrolment of the closest sample.
pub(super) fn subjects(
    snapshot: &Snapshot,
    query: &[f32],
    params: &SearchParams,
) -> Vec<SubjectHit> {
    let mut probe = Probe::new(snapshot, query, &params.filter, params.exact);
    // The closest sample is all that the closest subject takes, and much faster to find: strangers are not looked for beside it.
    let alone = params.limit == 1 && params.aggregate == Aggregate::Best;
    let mut wanted = if alone { 1 } else { params.limit.saturating_mul(2).max(16) };
    loop {
        let found = probe.closest(wanted);
        let mut ranked = match params.aggregate {
            Aggregate::Best => probe.subjects_by_best(&found.hits),
            Aggregate::MeanTop(of) => probe.subjects_by_mean(&found, of),
        };
        let enough = found.complete
            || match (params.aggregate, ranked.get(params.limit - 1), found.hits.last()) {
                (_, None, _) | (_, _, None) => false,
                (Aggregate::Best, Some(_), Some(_)) => true,
                // A subject not seen yet has no sample closer than the last hit, so no mean above it.
                (Aggregate::MeanTop(_), Some(last), Some(bound)) => {
                    last.similarity > bound.similarity
                }
            };
        if enough {
            ranked.truncate(params.limit);
            return ranked;
        }
        wanted = wanted.saturating_mul(4);
    }
}

fn exact(snapshot: &Snapshot, query: &[f32], row: u32) -> Hit {
    let dot = snapshot.rows.template(row).dot(snapshot.kernel, query);
    Hit { similarity: Similarity::clamped(dot), row }
}

/// Every live sample of a subject, best first, ties by enrolment.
pub(super) fn of_subject(snapshot: &Snapshot, subject_number: u64, query: &[f32]) -> Vec<Hit> {
    let rows = &snapshot.rows;
    let own = rows.of_subject(subject_number).into_iter();
    let mut hits: Vec<Hit> = own.map(|row| exact(snapshot, query, row)).collect();
    let number = |hit: &Hit| rows.info(hit.row).number;
    hits.sort_unstable_by(|a, b| {
        b.similarity.cmp(&a.similarity).then_with(|| number(a).cmp(&number(b)))
    });
    hits
}

/// Rows that an audit asks about between two looks at whether to go on.
const AUDITED_AT_ONCE: usize = 512;

/// Whether each live row is among the closest to its own template. Rows with the same template may
/// stand in for each other. `go_on` hears how many of how many were asked about; `None` if it says no.
pub(super) fn audit(
    snapshot: &Snapshot,
    mut go_on: impl FnMut(usize, usize) -> bool,
) -> Option<SelfRetrieval> {
    let rows = &snapshot.rows;
    let params = SearchParams {
        limit: 1,
        filter: AttributeFilter::default(),
        aggregate: Aggregate::Best,
        exact: false,
    };
    let live: Vec<u32> = (0..rows.len() as u32).filter(|row| rows.is_live(*row)).collect();
    let finds_itself = |row: &u32| {
        let template = snapshot.template(*row);
        let own = exact(snapshot, &template, *row).similarity;
        samples(snapshot, &template, &params).first().is_some_and(|hit| hit.similarity >= own)
    };
    let mut missed: Vec<u32> = Vec::new();
    let mut asked = 0;
    for part in live.chunks(AUDITED_AT_ONCE) {
        missed.par_extend(part.par_iter().filter(|row| !finds_itself(row)).copied());
        asked += part.len();
        if !go_on(asked, live.len()) {
            return None;
        }
    }
    missed.sort_unstable_by_key(|row| rows.info(*row).number);
    Some(SelfRetrieval {
        samples: live.len(),
        found: live.len() - missed.len(),
        missed: missed.iter().map(|row| rows.info(*row).sample.clone()).collect(),
    })
}
