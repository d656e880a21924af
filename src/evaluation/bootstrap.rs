use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{EvaluationError, Interval, Outcome, Ranking};

/// Resampling of subjects with replacement: a subject that is drawn brings all of its probes along, so
/// what a subject's probes have in common is not taken for evidence. Percentile intervals.
///
/// Replicate r draws from stream r of the seed, so results do not depend on the number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Replicates; 0 for no interval.
    pub replicates: usize,
    /// Share of intervals that hold the truth.
    pub level: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { replicates: 2000, level: 0.95, seed: 0 }
    }
}

/// What one probe of one run scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbeValue {
    /// Place among the session's probes.
    pub probe: usize,
    /// The subject that is resampled.
    pub subject: u64,
    /// The score, as 1 for a hit at rank 1, or an average precision.
    pub value: f64,
}

/// Two systems on identical probes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The first one's mean of run means.
    pub a: f64,
    /// The second one's.
    pub b: f64,
    /// a - b.
    pub difference: f64,
    /// Of the difference; `None` without replicates.
    pub interval: Option<Interval>,
    /// Two-sided: twice the smaller share of replicates at or beyond 0 on either side, each counted with
    /// one more that is (so it is never 0), at most 1. `None` without replicates.
    pub p: Option<f64>,
}

impl Ranking {
    /// A value of every probe that has a mate, for the bootstrap.
    #[must_use]
    pub fn values(&self, of: impl Fn(&Outcome) -> f64) -> Vec<ProbeValue> {
        let value = |outcome: &Outcome| ProbeValue {
            probe: outcome.probe,
            subject: outcome.label,
            value: of(outcome),
        };
        self.outcomes.iter().map(value).collect()
    }

    /// 1 for every probe whose first hit is at rank `k` or better, 0 for the others.
    #[must_use]
    pub fn hits(&self, k: usize) -> Vec<ProbeValue> {
        self.values(|outcome| f64::from(u8::from(outcome.rank <= k)))
    }
}

impl Paired {
    /// Two figures, and their differences by replicate.
    pub(super) fn of((a, b): (f64, f64), differences: Vec<f64>, level: f64) -> Self {
        let count = differences.len() as f64;
        let beyond = |test: fn(&f64) -> bool| differences.iter().filter(|d| test(d)).count() as f64;
        let smaller = beyond(|d| *d <= 0.0).min(beyond(|d| *d >= 0.0));
        let p = (count > 0.0).then(|| (2.0 * (smaller + 1.0) / (count + 1.0)).min(1.0));
        let interval = Interval::percentile(differences, level);
        Self { a, b, difference: a - b, interval, p }
    }
}

impl Bootstrap {
    /// The mean over runs of the mean over a run's probes, with its interval: the same subjects are drawn
    /// for all runs. No interval without replicates.
    ///
    /// # Errors
    /// [`EvaluationError::NoSubjects`] without a value.
    pub fn mean(
        &self,
        runs: &[Vec<ProbeValue>],
    ) -> Result<(f64, Option<Interval>), EvaluationError> {
        let sums = Sums::of(runs)?;
        let replicates = self.replicates(sums.subjects, |weights| sums.mean(weights));
        let replicates: Vec<f64> = replicates.into_iter().flatten().collect();
        let mean = sums.mean(&vec![1.0; sums.subjects]).ok_or(EvaluationError::NoSubjects)?;
        Ok((mean, Interval::percentile(replicates, self.level)))
    }

    /// The difference of two systems that were asked the same: run by run the same probes of the same
    /// subjects in the same order. Both get the same resample.
    ///
    /// # Errors
    /// [`EvaluationError::NotPaired`], or [`EvaluationError::NoSubjects`] without a value.
    pub fn paired(
        &self,
        a: &[Vec<ProbeValue>],
        b: &[Vec<ProbeValue>],
    ) -> Result<Paired, EvaluationError> {
        let asked = |values: &Vec<ProbeValue>| -> Vec<(usize, u64)> {
            values.iter().map(|value| (value.probe, value.subject)).collect()
        };
        let differs = |run: &usize| {
            a.get(*run).map(asked).is_none() || a.get(*run).map(asked) != b.get(*run).map(asked)
        };
        if let Some(run) = (0..a.len().max(b.len())).find(differs) {
            return Err(EvaluationError::NotPaired { run });
        }
        let (first, second) = (Sums::of(a)?, Sums::of(b)?);
        let both = |weights: &[f64]| Some((first.mean(weights)?, second.mean(weights)?));
        let all = vec![1.0; first.subjects];
        let (a, b) = both(&all).ok_or(EvaluationError::NoSubjects)?;
        let differences: Vec<f64> = self
            .replicates(first.subjects, |weights| both(weights).map(|(a, b)| a - b))
            .into_iter()
            .flatten()
            .collect();
        Ok(Paired::of((a, b), differences, self.level))
    }

    /// Calls `f` with how often each of `subjects` was drawn, replicate after replicate.
    pub(super) fn replicates<R: Send>(
        &self,
        subjects: usize,
        f: impl Fn(&[f64]) -> R + Sync,
    ) -> Vec<R> {
        (0..self.replicates)
            .into_par_iter()
            .map_init(
                || vec![0.0; subjects],
                |weights, replicate| {
                    let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                    rng.set_stream(replicate as u64);
                    weights.fill(0.0);
                    for _ in 0..subjects {
                        weights[rng.random_range(0..subjects)] += 1.0;
                    }
                    f(weights)
                },
            )
            .collect()
    }
}

