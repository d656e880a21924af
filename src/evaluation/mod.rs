//! Figures of merit as pure functions over similarities and labels, and the draws they are taken on.
//! Knows neither models nor galleries.

mod perturbation;
mod protocol;
mod rank;

pub use perturbation::{PerturbationCurve, perturbation_curve};
pub use protocol::{Draw, one_a_label};
pub use rank::{
    RankFigures, average_precision, average_precision_trapezoid, mate_ranks, rank_figures,
};
