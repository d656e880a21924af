//! Figures of merit as pure functions over unit embeddings, labels and seeds, and the draws they are
//! taken on. Knows neither models nor galleries.
//!
//! Words are those of ISO/IEC 19795-1. A similarity is accepted at a threshold when it is not below it,
//! and every tie counts against the system. Search is exact; equal similarities keep gallery order.

mod beta;
mod bootstrap;
mod calibration;
mod error;
mod groups;
mod mates;
mod openset;
mod opponents;
mod people;
mod perturbation;
mod protocol;
mod rank;
mod robustness;
mod runs;
mod scores;
mod support;
mod threshold;
mod trial;
mod vectors;
mod verification;

pub use bootstrap::{Bootstrap, Paired, ProbeValue};
pub use calibration::{Calibration, Refused, Threshold, ThresholdKind};
pub use error::EvaluationError;
pub use groups::{GroupFigures, GroupRow, GroupTable, Grouping, LEAST_SUBJECTS, Terms, by_group};
pub use mates::{average_precision, average_precision_trapezoid, mate_ranks};
pub use openset::{OpenSet, OpenSetPoint};
pub use perturbation::{PerturbationCurve, perturbation_curve};
pub use protocol::{Draw, Entry, MonteCarlo, Session, one_a_label};
pub use rank::{
    Candidate, Outcome, RankFigures, Ranking, Stranger, candidates, rank, rank_figures,
};
pub use robustness::{Answer, Asked, Change, Damage, Estimate, Standing, Tally, false_match_share};
pub use runs::{RunTable, Spread};
pub use scores::Scores;
pub use support::{Unsupported, claim_fmr, claim_fpir, lowest_fmr, lowest_fpir};
pub use threshold::{Interval, Rate};
pub use trial::Trial;
pub use vectors::Vectors;
pub use verification::{DetPoint, Eer, OperatingPoint, VerificationFigures};
