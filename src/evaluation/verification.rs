use serde::{Deserialize, Serialize};

use super::people::{self, Asked, Replicate};
use super::support::{claim_fmr, lowest_fmr};
use super::threshold::{Rate, accepted};
use super::{Bootstrap, Interval, Scores};

/// One point of the detection error trade-off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DetPoint {
    /// Accepted is what is not below it.
    pub threshold: f32,
    /// False match rate.
    pub fmr: f64,
    /// False non-match rate.
    pub fnmr: f64,
}

/// The equal error rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Eer {
    /// Where the curve through all points (FMR, FNMR), joined by straight lines, meets FMR = FNMR. This is
    /// what scikit-learn's `roc_curve` with a root finder gives. `bob.measure.eer` gives the mean of both
    /// rates at the threshold where they differ least.
    pub rate: f64,
    /// The smallest score at which FNMR is not below FMR.
    pub threshold: f32,
    /// FMR there.
    pub fmr: f64,
    /// FNMR there.
    pub fnmr: f64,
    /// Of the rate, by the bootstrap over subjects, where subjects are known.
    pub by_subject: Option<Interval>,
}

/// The rates at the threshold for one target of FMR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// FMR asked for.
    pub target: f64,
    /// The smallest score of all at which FMR is at most the target.
    pub threshold: f32,
    /// False matches among impostor comparisons.
    pub fmr: Rate,
    /// False non-matches among the genuine comparisons made.
    pub fnmr: Rate,
    /// The same, with comparisons that never took place counted as misses.
    pub frr: Rate,
    /// Interval of FNMR when every replicate sets its own threshold for the target.
    pub fnmr_at_target: Option<Interval>,
    /// Why the target cannot be claimed on so many subjects; nothing where it can, or where subjects are
    /// not known.
    pub refused: Option<String>,
}

/// Verification figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerificationFigures {
    /// Subjects; nothing where they are not known.
    pub subjects: Option<u64>,
    /// Genuine comparisons made.
    pub genuine: u64,
    /// Impostor comparisons made.
    pub impostor: u64,
    /// Genuine comparisons that never took place, as a sample failed.
    pub lost: u64,
    /// Lowest FMR that the subjects support.
    pub lowest_fmr: Option<f64>,
    /// Equal error rate.
    pub eer: Eer,
    /// One for each target.
    pub points: Vec<OperatingPoint>,
}

impl Scores {
    /// The equal error rate.
    #[must_use]
    pub fn eer(&self) -> Eer {
        let crossed = |t: f32| self.fnmr(t) >= self.fmr(t);
        // Both lists descend and the test turns false once, so the last score that passes is the smallest.
        let smallest = |scores: &[f32]| {
            let end = scores.partition_point(|t| crossed(*t));
            end.checked_sub(1).map(|at| scores[at])
        };
        let found = [smallest(&self.genuine), smallest(&self.impostor)];
        let highest = self.genuine[0].max(self.impostor[0]);
        let threshold =
            found.into_iter().flatten().reduce(f32::min).unwrap_or_else(|| highest.next_up());
        let below =
            |scores: &[f32]| scores.get(scores.partition_point(|t| *t >= threshold)).copied();
        let (fmr, fnmr) = (self.fmr(threshold), self.fnmr(threshold));
        let next = [below(&self.genuine), below(&self.impostor)];
        let rate = match next.into_iter().flatten().reduce(f32::max) {
            Some(t) => people::crossing((fmr, fnmr), (self.fmr(t), self.fnmr(t))),
            None => fmr,
        };
        Eer { rate, threshold, fmr, fnmr, by_subject: None }
    }

    /// The curve, thinned to at most `points` (at least 4): all thresholds where they are few, and else those
    /// that lie evenly on logarithmic axes of FMR and of FNMR. By ascending threshold, from everything
    /// accepted to nothing accepted.
    #[must_use]
    pub fn det(&self, points: usize) -> Vec<DetPoint> {
        let highest = self.genuine[0].max(self.impostor[0]);
        let mut thresholds = self.distinct(points.saturating_sub(1)).unwrap_or_else(|| {
            let each = points.saturating_sub(2) / 2;
            let mut some = evenly(&self.impostor, each, false);
            some.extend(evenly(&self.genuine, each, true));
            let lowest = |scores: &[f32]| scores[scores.len() - 1];
            some.push(lowest(&self.genuine).min(lowest(&self.impostor)));
            some
        });
        thresholds.push(highest.next_up());
        thresholds.sort_unstable_by(f32::total_cmp);
        thresholds.dedup();
        let point = |threshold| DetPoint {
            threshold,
            fmr: self.fmr(threshold),
            fnmr: self.fnmr(threshold),
        };
        thresholds.into_iter().map(point).collect()
    }

