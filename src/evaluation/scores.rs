use std::collections::BTreeSet;

use rayon::prelude::*;

use super::opponents::Opponents;
use super::threshold::{accepted, share, smallest};
use super::{Entry, EvaluationError, Trial};

/// Impostor comparisons kept with their people, the closest first: 48 MiB. What a bootstrap needs of the
/// rest is their number.
const TAIL: usize = 1 << 22;

/// The scores of genuine and impostor comparisons, and of whom they are.
///
/// An impostor comparison takes 4 bytes here: 25 million, as of 5,000 probes in a gallery of 5,000, take
/// 100 MB. Pool the runs of small sessions; take large ones one by one.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Descending.
    pub(super) genuine: Vec<f32>,
    /// Descending.
    pub(super) impostor: Vec<f32>,
    /// Genuine comparisons that never took place.
    pub(super) lost: u64,
    pub(super) people: Option<People>,
}

/// Who the comparisons are of: what a bootstrap over people needs. People are numbered from 0.
#[derive(Debug, Clone)]
pub(super) struct People {
    /// How many.
    pub(super) count: usize,
    /// Whose each genuine comparison is, in the order of the scores.
    pub(super) genuine: Vec<u32>,
    /// Whose each lost comparison is.
    pub(super) lost: Vec<u32>,
    /// The highest impostor comparisons, descending; all of them where [`Self::whole`].
    pub(super) tail: Vec<Pair>,
    /// Whether the tail is all.
    pub(super) whole: bool,
    /// Probes and gallery samples of every person, trial by trial.
    pub(super) sizes: Vec<Vec<(f64, f64)>>,
    /// Impostor comparisons of a person with himself, under another label.
    pub(super) own: Vec<f64>,
}

/// An impostor comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    pub(super) score: f32,
    pub(super) probe: u32,
    pub(super) sample: u32,
}

