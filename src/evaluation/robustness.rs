//! What damage to pictures costs: the same probes asked again, at the threshold that was fixed on clean ones.

use serde::Serialize;

use super::{Bootstrap, EvaluationError, Interval, Paired, ProbeValue, Trial};

/// What became of one probe. Every condition asks the same probes in the same order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// Names the picture.
    pub probe: usize,
    /// Whose it is.
    pub subject: u64,
    /// `None` where nothing was compared: the quality gate refused the probe, or its subject's picture at
    /// enrolment.
    pub answer: Option<Answer>,
}

/// Where a probe found its subject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Rank of the first mate, from 1.
    pub rank: usize,
    /// Its similarity.
    pub similarity: f32,
}

/// Hits at rank 1 and misses at a threshold, run by run and probe by probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    hits: Vec<Vec<ProbeValue>>,
    misses: Vec<Vec<ProbeValue>>,
    refused: f64,
    fmr: Option<f64>,
}

/// A figure with its bootstrap interval over subjects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean of the runs.
    pub value: f64,
    /// `None` without replicates.
    pub interval: Option<Interval>,
}

/// Figures of one condition by itself. Shares, not percentages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Standing {
    /// Share of probes whose first candidate is right.
    pub rank1: Estimate,
    /// Share of probes below the threshold with their own subject. What was refused counts as a miss.
    pub fnmr: Estimate,
    /// Share of comparisons with others that reach the threshold; `None` where nothing was compared.
    pub fmr: Option<f64>,
    /// Share of probes for which nothing was compared.
    pub refused: f64,
}

/// A figure of a condition against the clean one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Under the condition, mean of the runs.
    pub value: f64,
    /// Minus that of clean pictures.
    pub change: f64,
    /// Of the change, paired by probe, over subjects; `None` without replicates.
    pub interval: Option<Interval>,
}

/// Figures of one condition against the clean one. Shares, not percentages; see [`Standing`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Damage {
    /// Rank-1.
    pub rank1: Change,
    /// FNMR with refusals as misses.
    pub fnmr: Change,
    /// FMR at the clean threshold.
    pub fmr: Option<f64>,
    /// Share of probes for which nothing was compared.
    pub refused: f64,
}

impl Tally {
    /// Counts at `threshold`: accepted is what is not below it. `fmr`: the share of false matches there.
    #[must_use]
    pub fn of(runs: &[Vec<Asked>], threshold: f32, fmr: Option<f64>) -> Self {
        let values = |of: &dyn Fn(Option<Answer>) -> bool| -> Vec<Vec<ProbeValue>> {
            let value = |asked: &Asked| ProbeValue {
                probe: asked.probe,
                subject: asked.subject,
                value: f64::from(u8::from(of(asked.answer))),
            };
            runs.iter().map(|run| run.iter().map(value).collect()).collect()
        };
        let asked = runs.iter().map(Vec::len).sum::<usize>().max(1);
        let refused = runs.iter().flatten().filter(|asked| asked.answer.is_none()).count();
        Self {
            hits: values(&|answer| answer.is_some_and(|answer| answer.rank == 1)),
            misses: values(&|answer| answer.is_none_or(|answer| answer.similarity < threshold)),
            refused: refused as f64 / asked as f64,
            fmr,
        }
    }

    /// Probe by probe the mean over conditions, each of the same weight; `None` for no condition.
    ///
    /// # Errors
    /// [`EvaluationError::NotPaired`] where they did not ask the same.
    pub fn mean(of: &[Self]) -> Result<Option<Self>, EvaluationError> {
        let Some((first, others)) = of.split_first() else { return Ok(None) };
        let mut mean = first.clone();
        let count = of.len() as f64;
        for other in others {
            let pairs = [(&mut mean.hits, &other.hits), (&mut mean.misses, &other.misses)];
            for (sum, values) in pairs {
                add(sum, values)?;
            }
            mean.refused += other.refused;
        }
        for value in mean.hits.iter_mut().chain(&mut mean.misses).flatten() {
            value.value /= count;
        }
        mean.refused /= count;
        let fmrs: Option<Vec<f64>> = of.iter().map(|tally| tally.fmr).collect();
        mean.fmr = fmrs.map(|fmrs| fmrs.iter().sum::<f64>() / count);
        Ok(Some(mean))
    }

    /// The figures by themselves.
    ///
    /// # Errors
    /// [`EvaluationError::NoSubjects`] without a probe.
    pub fn standing(&self, bootstrap: &Bootstrap) -> Result<Standing, EvaluationError> {
        let estimate = |values: &[Vec<ProbeValue>]| {
            let (value, interval) = bootstrap.mean(values)?;
            Ok::<_, EvaluationError>(Estimate { value, interval })
        };
        Ok(Standing {
            rank1: estimate(&self.hits)?,
            fnmr: estimate(&self.misses)?,
            fmr: self.fmr,
            refused: self.refused,
        })
    }

    /// The figures against those of clean pictures.
    ///
    /// # Errors
    /// [`EvaluationError::NotPaired`] where both did not ask the same, [`EvaluationError::NoSubjects`] without a
    /// probe.
    pub fn against(&self, clean: &Self, bootstrap: &Bootstrap) -> Result<Damage, EvaluationError> {
        let change = |with: &[Vec<ProbeValue>], without: &[Vec<ProbeValue>]| {
            let Paired { a, difference, interval, .. } = bootstrap.paired(with, without)?;
            Ok::<_, EvaluationError>(Change { value: a, change: difference, interval })
        };
        Ok(Damage {
            rank1: change(&self.hits, &clean.hits)?,
            fnmr: change(&self.misses, &clean.misses)?,
            fmr: self.fmr,
            refused: self.refused,
        })
    }
}

