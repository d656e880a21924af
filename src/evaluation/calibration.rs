use serde::{Deserialize, Serialize};

use super::threshold::Rate;
use super::{Bootstrap, OpenSet, Scores};

/// Which rate a threshold keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdKind {
    /// False matches of one-to-one comparisons: for verification.
    Fmr,
    /// False positives of searches for people who are not enrolled: for identification. It holds for
    /// galleries as large as the one that it was calibrated on.
    Fpir,
}

/// A threshold, and what it was seen to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Which rate it keeps.
    pub kind: ThresholdKind,
    /// Rate asked for.
    pub target: f64,
    /// Accepted is what is not below it.
    pub threshold: f32,
    /// Rate achieved: FMR or FPIR.
    pub achieved: Rate,
    /// What is missed for it: FRR, or FNIR at rank 1, with samples that failed.
    pub missed: Rate,
}

/// A target without a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// Which rate was asked for.
    pub kind: ThresholdKind,
    /// Rate asked for.
    pub target: f64,
    /// Why there is no threshold for it.
    pub reason: String,
}

/// Thresholds for a gallery, taken on subjects that no figure is later reported on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Subjects that it was taken on; nothing where they are not known, and then no target is refused.
    pub subjects: Option<u64>,
    /// Of them, those that asked without being enrolled.
    pub strangers: u64,
    /// Genuine comparisons made.
    pub genuine: u64,
    /// Impostor comparisons made.
    pub impostor: u64,
    /// Genuine comparisons that never took place.
    pub lost: u64,
    /// Thresholds, in the order asked for.
    pub thresholds: Vec<Threshold>,
    /// Targets that so many subjects cannot support.
    pub refused: Vec<Refused>,
}

impl Calibration {
    /// Thresholds for targets of FMR from `scores`, and for targets of FPIR from `searches` and their targets.
    #[must_use]
    pub fn new(
        scores: &Scores,
        fmr: &[f64],
        searches: Option<(&OpenSet, &[f64])>,
        bootstrap: &Bootstrap,
    ) -> Self {
        let (mut thresholds, mut refused) = (Vec::new(), Vec::new());
        let mut put = |refusal: Option<String>, threshold: Threshold| match refusal {
            None => thresholds.push(threshold),
            Some(reason) => {
                let Threshold { kind, target, .. } = threshold;
                refused.push(Refused { kind, target, reason });
            }
        };
        for point in scores.figures(fmr, bootstrap).points {
            put(
                point.refused,
                Threshold {
                    kind: ThresholdKind::Fmr,
                    target: point.target,
                    threshold: point.threshold,
                    achieved: point.fmr,
                    missed: point.frr,
                },
            );
        }
        if let Some((open, targets)) = searches {
            for target in targets {
                let point = open.point(*target, 1, bootstrap);
                put(
                    point.refused,
                    Threshold {
                        kind: ThresholdKind::Fpir,
                        target: point.target,
                        threshold: point.threshold,
                        achieved: point.fpir,
                        missed: point.fnir,
                    },
                );
            }
        }
        Self {
            subjects: scores.subjects(),
            strangers: searches.map_or(0, |(open, _)| open.strangers()),
            genuine: scores.genuine().len() as u64,
            impostor: scores.impostor().len() as u64,
            lost: scores.lost(),
            thresholds,
            refused,
        }
    }

    /// The threshold for a target, where there is one.
    #[must_use]
    pub fn threshold(&self, kind: ThresholdKind, target: f64) -> Option<&Threshold> {
        self.thresholds.iter().find(|t| t.kind == kind && t.target == target)
    }
}

#[cfg(test)]
mod tests {
    use super::super::openset::tests::ranking;
    use super::super::{MonteCarlo, Trial, Vectors};
    use super::*;

    #[test]
    fn targets_without_support_get_no_threshold_but_a_reason() {
        // Forty subjects on a circle, two samples each, close together.
        let angle = |row: usize| (row / 2) as f64 * 0.157 + (row % 2) as f64 * 0.05;
        let values = (0..80).flat_map(|row| [angle(row).cos() as f32, angle(row).sin() as f32]);
        let vectors = Vectors::new(2, values.collect()).unwrap();
        let labels: Vec<u64> = (0..80).map(|row| row / 2).collect();
        let sessions = MonteCarlo { runs: 3, ..MonteCarlo::default() }.within(&labels);
        let trials: Vec<Trial<'_>> =
            sessions.iter().map(|session| Trial::new(&vectors, session).unwrap()).collect();
        let scores = super::super::Scores::gather(&trials, &[7], |label| label).unwrap();
        let open = OpenSet::of(&[ranking(&[(1, 0.5); 9], &[0.25; 30])], &[], |l| l).unwrap();
        let bootstrap = Bootstrap { replicates: 200, ..Bootstrap::default() };
        let targets = ([1e-2, 1e-3], [0.1, 1e-2]);
        let got = Calibration::new(&scores, &targets.0, Some((&open, &targets.1)), &bootstrap);
        assert_eq!((got.subjects, got.strangers), (Some(40), 30));
        assert_eq!((got.genuine, got.impostor, got.lost), (120, 3 * 40 * 39, 1));
        let fmr = got.threshold(ThresholdKind::Fmr, 1e-2).unwrap();
        assert!(fmr.achieved.value <= 1e-2);
        assert_eq!(f64::from(fmr.achieved.errors as u32) / 4680.0, scores.fmr(fmr.threshold));
        assert_eq!(fmr.missed.trials, 121, "the sample that failed is missed");
        assert!(fmr.missed.by_subject.is_some());
        assert_eq!(got.threshold(ThresholdKind::Fpir, 0.1).unwrap().threshold, 0.5);
        let refused: Vec<(ThresholdKind, f64)> =
            got.refused.iter().map(|refused| (refused.kind, refused.target)).collect();
        assert_eq!(refused, [(ThresholdKind::Fmr, 1e-3), (ThresholdKind::Fpir, 1e-2)]);
        assert!(got.refused[0].reason.contains("40 subjects make 780 independent pairs"));
        let written = serde_json::to_string(&got).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&written).unwrap(), got);
        assert!(written.contains(r#""kind":"fpir""#));
    }
}
