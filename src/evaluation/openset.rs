use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::support::claim_fpir;
use super::threshold::{Rate, accepted, smallest};
use super::{Bootstrap, EvaluationError, Interval, Paired, Ranking};

/// Searches of people who are enrolled and of people who are not.
///
/// Ranks count gallery samples; where every subject has one, as in the published protocols, they are
/// those of subjects.
#[derive(Debug, Clone)]
pub struct OpenSet {
    /// By similarity of the mate, descending.
    mated: Vec<Mated>,
    /// Similarities of the mates, in that order.
    mates: Vec<f32>,
    /// Highest similarities of the others, descending.
    non_mated: Vec<f32>,
    /// Whose they are, in that order.
    strangers: Vec<u32>,
    /// Whose mated probes failed before the search.
    lost: Vec<u32>,
    /// Who they are, ascending: the places that numbers of people stand for.
    people: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Mated {
    rank: usize,
    similarity: f32,
    person: u32,
}

/// The rates at the threshold for one target of FPIR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenSetPoint {
    /// FPIR asked for.
    pub target: f64,
    /// Rank within which a mate counts.
    pub rank: usize,
    /// The smallest score of all at which FPIR is at most the target.
    pub threshold: f32,
    /// Non-mated probes with a candidate that is not below the threshold.
    pub fpir: Rate,
    /// Mated probes whose mate is not within the rank or is below the threshold, and those that failed.
    pub fnir: Rate,
    /// 1 - FNIR.
    pub tpir: f64,
    /// Interval of FNIR when every replicate sets its own threshold for the target.
    pub fnir_at_target: Option<Interval>,
    /// Why the target cannot be claimed on so many subjects that are not enrolled; nothing where it can.
    pub refused: Option<String>,
}

impl OpenSet {
    /// Pools rankings: their outcomes are the mated probes, their strangers the non-mated ones.
    ///
    /// lost: the label of every mated probe that failed before the search, or whose subject failed to be
    /// enrolled: misses. person: who is behind a label, as in [`super::Scores::gather`].
    ///
    /// # Errors
    /// [`EvaluationError::NoMated`] or [`EvaluationError::NoNonMated`].
    pub fn of(
        rankings: &[Ranking],
        lost: &[u64],
        person: impl Fn(u64) -> u64,
    ) -> Result<Self, EvaluationError> {
        let mated = rankings.iter().flat_map(|ranking| &ranking.outcomes);
        let strangers = rankings.iter().flat_map(|ranking| &ranking.strangers);
        let labels = mated.clone().map(|outcome| outcome.label);
        let labels = labels.chain(strangers.clone().map(|stranger| stranger.label));
        let names: BTreeSet<u64> = labels.chain(lost.iter().copied()).map(&person).collect();
        let names: Vec<u64> = names.into_iter().collect();
        let number = |label: u64| {
            let name = person(label);
            names.partition_point(|other| *other < name) as u32
        };
        let mut mated: Vec<Mated> = mated
            .map(|outcome| Mated {
                rank: outcome.rank,
                similarity: outcome.similarity,
                person: number(outcome.label),
            })
            .collect();
        mated.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        let mut others: Vec<(f32, u32)> = strangers
            .filter_map(|stranger| Some((stranger.similarity?, number(stranger.label))))
            .collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (non_mated, strangers): (Vec<f32>, Vec<u32>) = others.into_iter().unzip();
        if mated.is_empty() {
            return Err(EvaluationError::NoMated);
        }
        if non_mated.is_empty() {
            return Err(EvaluationError::NoNonMated);
        }
        Ok(Self {
            mates: mated.iter().map(|mated| mated.similarity).collect(),
            mated,
            non_mated,
            strangers,
            lost: lost.iter().map(|label| number(*label)).collect(),
            people: names,
        })
    }

    /// Mated probes searched for.
    #[must_use]
    pub fn mated(&self) -> u64 {
        self.mated.len() as u64
    }

    /// Mated probes, those that failed before the search included.
    #[must_use]
    pub fn asked(&self) -> u64 {
        (self.mated.len() + self.lost.len()) as u64
    }

