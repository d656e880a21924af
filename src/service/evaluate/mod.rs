//! Evaluating models on labelled images, comparing them, and calibrating thresholds.

mod asked;
mod cache;
mod calibrate;
mod compare;
mod criteria;
mod embed;
mod external;
mod figures;
mod gate;
mod html;
mod markdown;
mod output;
mod plan;
mod published;
mod single;
mod system;
mod types;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::dataset::DatasetError;
use crate::evaluation::EvaluationError;
use crate::model::ModelError;
use crate::report::ReportError;
use crate::storage::StorageError;

use super::ServiceError;
use super::leak::LeakError;
use super::ledger::LedgerError;

pub use crate::evaluation::ThresholdKind;
pub use calibrate::{CalibrateRequest, Calibrated, Tried, calibrate};
pub use compare::{CompareRequest, Comparison, compare};
pub use embed::Refusal;
pub use gate::{Contender, GateMargins, GateRow, GateTable};

pub use published::{PUBLISHED, PublishedFigure, PublishedProtocol};
pub use single::evaluate;
pub use system::{SystemCard, SystemChoice};
pub use types::{Evaluation, SetFigures};

/// What is enrolled and what asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A tree of draws where there is one, else [`Protocol::Hands`].
    Auto,
    /// `query0..9` and `gallery0..9` as they lie in folders.
    Tree {
        /// With the distractors of `gallery0..9_all`.
        all: bool,
    },
    /// Each kind of hand by itself: one image of every subject enrolled, the rest asked about, drawn by a seed.
    Hands,
    /// One aspect enrolled, the other asked about.
    CrossAspect,
    /// The test half of 11k Hands, divided as published.
    Published {
        /// With the other three hands as distractors.
        all: bool,
    },
}

impl Protocol {
    /// The same images, each kind of hand compared with itself only.
    fn of_one_kind(self) -> Self {
        match self {
            Self::CrossAspect => Self::Hands,
            Self::Tree { all: true } => Self::Tree { all: false },
            Self::Published { all: true } => Self::Published { all: false },
            Self::Auto
            | Self::Hands
            | Self::Tree { all: false }
            | Self::Published { all: false } => self,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tree { all: false } => "tree",
            Self::Tree { all: true } => "tree-all",
            Self::Hands => "hands",
            Self::CrossAspect => "cross-aspect",
            Self::Published { all: false } => "11k",
            Self::Published { all: true } => "11k-all",
        })
    }
}

/// Which images of a data set, drawn how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// What is enrolled and what asks.
    pub protocol: Protocol,
    /// Draws.
    pub runs: usize,
    /// Names the draws.
    pub seed: u64,
    /// Images of each subject that are enrolled, where draws are made here.
    pub enrolled: usize,
    /// Only the subjects that `train` holds out with this share and seed.
    pub hold_out: Option<(f64, u64)>,
    /// Whether images with accessories take part; the published protocol leaves them out.
    pub accessories: bool,
    /// Leaves out gallery samples of the probe's subject and capture (column `capture` of a manifest).
    pub other_capture: bool,
}

/// What is evaluated on what.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateRequest {
    /// A model, or embeddings from a file.
    pub system: SystemChoice,
    /// A data set in any layout that can be read.
    pub data: PathBuf,
    /// Which of its images.
    pub selection: Selection,
    /// How thorough, and where.
    pub options: EvaluateOptions,
}

/// What does not change the figures, but for the intervals' draws.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Where embeddings are kept between evaluations.
    pub cache: Option<PathBuf>,
    /// Subject-bootstrap replicates of an interval.
    pub replicates: usize,
    /// Whether subjects that the model was trained on may be evaluated.
    pub allow_leak: bool,
    /// Whether the second system of a comparison may take the first one's place, by these margins.
    pub gate: Option<GateMargins>,
    /// A new folder for `evaluation.json`, `report.md`, `report.html` and charts.
    pub out: Option<PathBuf>,
    /// Whether the report shows images of the worst probes: pictures of people.
    pub show_images: bool,
    /// The command that asked, for the report.
    pub command: String,
    /// Ends it early.
    pub cancel: Cancel,
}

/// Tells an evaluation to end. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Has it end before its next batch of images or set of figures.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), EvaluateError> {
        if self.0.load(Ordering::Relaxed) { Err(EvaluateError::Cancelled) } else { Ok(()) }
    }
}

impl PartialEq for Cancel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What happens, for a progress bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvaluateEvent {
    /// Something a person should know.
    Notice(String),
    /// A system's turn.
    System(String),
    /// Images were embedded.
    Embedded {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Figures of a set are worked out.
    Set(String),
}

/// Why nothing could be said of a system.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// It was told to end.
    #[error("the evaluation was told to end")]
    Cancelled,
    /// The data set cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The figures could not be taken.
    #[error(transparent)]
    Figures(#[from] EvaluationError),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model or device could not be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The run's record could not be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The model was trained on whom it is to be measured on, or nobody can tell.
    #[error(transparent)]
    Leak(#[from] LeakError),
    /// A chart could not be drawn.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No tree of draws where one was asked for.
    #[error("found no query0 and gallery0 under {path}: `handclip dataset split` makes them, or use `--protocol hands`", path = .0.display())]
    NoTree(PathBuf),
    /// A tree without distractors.
    #[error("{path} has no gallery0_all: use `--protocol tree`", path = .0.display())]
    NoDistractors(PathBuf),
    /// The selection lets no image in.
    #[error(
        "no image is left to evaluate: check --hold-out, --accessories and the labels of aspect and side"
    )]
    NothingLeft,
    /// A division that this protocol does not make.
    #[error(
        "--hold-out divides labelled images: with `--protocol {0}` the folders or the publication say who is tested"
    )]
    HoldOut(Protocol),
    /// Not one embedding.
    #[error("none of the {count} images can be used, e.g. {file}: {problem}")]
    AllRefused {
        /// How many.
        count: usize,
        /// One of them.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An image without a capture.
    #[error("{path} has no `capture`: --other-capture needs a manifest with that column", path = .0.display())]
    NoCapture(PathBuf),
    /// Embeddings from a file cannot be used.
    #[error("{path} {problem}", path = path.display())]
    External {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder holds something already.
    #[error("{path} is not empty: name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// Thresholds of no model.
    #[error("thresholds belong to a model: embeddings from a file have none")]
    NoModel,
    /// Thresholds of hands that are easier to tell apart than those that a gallery holds.
    #[error(
        "thresholds must hold among hands of one kind, and `--protocol {0}` compares different kinds, which are easier to \
         tell apart: use `--protocol {instead}`",
        instead = .0.of_one_kind()
    )]
    OtherKinds(Protocol),
    /// So few subjects support no threshold.
    #[error("no threshold can be made: {0}")]
    NoThreshold(String),
    /// A comparison of one.
    #[error("name two or more systems to compare")]
    OneSystem,
    /// Two systems of one name.
    #[error("two systems are called {0}: give them names, as in NAME=PATH")]
    SameName(String),
    /// A file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
