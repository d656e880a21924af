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
