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

#[cfg(test)]
mod tests {
    use super::super::{Entry, Session, Trial, Vectors};
    use super::*;

    /// Six people; person 5 is in the gallery a second time, as label 105.
    const PEOPLE: [u64; 18] = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 105];

    fn person(label: u64) -> u64 {
        label % 100
    }

    fn vectors() -> Vectors {
        // Entries of one half: similarities are multiples of a quarter, with many ties.
        let signs =
            |row: usize, at: usize| if (row * 5 + at * at * 3) % 4 < 2 { 0.5 } else { -0.5 };
        let mut values = Vec::new();
        for row in 0..PEOPLE.len() {
            let mut one = [0.0_f32; 7];
            (0..4).for_each(|at| one[(row * 3 + at * 2) % 7] = signs(row, at));
            values.extend(one);
        }
        Vectors::new(7, values).unwrap()
    }

    fn sessions() -> [Session; 2] {
        let entry = |row: usize| Entry { row, label: PEOPLE[row] };
        [
            Session {
                gallery: (0..6).chain([17]).map(entry).collect(),
                probes: (6..17).map(entry).collect(),
            },
            Session {
                gallery: (6..12).chain([17]).map(entry).collect(),
                probes: (12..17).chain(0..6).map(entry).collect(),
            },
        ]
    }

    /// Every comparison as often as the weights say.
    fn copied(vectors: &Vectors, weights: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        for session in sessions() {
            for probe in &session.probes {
                for sample in &session.gallery {
                    let rows = vectors.row(probe.row).iter().zip(vectors.row(sample.row));
                    let score: f32 = rows.map(|(a, b)| a * b).sum();
                    let (a, b) = (person(probe.label), person(sample.label));
                    let (a, b) = (a as usize, b as usize);
                    let times = if a == b { weights[a] } else { weights[a] * weights[b] } as usize;
                    let to = if probe.label == sample.label { &mut genuine } else { &mut impostor };
                    to.extend(std::iter::repeat_n(score, times));
                }
            }
        }
        (genuine, impostor)
    }

    #[test]
    fn a_replicate_is_what_copying_people_gives() {
        let vectors = vectors();
        let sessions = sessions();
        let trials: Vec<Trial<'_>> =
            sessions.iter().map(|session| Trial::new(&vectors, session).unwrap()).collect();
        let lost = [3, 3, 1];
        let scores = Scores::gather(&trials, &lost, person).unwrap();
        assert_eq!((scores.subjects(), scores.lost()), (Some(6), 3));
        let targets = [0.5, 0.2, 0.05, 0.0];
        let thresholds = [-0.25, 0.25, 0.5, 0.75];
        for weights in [[1.0; 6], [2.0, 0.0, 1.0, 3.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 2.0, 1.0]] {
            let asked = Asked { targets: &targets, thresholds: &thresholds };
            let got = replicate(&scores, scores.people.as_ref().unwrap(), &weights, &asked);
            let (genuine, impostor) = copied(&vectors, &weights);
            let want = Scores::from_scores(genuine, impostor).unwrap();
            let near = |got: Option<f64>, want: f64, what: &str| {
                assert!(
                    (got.unwrap() - want).abs() < 1e-12,
                    "{what} of {weights:?}: {got:?}, {want}"
                );
            };
            near(got.eer, want.eer().rate, "EER");
            for ((point, target), t) in got.points.iter().zip(targets).zip(thresholds) {
                near(point.fmr, want.fmr(t), "FMR");
                near(point.fnmr, want.fnmr(t), "FNMR");
                near(point.fnmr_at_target, want.fnmr(want.threshold_at_fmr(target)), "at target");
                let lost = 2.0 * weights[3] + weights[1];
                let rejected = want.rejected(t) as f64 + lost;
                near(point.frr, rejected / (want.genuine().len() as f64 + lost), "FRR");
            }
        }
    }

    #[test]
    fn what_the_kept_comparisons_cannot_tell_is_not_told() {
        let vectors = vectors();
        let sessions = sessions();
        let trials = [Trial::new(&vectors, &sessions[0]).unwrap()];
        let scores = Scores::gather(&trials, &[], person).unwrap();
        let mut people = scores.people.clone().unwrap();
        let asked = Asked { targets: &[0.01, 0.9], thresholds: &[0.75, -0.75] };
        let weights = vec![1.0; people.count];
        let whole = replicate(&scores, &people, &weights, &asked);
        people.tail.truncate(6);
        people.whole = false;
        let part = replicate(&scores, &people, &weights, &asked);
        assert_eq!(part.points[0].fnmr_at_target, whole.points[0].fnmr_at_target);
        assert!(whole.points[1].fmr.is_some() && part.points[1].fmr.is_none());
        assert!(
            whole.points[1].fnmr_at_target.is_some() && part.points[1].fnmr_at_target.is_none()
        );
        assert!(whole.eer.is_some() && part.eer.is_none());
    }
}