    /// All different scores, or `None` where they are more than `most`.
    fn distinct(&self, most: usize) -> Option<Vec<f32>> {
        let mut found = Vec::new();
        for scores in [&self.genuine, &self.impostor] {
            let mut rest = scores.as_slice();
            while let Some(score) = rest.first() {
                found.push(*score);
                if found.len() > 2 * most {
                    return None;
                }
                rest = &rest[rest.partition_point(|other| other >= score)..];
            }
        }
        found.sort_unstable_by(f32::total_cmp);
        found.dedup();
        (found.len() <= most).then_some(found)
    }

    /// All figures, with a point for each target of FMR.
    #[must_use]
    pub fn figures(&self, targets: &[f64], bootstrap: &Bootstrap) -> VerificationFigures {
        let thresholds: Vec<f32> = targets.iter().map(|t| self.threshold_at_fmr(*t)).collect();
        let level = bootstrap.level;
        let (genuine, impostor) = (self.genuine.len() as u64, self.impostor.len() as u64);
        let subjects = self.subjects();
        let mut points: Vec<OperatingPoint> = targets
            .iter()
            .zip(&thresholds)
            .map(|(&target, &threshold)| {
                let rejected = self.rejected(threshold);
                OperatingPoint {
                    target,
                    threshold,
                    fmr: Rate::of(accepted(&self.impostor, threshold), impostor, level),
                    fnmr: Rate::of(rejected, genuine, level),
                    frr: Rate::of(rejected + self.lost, genuine + self.lost, level),
                    fnmr_at_target: None,
                    refused: subjects
                        .and_then(|subjects| claim_fmr(target, subjects).err())
                        .map(|refused| refused.to_string()),
                }
            })
            .collect();
        let mut eer = self.eer();
        if let Some(people) = &self.people {
            let asked = Asked { targets, thresholds: &thresholds };
            let replicates = bootstrap.replicates(people.count, |weights| {
                people::replicate(self, people, weights, &asked)
            });
            let of =
                |value: &dyn Fn(&Replicate) -> Option<f64>| interval(&replicates, level, value);
            eer.by_subject = of(&|replicate| replicate.eer);
            for (at, point) in points.iter_mut().enumerate() {
                point.fmr.by_subject = of(&|replicate| replicate.points[at].fmr);
                point.fnmr.by_subject = of(&|replicate| replicate.points[at].fnmr);
                point.frr.by_subject = of(&|replicate| replicate.points[at].frr);
                point.fnmr_at_target = of(&|replicate| replicate.points[at].fnmr_at_target);
            }
        }
        let lowest_fmr = subjects.map(lowest_fmr);
        VerificationFigures {
            subjects,
            genuine,
            impostor,
            lost: self.lost,
            lowest_fmr,
            eer,
            points,
        }
    }
}

/// The interval of a figure, where at least nine replicates in ten could tell it: what is left out of the
/// others is not left out at random.
fn interval(
    replicates: &[Replicate],
    level: f64,
    value: &dyn Fn(&Replicate) -> Option<f64>,
) -> Option<Interval> {
    let values: Vec<f64> = replicates.iter().filter_map(value).collect();
    (10 * values.len() >= 9 * replicates.len()).then(|| Interval::percentile(values, level))?
}