/// Run by run, what every subject's probes sum up to, and how many they are.
struct Sums {
    subjects: usize,
    runs: Vec<Vec<(f64, f64)>>,
}

impl Sums {
    fn of(runs: &[Vec<ProbeValue>]) -> Result<Self, EvaluationError> {
        let names: BTreeSet<u64> = runs.iter().flatten().map(|value| value.subject).collect();
        let names: Vec<u64> = names.into_iter().collect();
        if names.is_empty() {
            return Err(EvaluationError::NoSubjects);
        }
        let sum = |run: &Vec<ProbeValue>| {
            let mut sums = vec![(0.0, 0.0); names.len()];
            for value in run {
                let at = names.partition_point(|name| *name < value.subject);
                sums[at].0 += value.value;
                sums[at].1 += 1.0;
            }
            sums
        };
        Ok(Self { subjects: names.len(), runs: runs.iter().map(sum).collect() })
    }

    /// Mean over the runs in which any of the drawn subjects has a probe; `None` where there is none.
    fn mean(&self, weights: &[f64]) -> Option<f64> {
        let (mut total, mut runs) = (0.0, 0.0);
        for run in &self.runs {
            let (mut sum, mut count) = (0.0, 0.0);
            for ((own, probes), weight) in run.iter().zip(weights) {
                sum += weight * own;
                count += weight * probes;
            }
            if count > 0.0 {
                total += sum / count;
                runs += 1.0;
            }
        }
        (runs > 0.0).then(|| total / runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `subjects` of `probes` probes each; all of a subject's have one value.
    fn run(subjects: u64, probes: usize, value: impl Fn(u64) -> f64) -> Vec<ProbeValue> {
        let each = |subject: u64| (0..probes).map(move |_| subject);
        (0..subjects)
            .flat_map(each)
            .enumerate()
            .map(|(probe, subject)| ProbeValue { probe, subject, value: value(subject) })
            .collect()
    }

    #[test]
    fn probes_of_one_subject_are_no_evidence_of_their_own() {
        let runs = [run(20, 50, |subject| (subject % 2) as f64)];
        let (mean, interval) = Bootstrap::default().mean(&runs).unwrap();
        let interval = interval.unwrap();
        assert_eq!(mean, 0.5);
        // Twice 1.96 standard errors of 20 coin flips; of 1,000 it would be 0.06.
        let width = interval.high - interval.low;
        assert!((width - 0.438).abs() < 0.08, "{width}");
    }

    #[test]
    fn a_mean_over_runs_is_the_mean_of_their_means() {
        let runs = [run(4, 1, |_| 1.0), run(4, 3, |subject| f64::from(subject == 0))];
        let (mean, interval) = Bootstrap::default().mean(&runs).unwrap();
        assert_eq!(mean, (1.0 + 0.25) / 2.0);
        assert!(interval.unwrap().low >= 0.5);
        let (_, none) = Bootstrap { replicates: 0, ..Bootstrap::default() }.mean(&runs).unwrap();
        assert_eq!(none, None);
        assert_eq!(Bootstrap::default().mean(&[Vec::new()]), Err(EvaluationError::NoSubjects));
    }

    #[test]
    fn the_seed_decides_and_the_number_of_threads_does_not() {
        let runs = [run(30, 2, |subject| (subject as f64 * 0.7).sin())];
        let on = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Bootstrap { seed, ..Bootstrap::default() }.mean(&runs).unwrap())
        };
        assert_eq!(on(1, 7), on(3, 7));
        assert_ne!(on(1, 7), on(1, 8));
    }

    #[test]
    fn a_difference_is_judged_on_the_same_resamples() {
        // The subjects differ much, the systems by little, but always the same way.
        let hard = |subject: u64| (subject as f64 * 0.7).sin();
        let (a, b) = ([run(30, 2, |s| hard(s) + 0.01)], [run(30, 2, hard)]);
        let bootstrap = Bootstrap::default();
        let paired = bootstrap.paired(&a, &b).unwrap();
        let interval = paired.interval.unwrap();
        assert!((paired.difference - 0.01).abs() < 1e-12);
        assert!(interval.low > 0.009 && interval.high < 0.011, "{interval:?}");
        assert_eq!(paired.p, Some(2.0 / 2001.0), "no replicate turns it round");
        let same = bootstrap.paired(&a, &a).unwrap();
        assert_eq!((same.difference, same.p), (0.0, Some(1.0)));
        // Without a difference in truth, zero lies inside.
        let mixed = [run(30, 2, |s| hard(s) + if s % 2 == 0 { 0.1 } else { -0.1 })];
        let mixed = bootstrap.paired(&mixed, &b).unwrap();
        assert!(mixed.p.unwrap() > 0.5 && mixed.interval.unwrap().low < 0.0);
    }

    #[test]
    fn systems_that_were_asked_otherwise_are_not_compared() {
        let runs = || vec![run(3, 2, |_| 0.5), run(3, 2, |_| 0.5)];
        let bootstrap = Bootstrap::default();
        let mut other = runs();
        other[1].pop();
        assert_eq!(bootstrap.paired(&runs(), &other), Err(EvaluationError::NotPaired { run: 1 }));
        other = runs();
        other[0][0].subject = 9;
        assert_eq!(bootstrap.paired(&runs(), &other), Err(EvaluationError::NotPaired { run: 0 }));
        other = runs();
        other.pop();
        assert_eq!(bootstrap.paired(&runs(), &other), Err(EvaluationError::NotPaired { run: 1 }));
        assert_eq!(bootstrap.paired(&[], &[]), Err(EvaluationError::NoSubjects));
    }
}
