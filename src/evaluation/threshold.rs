use serde::{Deserialize, Serialize};

use super::beta;

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Share of such intervals that hold the truth, as 0.95.
    pub level: f64,
}

/// Errors among comparisons or probes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Errors over trials; 0 without a trial.
    pub value: f64,
    /// Errors.
    pub errors: u64,
    /// What could have been one.
    pub trials: u64,
    /// Clopper and Pearson's exact interval, as if the trials were independent. They are not where a
    /// subject takes part in several: then it is too narrow, and `by_subject` is the one to quote.
    pub exact: Interval,
    /// Percentile interval of the bootstrap over subjects, where subjects are known.
    pub by_subject: Option<Interval>,
}

impl Rate {
    /// The rate with its exact interval at `level`.
    #[must_use]
    pub fn of(errors: u64, trials: u64, level: f64) -> Self {
        let exact = Interval::clopper_pearson(errors, trials, level);
        Self { value: share(errors, trials), errors, trials, exact, by_subject: None }
    }
}

impl Interval {
    /// The exact interval of a share: `errors` among `trials` independent ones, at most `trials`.
    #[must_use]
    pub fn clopper_pearson(errors: u64, trials: u64, level: f64) -> Self {
        let tail = (1.0 - level) / 2.0;
        let (k, n) = (errors as f64, trials as f64);
        // With no or only errors the beta quantile has a closed form.
        let low = match errors {
            0 => 0.0,
            _ if errors >= trials => tail.powf(1.0 / n),
            _ => beta::quantile(tail, k, n - k + 1.0),
        };
        let high = match errors {
            _ if errors >= trials => 1.0,
            0 => -(tail.ln() / n).exp_m1(),
            _ => beta::quantile(1.0 - tail, k + 1.0, n - k),
        };
        Self { low, high, level }
    }

    /// The percentile interval of replicates, by linear interpolation between neighbours; `None`
    /// without a replicate.
    pub(super) fn percentile(mut replicates: Vec<f64>, level: f64) -> Option<Self> {
        replicates.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (replicates.len() - 1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            replicates[below] + (replicates[above] - replicates[below]) * place.fract()
        };
        let tail = (1.0 - level) / 2.0;
        (!replicates.is_empty()).then(|| Self { low: at(tail), high: at(1.0 - tail), level })
    }
}

pub(super) fn share(errors: u64, trials: u64) -> f64 {
    if trials == 0 { 0.0 } else { errors as f64 / trials as f64 }
}

/// Most errors among `trials` whose share is not above `target`, by the very division that reports the
/// share.
pub(super) fn allowed(target: f64, trials: u64) -> u64 {
    let mut errors = ((target * trials as f64) as u64).min(trials);
    while errors < trials && share(errors + 1, trials) <= target {
        errors += 1;
    }
    while errors > 0 && share(errors, trials) > target {
        errors -= 1;
    }
    errors
}

/// The smallest threshold among all scores at which at most the share `target` of `wrong` is accepted.
/// Where no score is high enough, the next number above the highest. Both descending; `wrong` not empty.
pub(super) fn smallest(wrong: &[f32], right: &[f32], target: f64) -> f32 {
    let allowed = allowed(target, wrong.len() as u64) as usize;
    let lowest = |scores: &[f32]| scores.last().copied().unwrap_or(f32::INFINITY);
    let Some(&critical) = wrong.get(allowed) else {
        return lowest(wrong).min(lowest(right));
    };
    let above = |scores: &[f32]| lowest(&scores[..scores.partition_point(|s| *s > critical)]);
    let threshold = above(wrong).min(above(right));
    if threshold.is_finite() { threshold } else { critical.next_up() }
}

/// How many of descending scores are accepted: not below the threshold.
pub(super) fn accepted(scores: &[f32], threshold: f32) -> u64 {
    scores.partition_point(|score| *score >= threshold) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_intervals_equal_those_of_tables() {
        // Clopper and Pearson at 95 %: 0 and 10 of 10, and 1 of 20.
        let near = |a: f64, b: f64| assert!((a - b).abs() < 5e-5, "{a} {b}");
        let none = Interval::clopper_pearson(0, 10, 0.95);
        near(none.low, 0.0);
        near(none.high, 0.3085);
        let all = Interval::clopper_pearson(10, 10, 0.95);
        near(all.low, 0.6915);
        near(all.high, 1.0);
        let one = Interval::clopper_pearson(1, 20, 0.95);
        near(one.low, 0.0013);
        near(one.high, 0.2487);
        let nothing = Interval::clopper_pearson(0, 0, 0.95);
        assert_eq!((nothing.low, nothing.high), (0.0, 1.0));
    }

    #[test]
    fn the_threshold_is_the_smallest_of_all_scores_that_keeps_the_target() {
        let impostor = [0.75, 0.5, 0.5, 0.25];
        let genuine = [0.875, 0.625, 0.375];
        // One of four may pass: 0.75 does, and 0.625 is a score above both halves.
        assert_eq!(smallest(&impostor, &genuine, 0.25), 0.625);
        assert_eq!(smallest(&impostor, &genuine, 0.5), 0.625, "the tie passes as a whole or not");
        assert_eq!(smallest(&impostor, &genuine, 0.75), 0.375);
        assert_eq!(smallest(&impostor, &genuine, 0.0), 0.875);
        assert_eq!(smallest(&impostor, &genuine, 1.0), 0.25);
        assert_eq!(smallest(&impostor, &[0.75], 0.0), 0.75_f32.next_up(), "no score is enough");
    }

    #[test]
    fn a_target_is_kept_to_the_last_error() {
        for trials in [1, 3, 7, 10, 1000, 4970] {
            for errors in 0..=trials.min(60) {
                assert_eq!(allowed(share(errors, trials), trials), errors);
            }
        }
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let replicates = (0..=100).rev().map(f64::from).collect();
        let interval = Interval::percentile(replicates, 0.95).unwrap();
        assert!((interval.low - 2.5).abs() < 1e-9 && (interval.high - 97.5).abs() < 1e-9);
        assert_eq!(Interval::percentile(Vec::new(), 0.95), None);
    }
}
