//! What an evaluation found, as it is written.

use serde::Serialize;

use crate::evaluation::{
    Bootstrap, DetPoint, Interval, OpenSetPoint, RunTable, VerificationFigures,
};

use super::Selection;
use super::embed::Refusal;
use super::system::SystemCard;

/// Everything that an evaluation found.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Of this document.
    pub format: u32,
    /// This program's version.
    pub version: &'static str,
    /// The command that asked.
    pub command: String,
    /// What was evaluated.
    pub system: SystemCard,
    /// On what.
    pub data: DataCard,
    /// Which images, drawn how; the protocol that was found.
    pub selection: Selection,
    /// How intervals were drawn.
    pub bootstrap: Bootstrap,
    /// The sets together.
    pub overall: Overall,
    /// One for each kind of hand, or each folder of draws.
    pub sets: Vec<SetFigures>,
}

/// What was evaluated on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataCard {
    /// The data set's name; no path of the machine.
    pub name: String,
    /// Image files of all draws.
    pub images: usize,
    /// Their subjects; distractors count under the ids they are given.
    pub subjects: usize,
    /// Files that gave no embedding: failures to acquire, misses in FRR and FNIR.
    pub refused: Vec<Refusal>,
    /// SHA-256 over the files' hashes, sorted: two reports on the same images have the same.
    pub sha256: String,
}

/// A figure with its spread over runs and its interval by subjects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Mean of the runs.
    pub mean: f64,
    /// Standard deviation of the runs (`ddof = 1`); `null` for one run.
    pub sd: Option<f64>,
    /// Percentile interval of the bootstrap over subjects.
    pub by_subject: Option<Interval>,
}

/// All sets together: figures are means of the sets', verification is pooled at one threshold.
#[derive(Debug, Clone, Serialize)]
pub struct Overall {
    /// Share of probes whose first hit is at rank 1.
    pub rank1: Figure,
    /// Mean average precision, standard.
    pub map: Figure,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: Figure,
    /// Mean inverse negative penalty.
    pub minp: Figure,
    /// Error rates of one-to-one comparisons.
    pub verification: Option<VerificationFigures>,
}

/// Figures of one set.
#[derive(Debug, Clone, Serialize)]
pub struct SetFigures {
    /// `dorsal right` and its like, or a folder's name.
    pub name: String,
    /// Labels that are enrolled or ask, distractors included.
    pub subjects: usize,
    /// Gallery samples of the first run.
    pub gallery: usize,
    /// Probes of the first run.
    pub probes: usize,
    /// Probes of all runs that could not be searched: their file was refused, or every mate's. Misses in FRR and FNIR,
    /// left out of the ranks, of FNMR, EER and DET.
    pub lost: usize,
    /// Share of probes whose first hit is at rank 1.
    pub rank1: Figure,
    /// Share of probes whose first hit is at rank 5 or better.
    pub rank5: Figure,
    /// Share of probes whose first hit is at rank 10 or better.
    pub rank10: Figure,
    /// Share of probes whose first hit is at rank 20 or better.
    pub rank20: Figure,
    /// Mean average precision, standard.
    pub map: Figure,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: Figure,
    /// Mean inverse negative penalty.
    pub minp: Figure,
    /// Run by run.
    pub runs: RunTable,
    /// Share of probes found within rank k, k from 1; mean of the runs.
    pub cmc: Vec<f64>,
    /// Error rates of one-to-one comparisons, all runs pooled.
    pub verification: Option<VerificationFigures>,
    /// FNMR against FMR.
    pub det: Vec<DetPoint>,
    /// Where the scores lie.
    pub histogram: Option<Histogram>,
    /// Searches for people who are not enrolled, drawn apart.
    pub open_set: Option<OpenSetFigures>,
    /// The probes whose mate came latest.
    pub failures: Vec<Failure>,
}

/// How many comparisons had which similarity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// One more than bars.
    pub edges: Vec<f64>,
    /// Genuine comparisons.
    pub genuine: Vec<u64>,
    /// Impostor comparisons.
    pub impostor: Vec<u64>,
}

/// Open-set identification.
#[derive(Debug, Clone, Serialize)]
pub struct OpenSetFigures {
    /// Share of the subjects that ask without being enrolled, drawn anew in each run.
    pub strangers_share: f64,
    /// Searches for people who are enrolled.
    pub mated: u64,
    /// Searches for people who are not.
    pub non_mated: u64,
    /// Such people.
    pub strangers: u64,
    /// Lowest FPIR that so many can support.
    pub lowest_fpir: f64,
    /// One for each target, at rank 1.
    pub points: Vec<OpenSetPoint>,
}

/// A probe whose mate came late.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// The run, from 0.
    pub run: usize,
    /// The probe's file.
    pub file: String,
    /// Whose hand it shows.
    pub subject: String,
    /// Rank of its first mate.
    pub rank: usize,
    /// Similarity of that mate.
    pub similarity: f32,
    /// Who came first.
    pub candidates: Vec<FailureCandidate>,
    /// Rows of the probe's and the candidates' files, for pictures.
    #[serde(skip)]
    pub(super) rows: Vec<usize>,
}

/// A gallery sample that came before a mate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureCandidate {
    /// Its file.
    pub file: String,
    /// Whose hand it shows.
    pub subject: String,
    /// How close.
    pub similarity: f32,
    /// Whether it is the probe's mate.
    pub mate: bool,
}