/// `count` of descending scores whose places lie evenly on a logarithmic axis, from the end that
/// is rare: the lowest (`from_below`) or the highest.
fn evenly(scores: &[f32], count: usize, from_below: bool) -> Vec<f32> {
    let last = scores.len() - 1;
    let place = |step: usize| {
        let share = step as f64 / count.saturating_sub(1).max(1) as f64;
        let place = ((scores.len() as f64).powf(share) - 1.0).round() as usize;
        place.min(last)
    };
    (0..count)
        .map(|step| if from_below { scores[last - place(step)] } else { scores[place(step)] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::EvaluationError;
    use super::*;

    fn scores(genuine: &[f32], impostor: &[f32]) -> Scores {
        Scores::from_scores(genuine.to_vec(), impostor.to_vec()).unwrap()
    }

    #[test]
    fn rates_count_ties_against_the_system() {
        let scores = scores(&[0.375, 0.875, 0.125, 0.625], &[0.25, 0.75, 0.0, 0.5]);
        assert_eq!((scores.fmr(0.5), scores.fnmr(0.5)), (0.5, 0.5));
        assert_eq!((scores.fmr(0.75), scores.fnmr(0.625)), (0.25, 0.5));
        assert_eq!((scores.fmr(f32::MIN), scores.fnmr(2.0)), (1.0, 1.0));
    }

    #[test]
    fn the_equal_error_rate_equals_that_worked_by_hand() {
        let on_a_score = scores(&[0.375, 0.875, 0.125, 0.625], &[0.25, 0.75, 0.0, 0.5]).eer();
        assert_eq!((on_a_score.rate, on_a_score.threshold), (0.5, 0.5));
        // From (1/4, 0) at 0.25 straight up to (1/4, 1/2) at 0.5.
        let upright = scores(&[0.75, 0.25], &[0.5, 0.0, 0.0, 0.0]).eer();
        assert_eq!((upright.rate, upright.threshold, upright.fnmr), (0.25, 0.5, 0.5));
        // Genuine and impostor tie: from (1/2, 0) aslant to (0, 1), above every score.
        let aslant = scores(&[0.5, 0.5], &[0.5, 0.0]).eer();
        assert!((aslant.rate - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(aslant.threshold, 0.5_f32.next_up());
        let apart = scores(&[0.75, 0.5], &[0.25, 0.0]).eer();
        assert_eq!((apart.rate, apart.fmr, apart.fnmr), (0.0, 0.0, 0.0));
        let upside_down = scores(&[0.25, 0.0], &[0.75, 0.5]).eer();
        assert_eq!(upside_down.rate, 1.0);
    }

    #[test]
    fn the_curve_runs_from_everything_accepted_to_nothing() {
        let genuine: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.7).sin() * 0.3 + 0.4).collect();
        let impostor: Vec<f32> = (0..9000).map(|i| (i as f32 * 0.3).cos() * 0.4).collect();
        let scores = scores(&genuine, &impostor);
        let thinned = scores.det(500);
        assert!(thinned.len() > 200 && thinned.len() <= 500, "{}", thinned.len());
        let (first, last) = (thinned[0], thinned[thinned.len() - 1]);
        assert_eq!((first.fmr, first.fnmr, last.fmr, last.fnmr), (1.0, 0.0, 0.0, 1.0));
        assert!(thinned.is_sorted_by(|a, b| a.fmr >= b.fmr && a.fnmr <= b.fnmr));
        let rare = thinned.iter().filter(|point| point.fmr > 0.0 && point.fmr < 0.01).count();
        assert!(rare > 20, "the rare false matches have their points: {rare}");
        let whole = super::tests::scores(&[0.5, 0.25], &[0.25, 0.0]).det(500);
        let points: Vec<(f64, f64)> = whole.iter().map(|point| (point.fmr, point.fnmr)).collect();
        assert_eq!(points, [(1.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 1.0)]);
    }

    #[test]
    fn scores_without_people_have_exact_intervals_only() {
        let scores = scores(&[0.75, 0.25, 0.5, 0.875], &[0.5, 0.0, 0.125, 0.25]);
        let figures = scores.figures(&[0.25, 0.0], &Bootstrap::default());
        let point = &figures.points[0];
        assert_eq!((point.threshold, point.fmr.errors, point.fnmr.errors), (0.5, 1, 1));
        assert_eq!((point.fnmr.value, point.fnmr.trials), (0.25, 4));
        assert_eq!(figures.points[1].threshold, 0.75);
        assert!(point.fmr.exact.low < 0.25 && point.fmr.exact.high > 0.25);
        assert_eq!(
            (point.fnmr.by_subject, &point.refused, figures.lowest_fmr),
            (None, &None, None)
        );
        let refused = |genuine, impostor| Scores::from_scores(genuine, impostor).err();
        assert_eq!(refused(vec![], vec![0.0]), Some(EvaluationError::NoGenuine));
        assert_eq!(refused(vec![0.0], vec![]), Some(EvaluationError::NoImpostor));
        assert_eq!(refused(vec![0.0], vec![f32::NAN]), Some(EvaluationError::NotANumber));
    }
}
