//! Verification figures when people are drawn with replacement.
//!
//! A person drawn w times brings w copies of every genuine comparison, and an impostor comparison of two
//! people counts the product of their weights: both sides of a pair are resampled, as both are a sample
//! of people. This is the bootstrap over vertices of a graph (Snijders and Borgatti, 1999), in biometrics
//! the subset bootstrap of Bolle, Ratha and Pankanti (2004) carried over to both sides; a bootstrap over
//! comparisons, or over probes alone, gives intervals that are too narrow. Copies of one person are not
//! compared with each other: that would be a genuine comparison taken for an impostor's.

use super::scores::{People, Scores};

/// What one replicate is asked for.
pub(super) struct Asked<'a> {
    /// Targets of FMR.
    pub(super) targets: &'a [f64],
    /// The threshold of each on all the people.
    pub(super) thresholds: &'a [f32],
}

/// One replicate. `None` where it cannot be told: nobody was compared, or the answer lies below the
/// impostor comparisons that were kept.
pub(super) struct Replicate {
    pub(super) eer: Option<f64>,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy)]
pub(super) struct Point {
    /// At the threshold of all the people.
    pub(super) fmr: Option<f64>,
    pub(super) fnmr: Option<f64>,
    pub(super) frr: Option<f64>,
    /// At the replicate's own threshold for the target.
    pub(super) fnmr_at_target: Option<f64>,
}

pub(super) fn replicate(
    scores: &Scores,
    people: &People,
    weights: &[f64],
    asked: &Asked<'_>,
) -> Replicate {
    let weight = |who: u32| weights[who as usize];
    let impostors = people.impostor_weight(weights);
    // Weight of the genuine comparisons accepted, from the closest on.
    let mut accepted = Vec::with_capacity(scores.genuine.len() + 1);
    accepted.push(0.0);
    let mut genuine = 0.0;
    for who in &people.genuine {
        genuine += weight(*who);
        accepted.push(genuine);
    }
    let lost: f64 = people.lost.iter().map(|who| weight(*who)).sum();
    let rejected_at = |t: f32| genuine - accepted[scores.genuine.partition_point(|s| *s >= t)];
    // At the smallest threshold above an impostor's score, what is not above that score is rejected.
    let rejected_above = |t: f32| genuine - accepted[scores.genuine.partition_point(|s| *s > t)];
    let rate = |errors: f64, of: f64| (of > 0.0).then(|| errors / of);
    let mut walk = Walk { people, weights, at: 0, sum: 0.0 };
    let points = asked
        .thresholds
        .iter()
        .zip(asked.targets)
        .map(|(&t, &target)| {
            let rejected = rejected_at(t);
            let fnmr_at_target = match walk.critical(target, impostors) {
                Critical::Score(score) => rate(rejected_above(score), genuine),
                Critical::None => rate(0.0, genuine),
                Critical::Unknown => None,
            };
            Point {
                fmr: walk.down_to(t).and_then(|errors| rate(errors, impostors)),
                fnmr: rate(rejected, genuine),
                frr: rate(rejected + lost, genuine + lost),
                fnmr_at_target,
            }
        })
        .collect();
    Replicate { eer: eer(scores, people, weights, genuine, impostors), points }
}

/// Impostor comparisons from the closest on, and the weight passed.
struct Walk<'a> {
    people: &'a People,
    weights: &'a [f64],
    at: usize,
    sum: f64,
}

enum Critical {
    Score(f32),
    None,
    Unknown,
}

impl Walk<'_> {
    fn restart(&mut self) {
        self.at = 0;
        self.sum = 0.0;
    }

    /// Passes all comparisons of the next score, and says which that is.
    fn group(&mut self) -> Option<f32> {
        let score = self.people.tail.get(self.at)?.score;
        while let Some(pair) = self.people.tail.get(self.at).filter(|pair| pair.score == score) {
            self.sum += self.people.pair_weight(self.weights, pair.probe, pair.sample);
            self.at += 1;
        }
        Some(score)
    }

    /// The highest score that too many impostors reach.
    fn critical(&mut self, target: f64, impostors: f64) -> Critical {
        self.restart();
        while let Some(score) = self.group() {
            if self.sum / impostors > target {
                return Critical::Score(score);
            }
        }
        if self.people.whole && impostors > 0.0 { Critical::None } else { Critical::Unknown }
    }

    /// Weight of the impostors that are accepted at `t`; `None` where the tail ends above it.
    fn down_to(&mut self, t: f32) -> Option<f64> {
        self.restart();
        let end = self.people.tail.partition_point(|pair| pair.score >= t);
        if end == self.people.tail.len() && !self.people.whole {
            return None;
        }
        let pairs = &self.people.tail[..end];
        Some(pairs.iter().map(|p| self.people.pair_weight(self.weights, p.probe, p.sample)).sum())
    }
}

impl People {
    fn pair_weight(&self, weights: &[f64], probe: u32, sample: u32) -> f64 {
        // The hands of one person under two labels stand and fall with him.
        if probe == sample {
            return weights[probe as usize];
        }
        weights[probe as usize] * weights[sample as usize]
    }

    /// Weight of all impostor comparisons: every probe with every sample, but for those of one person.
    fn impostor_weight(&self, weights: &[f64]) -> f64 {
        let mut total: f64 = self.own.iter().zip(weights).map(|(own, weight)| own * weight).sum();
        for sizes in &self.sizes {
            let (mut probes, mut gallery, mut same) = (0.0, 0.0, 0.0);
            for ((p, g), weight) in sizes.iter().zip(weights) {
                probes += weight * p;
                gallery += weight * g;
                same += weight * weight * p * g;
            }
            total += probes * gallery - same;
        }
        total
    }
}

/// The equal error rate by a walk from the highest score down, to where FMR is no longer below FNMR.
fn eer(
    scores: &Scores,
    people: &People,
    weights: &[f64],
    genuine: f64,
    impostors: f64,
) -> Option<f64> {
    if genuine <= 0.0 || impostors <= 0.0 {
        return None;
    }
    let mut walk = Walk { people, weights, at: 0, sum: 0.0 };
    let (mut at, mut accepted) = (0, 0.0);
    let (mut fmr, mut fnmr) = (0.0, 1.0);
    loop {
        let next_genuine = scores.genuine.get(at).copied();
        let next_impostor = people.tail.get(walk.at).map(|pair| pair.score);
        if next_impostor.is_none() && !people.whole {
            return None;
        }
        let score = match (next_genuine, next_impostor) {
            (Some(a), Some(b)) => a.max(b),
            (Some(a), None) => a,
            (None, Some(b)) => b,
            (None, None) => return Some(fmr),
        };
        if next_impostor == Some(score) {
            walk.group();
        }
        while scores.genuine.get(at) == Some(&score) {
            accepted += weights[people.genuine[at] as usize];
            at += 1;
        }
        let before = (fmr, fnmr);
        (fmr, fnmr) = (walk.sum / impostors, 1.0 - accepted / genuine);
        if fmr >= fnmr {
            return Some(crossing(before, (fmr, fnmr)));
        }
    }
}

/// Where the line between two points (FMR, FNMR) of the curve, the first with FMR below FNMR and the second
/// not, meets FMR = FNMR.
pub(super) fn crossing(above: (f64, f64), below: (f64, f64)) -> f64 {
    let (before, after) = (above.1 - above.0, below.0 - below.1);
    if before + after <= 0.0 {
        return below.0;
    }
    above.0 + (below.0 - above.0) * before / (before + after)
}