    /// Non-mated probes searched for.
    #[must_use]
    pub fn non_mated(&self) -> u64 {
        self.non_mated.len() as u64
    }

    /// People among the non-mated probes.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers.iter().collect::<BTreeSet<_>>().len() as u64
    }

    /// False positive identification rate: non-mated probes with any candidate that is not below `t`.
    #[must_use]
    pub fn fpir(&self, t: f32) -> f64 {
        accepted(&self.non_mated, t) as f64 / self.non_mated.len() as f64
    }

    /// False negative identification rate: mated probes whose mate is not within `rank` or is below `t`. A
    /// mated probe that failed before the search is one.
    #[must_use]
    pub fn fnir(&self, rank: usize, t: f32) -> f64 {
        self.misses(rank, t) as f64 / (self.mated.len() + self.lost.len()) as f64
    }

    /// The smallest score of all, of mates and of strangers, at which FPIR is at most `target`; where no score
    /// is high enough, the next number above the highest.
    #[must_use]
    pub fn threshold_at_fpir(&self, target: f64) -> f32 {
        smallest(&self.non_mated, &self.mates, target)
    }

    /// The rates at the threshold for `target`, a mate within `rank` counting.
    #[must_use]
    pub fn point(&self, target: f64, rank: usize, bootstrap: &Bootstrap) -> OpenSetPoint {
        let threshold = self.threshold_at_fpir(target);
        let all = (self.mated.len() + self.lost.len()) as u64;
        let level = bootstrap.level;
        let mut fpir = Rate::of(accepted(&self.non_mated, threshold), self.non_mated(), level);
        let mut fnir = Rate::of(self.misses(rank, threshold), all, level);
        let replicates = bootstrap.replicates(self.people.len(), |weights| {
            self.replicate(weights, target, rank, threshold)
        });
        let of = |value: fn(&[Option<f64>; 3]) -> Option<f64>| {
            let values: Vec<f64> = replicates.iter().filter_map(value).collect();
            (10 * values.len() >= 9 * replicates.len())
                .then(|| Interval::percentile(values, level))?
        };
        fpir.by_subject = of(|replicate| replicate[0]);
        fnir.by_subject = of(|replicate| replicate[1]);
        OpenSetPoint {
            target,
            rank,
            threshold,
            fpir,
            fnir,
            tpir: 1.0 - fnir.value,
            fnir_at_target: of(|replicate| replicate[2]),
            refused: claim_fpir(target, self.strangers()).err().map(|refused| refused.to_string()),
        }
    }

    /// FNIR of two systems that searched for the same people, each at its own threshold for `target`. Every
    /// replicate draws people once for both, those who are enrolled and those who are not, and sets both
    /// thresholds anew: a threshold is as uncertain as what is missed at it.
    ///
    /// No interval where a tenth of the replicates has nobody to tell a rate of.
    #[must_use]
    pub fn paired(&self, other: &Self, target: f64, rank: usize, bootstrap: &Bootstrap) -> Paired {
        let everybody: BTreeSet<u64> = self.people.iter().chain(&other.people).copied().collect();
        let everybody: Vec<u64> = everybody.into_iter().collect();
        let places = |of: &Self| -> Vec<usize> {
            of.people.iter().map(|who| everybody.partition_point(|name| name < who)).collect()
        };
        let sides = [(self, places(self)), (other, places(other))];
        let [a, b] = [self, other].map(|of| of.fnir(rank, of.threshold_at_fpir(target)));
        let replicates = bootstrap.replicates(everybody.len(), |weights| {
            let [a, b] = sides.each_ref().map(|(of, places)| {
                let own: Vec<f64> = places.iter().map(|place| weights[*place]).collect();
                of.replicate(&own, target, rank, f32::INFINITY)[2]
            });
            Some(a? - b?)
        });
        let drawn = replicates.len();
        let mut differences: Vec<f64> = replicates.into_iter().flatten().collect();
        if 10 * differences.len() < 9 * drawn {
            differences.clear();
        }
        Paired::of((a, b), differences, bootstrap.level)
    }

    fn misses(&self, rank: usize, t: f32) -> u64 {
        let missed = |mated: &&Mated| mated.rank > rank || mated.similarity < t;
        (self.mated.iter().filter(missed).count() + self.lost.len()) as u64
    }

    /// FPIR and FNIR at `threshold`, and FNIR at the replicate's own threshold.
    fn replicate(
        &self,
        weights: &[f64],
        target: f64,
        rank: usize,
        threshold: f32,
    ) -> [Option<f64>; 3] {
        let weight = |who: &u32| weights[*who as usize];
        let strangers: f64 = self.strangers.iter().map(weight).sum();
        let lost: f64 = self.lost.iter().map(weight).sum();
        let all = lost + self.mated.iter().map(|mated| weight(&mated.person)).sum::<f64>();
        let fnir = |missed: &dyn Fn(f32) -> bool| {
            let misses = self.mated.iter().filter(|m| m.rank > rank || missed(m.similarity));
            let misses: f64 = misses.map(|mated| weight(&mated.person)).sum();
            (all > 0.0).then(|| (misses + lost) / all)
        };
        let (mut false_positives, mut at) = (0.0, 0);
        let mut critical = None;
        // Ties pass as a whole or not.
        while let Some(score) = self.non_mated.get(at).copied().filter(|_| critical.is_none()) {
            while self.non_mated.get(at) == Some(&score) {
                false_positives += weight(&self.strangers[at]);
                at += 1;
            }
            if false_positives / strangers > target {
                critical = Some(score);
            }
        }
        let own = match critical {
            Some(score) => fnir(&|similarity| similarity <= score),
            None => fnir(&|_| false),
        };
        let accepted = accepted(&self.non_mated, threshold) as usize;
        let fpir: f64 = self.strangers[..accepted].iter().map(weight).sum();
        let any = strangers > 0.0;
        [
            any.then(|| fpir / strangers),
            fnir(&|similarity| similarity < threshold),
            any.then_some(own).flatten(),
        ]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Outcome, Stranger};
    use super::*;

    pub(in super::super) fn ranking(mated: &[(usize, f32)], strangers: &[f32]) -> Ranking {
        let outcome = |(probe, (rank, similarity)): (usize, &(usize, f32))| Outcome {
            probe,
            row: probe,
            label: probe as u64,
            mates: 1,
            rank: *rank,
            similarity: *similarity,
            average_precision: 1.0,
            average_precision_trapezoid: 1.0,
            inverse_negative_penalty: 1.0,
        };
        let stranger = |(probe, similarity): (usize, &f32)| Stranger {
            probe,
            row: probe,
            label: 1000 + probe as u64,
            similarity: Some(*similarity),
        };
        Ranking {
            outcomes: mated.iter().enumerate().map(outcome).collect(),
            strangers: strangers.iter().enumerate().map(stranger).collect(),
            gallery: 10,
        }
    }

    #[test]
    fn rates_equal_those_worked_by_hand() {
        let mated = [(1, 0.75), (2, 0.875), (1, 0.25), (1, 0.5)];
        let ranking = ranking(&mated, &[0.625, 0.375, 0.125, 0.0]);
        let open = OpenSet::of(std::slice::from_ref(&ranking), &[], |label| label).unwrap();
        assert_eq!((open.fpir(0.375), open.fpir(0.376)), (0.5, 0.25));
        assert_eq!((open.fnir(1, 0.25), open.fnir(2, 0.25), open.fnir(1, 0.376)), (0.25, 0.0, 0.5));
        assert_eq!(open.threshold_at_fpir(0.25), 0.5, "the mate's score above the stranger's");
        let point = open.point(0.25, 1, &Bootstrap::default());
        assert_eq!((point.fpir.value, point.fnir.value, point.tpir), (0.25, 0.5, 0.5));
        let (by_subject, own) = (point.fnir.by_subject.unwrap(), point.fnir_at_target.unwrap());
        assert!(by_subject.low < 0.5 && by_subject.high > 0.5 && own.high >= 0.5);
        assert!(point.refused.unwrap().contains("4 subjects without a mate"));
        let failed = OpenSet::of(&[ranking], &[2], |label| label).unwrap();
        assert_eq!(failed.fnir(1, 0.376), 0.6, "the failed probe is a miss");
    }

    #[test]
    fn a_difference_is_as_uncertain_as_the_thresholds_that_it_is_taken_at() {
        let of = |strangers: &[f32]| {
            let mated: Vec<(usize, f32)> = vec![(1, 0.5); 10];
            OpenSet::of(&[ranking(&mated, strangers)], &[], |label| label).unwrap()
        };
        let plain = of(&[0.25; 10]);
        // One of ten may pass at 0.1. Where that one is drawn twice, the threshold is above every mate.
        let close = of(&[0.75, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]);
        let bootstrap = Bootstrap { replicates: 500, ..Bootstrap::default() };
        let paired = close.paired(&plain, 0.1, 1, &bootstrap);
        assert_eq!((paired.a, paired.b, paired.difference), (0.0, 0.0, 0.0));
        let interval = paired.interval.unwrap();
        assert_eq!((interval.low, interval.high), (0.0, 1.0));
        let turned = plain.paired(&close, 0.1, 1, &bootstrap).interval.unwrap();
        assert_eq!((turned.low, turned.high), (-1.0, 0.0), "both sides meet the same people");
        let same = close.paired(&close, 0.1, 1, &bootstrap).interval.unwrap();
        assert_eq!((same.low, same.high), (0.0, 0.0));
        let none = Bootstrap { replicates: 0, ..bootstrap };
        assert_eq!(close.paired(&plain, 0.1, 1, &none).interval, None);
    }

    #[test]
    fn two_systems_are_drawn_the_same_people_whoever_took_part_in_each() {
        let mut one = ranking(&[(1, 0.5), (2, 0.5), (1, 0.5), (2, 0.5)], &[0.25; 4]);
        one.outcomes.iter_mut().for_each(|outcome| outcome.label += 10);
        let mut other = one.clone();
        // One who only the second was asked about, and who comes before all others.
        other.strangers.push(Stranger { label: 5, ..other.strangers[0] });
        let of = |ranking: Ranking| OpenSet::of(&[ranking], &[], |label| label).unwrap();
        let (one, other) = (of(one), of(other));
        assert_eq!((one.people.len(), other.people.len()), (8, 9));
        let paired = one.paired(&other, 0.1, 1, &Bootstrap::default());
        let interval = paired.interval.unwrap();
        assert_eq!((paired.a, paired.b), (0.5, 0.5));
        assert_eq!((interval.low, interval.high), (0.0, 0.0), "misses of the same people");
    }

    #[test]
    fn both_kinds_of_probe_are_needed() {
        let refused = |mated: &[(usize, f32)], strangers: &[f32]| {
            OpenSet::of(&[ranking(mated, strangers)], &[], |label| label).err()
        };
        assert_eq!(refused(&[], &[0.5]), Some(EvaluationError::NoMated));
        assert_eq!(refused(&[(1, 0.5)], &[]), Some(EvaluationError::NoNonMated));
    }

    #[test]
    fn a_replicate_is_what_copying_people_gives() {
        let mated = [(1, 0.75), (2, 0.875), (1, 0.25), (1, 0.375)];
        let open = OpenSet::of(&[ranking(&mated, &[0.625, 0.375, 0.375, 0.0])], &[3], |label| {
            label % 1000
        })
        .unwrap();
        // Persons 0 to 3 are both mated and strangers here. 0 twice, 1 never, 2 once, 3 once.
        let got = open.replicate(&[2.0, 0.0, 1.0, 1.0], 0.5, 1, 0.5);
        // Strangers 0.625 twice, 0.375, 0.0; mated 0.75 twice, 0.25, 0.375, and one lost. The stranger at
        // 0.375 must not pass, so the mate there does not either.
        let want = [2.0 / 4.0, 3.0 / 5.0, 3.0 / 5.0];
        assert_eq!(got.map(Option::unwrap), want);
        assert_eq!(open.replicate(&[0.0; 4], 0.5, 1, 0.5), [None; 3]);
    }
}