impl Scores {
    /// Compares every probe of the trials with its whole gallery. A comparison is genuine where the labels
    /// are equal.
    ///
    /// lost: the label of every genuine comparison that never took place, as the probe failed to be acquired or
    /// the sample to be enrolled: as many of a probe as it was to be compared with. They are misses in
    /// [`Self::frr`], and no part of [`Self::fnmr`].
    /// person: who is behind a label. Distractors are hands of people under labels of their own; for the
    /// count of subjects and for the bootstrap they are those people. The identity where labels are people.
    ///
    /// # Errors
    /// [`EvaluationError::NoGenuine`] or [`EvaluationError::NoImpostor`].
    pub fn gather(
        trials: &[Trial<'_>],
        lost: &[u64],
        person: impl Fn(u64) -> u64 + Sync,
    ) -> Result<Self, EvaluationError> {
        let opponents: Vec<Opponents<'_>> = trials.iter().map(Opponents::samples).collect();
        Self::of(trials, &opponents, lost, person)
    }

    /// As [`Self::gather`], every probe compared with every label of the gallery by the closest of its samples:
    /// what a verification against a whole subject sees. Of a probe at most one comparison is lost then.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_by_label(
        trials: &[Trial<'_>],
        lost: &[u64],
        person: impl Fn(u64) -> u64 + Sync,
    ) -> Result<Self, EvaluationError> {
        let opponents: Vec<Opponents<'_>> = trials.iter().map(Opponents::labels).collect();
        Self::of(trials, &opponents, lost, person)
    }

    fn of(
        trials: &[Trial<'_>],
        opponents: &[Opponents<'_>],
        lost: &[u64],
        person: impl Fn(u64) -> u64 + Sync,
    ) -> Result<Self, EvaluationError> {
        let everybody =
            trials.iter().flat_map(|t| t.session.gallery.iter().chain(&t.session.probes));
        let names: BTreeSet<u64> =
            everybody.map(|entry| entry.label).chain(lost.iter().copied()).map(&person).collect();
        let names: Vec<u64> = names.into_iter().collect();
        let number = |label: u64| {
            let name = person(label);
            names.partition_point(|other| *other < name) as u32
        };
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        let (mut sizes, mut own) = (Vec::new(), vec![0.0; names.len()]);
        let mut numbered = Vec::new();
        for (trial, opponents) in trials.iter().zip(opponents) {
            let of = |entries: &[Entry]| -> Vec<u32> {
                entries.iter().map(|entry| number(entry.label)).collect()
            };
            let (probes, gallery) = (of(&trial.session.probes), of(&opponents.entries));
            let mut size = vec![(0.0, 0.0); names.len()];
            probes.iter().for_each(|who| size[*who as usize].0 += 1.0);
            gallery.iter().for_each(|who| size[*who as usize].1 += 1.0);
            sizes.push(size);
            for one in trial.each_probe(|at, row| {
                let probe = trial.session.probes[at];
                split(opponents, (at, probe), &opponents.scores(probe, row), (&probes, &gallery))
            }) {
                genuine.extend(one.genuine.iter().map(|score| (*score, probes[one.probe])));
                impostor.extend_from_slice(&one.impostor);
                own[probes[one.probe] as usize] += one.own;
            }
            numbered.push((probes, gallery));
        }
        genuine.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let (genuine, whose): (Vec<f32>, Vec<u32>) = genuine.into_iter().unzip();
        let mut scores = Self::from_scores(genuine, impostor)?;
        let whole = scores.impostor.len() <= TAIL;
        let cut = if whole { f32::NEG_INFINITY } else { scores.impostor[TAIL - 1] };
        scores.lost = lost.len() as u64;
        scores.people = Some(People {
            count: names.len(),
            genuine: whose,
            lost: lost.iter().map(|label| number(*label)).collect(),
            tail: tail(trials, opponents, &numbered, cut),
            whole,
            sizes,
            own,
        });
        Ok(scores)
    }

    /// Takes scores whose people are not known: there is no bootstrap over people then, and no lowest rate.
    ///
    /// # Errors
    /// [`EvaluationError::NoGenuine`], [`EvaluationError::NoImpostor`] or, for a NaN,
    /// [`EvaluationError::NotANumber`].
    pub fn from_scores(
        mut genuine: Vec<f32>,
        mut impostor: Vec<f32>,
    ) -> Result<Self, EvaluationError> {
        if genuine.iter().chain(&impostor).any(|score| score.is_nan()) {
            return Err(EvaluationError::NotANumber);
        }
        if genuine.is_empty() {
            return Err(EvaluationError::NoGenuine);
        }
        if impostor.is_empty() {
            return Err(EvaluationError::NoImpostor);
        }
        for scores in [&mut genuine, &mut impostor] {
            scores.par_sort_unstable_by(|a, b| b.total_cmp(a));
        }
        Ok(Self { genuine, impostor, lost: 0, people: None })
    }

    /// Scores of genuine comparisons, descending.
    #[must_use]
    pub fn genuine(&self) -> &[f32] {
        &self.genuine
    }

    /// Scores of impostor comparisons, descending.
    #[must_use]
    pub fn impostor(&self) -> &[f32] {
        &self.impostor
    }

    /// Genuine comparisons that never took place.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// People that took part or failed to; `None` where they are not known.
    #[must_use]
    pub fn subjects(&self) -> Option<u64> {
        self.people.as_ref().map(|people| people.count as u64)
    }

    /// False match rate: impostor comparisons accepted, of those made. Accepted is what is not below `t`.
    #[must_use]
    pub fn fmr(&self, t: f32) -> f64 {
        share(accepted(&self.impostor, t), self.impostor.len() as u64)
    }

    /// False non-match rate: genuine comparisons rejected, of those made. What failed to be acquired or
    /// enrolled is no comparison, as ISO/IEC 19795-1 has it.
    #[must_use]
    pub fn fnmr(&self, t: f32) -> f64 {
        share(self.rejected(t), self.genuine.len() as u64)
    }

    /// False rejection rate: the same, with every comparison that never took place counted as a rejection.
    /// With F lost among all, this is F + (1 - F) FNMR.
    #[must_use]
    pub fn frr(&self, t: f32) -> f64 {
        share(self.rejected(t) + self.lost, self.genuine.len() as u64 + self.lost)
    }

    /// The smallest score of all, genuine and impostor, at which FMR is at most `target`; where no score is
    /// high enough, the next number above the highest.
    #[must_use]
    pub fn threshold_at_fmr(&self, target: f64) -> f32 {
        smallest(&self.impostor, &self.genuine, target)
    }

    pub(super) fn rejected(&self, t: f32) -> u64 {
        self.genuine.len() as u64 - accepted(&self.genuine, t)
    }
}

/// What one probe adds.
struct One {
    probe: usize,
    genuine: Vec<f32>,
    impostor: Vec<f32>,
    own: f64,
}

fn split(
    opponents: &Opponents<'_>,
    (at, probe): (usize, Entry),
    scores: &[f32],
    (probes, gallery): (&[u32], &[u32]),
) -> One {
    let impostor = Vec::with_capacity(scores.len());
    let mut one = One { probe: at, genuine: Vec::new(), impostor, own: 0.0 };
    for ((entry, who), score) in opponents.entries.iter().zip(gallery).zip(scores) {
        if *score == f32::NEG_INFINITY {
            // No sample of it counts for this probe.
        } else if entry.label == probe.label {
            one.genuine.push(*score);
        } else {
            one.impostor.push(*score);
            one.own += f64::from(u8::from(*who == probes[at]));
        }
    }
    one
}

/// The impostor comparisons not below `cut`, descending.
fn tail(
    trials: &[Trial<'_>],
    opponents: &[Opponents<'_>],
    numbered: &[(Vec<u32>, Vec<u32>)],
    cut: f32,
) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for ((trial, opponents), (probes, gallery)) in trials.iter().zip(opponents).zip(numbered) {
        let found = trial.each_probe(|at, row| {
            let probe = trial.session.probes[at];
            let scores = opponents.scores(probe, row);
            let compared = opponents.entries.iter().zip(gallery).zip(scores.iter());
            compared
                .filter(|((_, _), score)| **score > f32::NEG_INFINITY)
                .filter(|((entry, _), score)| entry.label != probe.label && **score >= cut)
                .map(|((_, who), score)| Pair { score: *score, probe: probes[at], sample: *who })
                .collect::<Vec<Pair>>()
        });
        pairs.extend(found.into_iter().flatten());
    }
    pairs.par_sort_unstable_by(|a, b| {
        b.score.total_cmp(&a.score).then((a.probe, a.sample).cmp(&(b.probe, b.sample)))
    });
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Session, Vectors};

    #[test]
    fn by_label_a_probe_meets_the_closest_sample_of_everybody() {
        // Along x at 1, 0.8 and 0.6; everything in the plane.
        let vectors = Vectors::new(2, vec![1.0, 0.0, 0.8, 0.6, 0.6, 0.8, 0.0, 1.0]).unwrap();
        let entry = |row, label| Entry { row, label };
        let session = Session {
            gallery: vec![entry(1, 7), entry(2, 9), entry(2, 7), entry(3, 9)],
            probes: vec![entry(0, 7)],
        };
        let trials = [Trial::new(&vectors, &session).unwrap()];
        let all = Scores::gather(&trials, &[], |label| label).unwrap();
        assert_eq!((all.genuine(), all.impostor()), (&[0.8, 0.6][..], &[0.6, 0.0][..]));
        let best = Scores::gather_by_label(&trials, &[], |label| label).unwrap();
        assert_eq!((best.genuine(), best.impostor()), (&[0.8][..], &[0.6][..]));
        assert_eq!(best.subjects(), Some(2));
        // A capture that is left out leaves the label with its other sample.
        let filtered = [trials[0].without_same_capture(&[1, 1, 2, 3]).unwrap()];
        let best = Scores::gather_by_label(&filtered, &[], |label| label).unwrap();
        assert_eq!(best.genuine(), [0.6]);
        let none = [trials[0].without_same_capture(&[1, 1, 1, 3]).unwrap()];
        let refused = Scores::gather_by_label(&none, &[], |label| label);
        assert!(matches!(refused, Err(EvaluationError::NoGenuine)));
    }

    #[test]
    fn comparisons_are_told_apart_by_label_and_what_failed_is_a_miss() {
        let vectors = Vectors::new(2, vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let entry = |(row, label): (usize, u64)| Entry { row, label };
        let session = Session {
            gallery: [(0, 1), (1, 2)].map(entry).to_vec(),
            probes: [(0, 1), (1, 1)].map(entry).to_vec(),
        };
        let trial = Trial::new(&vectors, &session).unwrap();
        let scores = Scores::gather(&[trial], &[2], |label| label).unwrap();
        assert_eq!((scores.genuine(), scores.impostor()), (&[1.0, 0.0][..], &[1.0, 0.0][..]));
        assert_eq!((scores.fnmr(0.5), scores.frr(0.5), scores.fmr(0.5)), (0.5, 2.0 / 3.0, 0.5));
        assert_eq!(scores.subjects(), Some(2));
        let filtered = trial.without_same_capture(&[5, 6]).unwrap();
        let scores = Scores::gather(&[filtered], &[], |label| label).unwrap();
        assert_eq!(scores.genuine(), [0.0], "the probe's own capture is no comparison");
        assert_eq!(scores.impostor(), [1.0, 0.0], "but for its own subject only");
    }

    #[test]
    fn a_session_without_one_kind_of_comparison_has_no_rates() {
        let vectors = Vectors::new(1, vec![1.0]).unwrap();
        let refused = |gallery: u64, probe: u64| {
            let entry = |label| vec![Entry { row: 0, label }];
            let session = Session { gallery: entry(gallery), probes: entry(probe) };
            Scores::gather(&[Trial::new(&vectors, &session).unwrap()], &[], |label| label).err()
        };
        assert_eq!(refused(1, 2), Some(EvaluationError::NoGenuine));
        assert_eq!(refused(1, 1), Some(EvaluationError::NoImpostor));
    }
}