fn add(sum: &mut [Vec<ProbeValue>], values: &[Vec<ProbeValue>]) -> Result<(), EvaluationError> {
    if sum.len() != values.len() {
        return Err(EvaluationError::NotPaired { run: sum.len().min(values.len()) });
    }
    for (run, (sum, values)) in sum.iter_mut().zip(values).enumerate() {
        let same =
            |(a, b): (&ProbeValue, &ProbeValue)| (a.probe, a.subject) == (b.probe, b.subject);
        if sum.len() != values.len() || !sum.iter().zip(values).all(same) {
            return Err(EvaluationError::NotPaired { run });
        }
        sum.iter_mut().zip(values).for_each(|(sum, value)| sum.value += value.value);
    }
    Ok(())
}

/// The share of comparisons with other subjects that reach the threshold; `None` where there is none.
#[must_use]
pub fn false_match_share(trials: &[Trial<'_>], threshold: f32) -> Option<f64> {
    let (mut errors, mut comparisons) = (0_u64, 0_u64);
    for trial in trials {
        let counts = trial.each_probe(|at, similarities| {
            let label = trial.session.probes[at].label;
            let others = trial.session.gallery.iter().zip(similarities);
            others
                .filter(|(entry, _)| entry.label != label)
                .fold((0, 0), |(errors, all), (_, s)| {
                    (errors + u64::from(*s >= threshold), all + 1)
                })
        });
        for (wrong, all) in counts {
            errors += wrong;
            comparisons += all;
        }
    }
    (comparisons > 0).then(|| errors as f64 / comparisons as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Entry, Session, Vectors};

    fn asked(answers: &[Option<(usize, f32)>]) -> Vec<Asked> {
        let answer = |(rank, similarity)| Answer { rank, similarity };
        answers
            .iter()
            .enumerate()
            .map(|(probe, a)| Asked { probe, subject: probe as u64 / 2, answer: a.map(answer) })
            .collect()
    }

    const FEW: Bootstrap = Bootstrap { replicates: 200, level: 0.95, seed: 3 };

    #[test]
    fn figures_equal_those_worked_by_hand() {
        let clean = [asked(&[Some((1, 0.9)), Some((1, 0.5)), Some((2, 0.75)), Some((1, 0.8))])];
        // The first is refused, the second lies on the threshold, the third is found, the fourth lost.
        let worse = [asked(&[None, Some((1, 0.75)), Some((1, 0.76)), Some((3, 0.1))])];
        let clean = Tally::of(&clean, 0.75, Some(0.25));
        let worse = Tally::of(&worse, 0.75, Some(0.5));
        let standing = clean.standing(&FEW).unwrap();
        assert_eq!((standing.rank1.value, standing.fnmr.value), (0.75, 0.25));
        assert_eq!((standing.refused, standing.fmr), (0.0, Some(0.25)));
        let damage = worse.against(&clean, &FEW).unwrap();
        assert_eq!((damage.rank1.value, damage.rank1.change), (0.5, -0.25));
        assert_eq!((damage.fnmr.value, damage.fnmr.change), (0.5, 0.25));
        assert_eq!((damage.refused, damage.fmr), (0.25, Some(0.5)));
        let interval = damage.rank1.interval.unwrap();
        // Subject 0 loses half of its hits, subject 1 none.
        assert_eq!((interval.low, interval.high), (-0.5, 0.0));
    }

    #[test]
    fn conditions_weigh_the_same_in_a_mean() {
        let a = Tally::of(&[asked(&[Some((1, 0.9)), Some((2, 0.9))])], 0.5, Some(0.5));
        let b = Tally::of(&[asked(&[Some((2, 0.9)), None])], 0.5, Some(0.0));
        let mean = Tally::mean(&[a.clone(), b.clone()]).unwrap().unwrap();
        let standing = mean.standing(&FEW).unwrap();
        assert_eq!((standing.rank1.value, standing.fnmr.value), (0.25, 0.25));
        assert_eq!((standing.refused, standing.fmr), (0.25, Some(0.25)));
        assert_eq!(Tally::mean(&[]), Ok(None));
        let other = Tally::of(&[asked(&[Some((1, 0.9))])], 0.5, None);
        assert_eq!(
            Tally::mean(&[a.clone(), other.clone()]),
            Err(EvaluationError::NotPaired { run: 0 })
        );
        assert!(matches!(a.against(&other, &FEW), Err(EvaluationError::NotPaired { run: 0 })));
        let unknown = Tally::mean(&[b, Tally { fmr: None, ..a }]).unwrap().unwrap();
        assert_eq!(unknown.fmr, None, "a share of nothing is not 0");
    }

    #[test]
    fn false_matches_are_counted_among_others_only() {
        let vectors = Vectors::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 1.0, 0.0]).unwrap();
        let entry = |row, label| Entry { row, label };
        let session = Session {
            gallery: vec![entry(0, 1), entry(1, 2)],
            probes: vec![entry(2, 1), entry(3, 1)],
        };
        let trials = [Trial::new(&vectors, &session).unwrap()];
        assert_eq!(false_match_share(&trials, 0.8), Some(0.5));
        assert_eq!(false_match_share(&trials, 0.9), Some(0.0));
        assert_eq!(false_match_share(&[], 0.9), None);
    }
}
