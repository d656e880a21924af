use std::path::PathBuf;

use crate::model::ModelError;

/// Why a training run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The data cannot fill a batch.
    #[error(
        "a batch needs {wanted} hands of {kinds} kinds with {images} pictures or more each, the data has {got} hands"
    )]
    TooFewHands {
        /// Hands a batch holds.
        wanted: usize,
        /// Kinds of hand that a batch mixes.
        kinds: usize,
        /// Pictures that each has to have.
        images: usize,
        /// Hands with as many pictures.
        got: usize,
    },
    /// A setting that makes no run.
    #[error("{setting} must be {rule}, not {got}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        got: String,
    },
    /// A loss that is not a number.
    #[error(
        "the loss is {loss} at step {step}: lower the learning rate ({learning_rate:e}) or the weight of the identity loss"
    )]
    Diverged {
        /// Optimiser step, from 1.
        step: usize,
        /// The loss.
        loss: f32,
        /// The learning rate at that step.
        learning_rate: f64,
    },
    /// Image-text contrast over images that prompts cannot tell apart.
    #[error(
        "info_nce needs prompts, but all images would get the same one: give the data labels (aspect, side, accessories, or a column `prompt`), or leave [losses.info_nce] out"
    )]
    NoPrompts,
    /// Everything that the recipe would train is frozen.
    #[error(
        "nothing of the model would learn: [freeze] holds all that [lora] and the losses reach"
    )]
    NothingLearns,
    /// An epoch in which no batch had pictures to compare.
    #[error("in epoch {epoch} no batch had two pictures that could be read: nothing is learnt")]
    NoBatch {
        /// The epoch, from 1.
        epoch: usize,
    },
    /// A recipe that cannot be read.
    #[error("the recipe cannot be read: {0}")]
    Recipe(String),
    /// A picture that cannot be decoded.
    #[error("cannot use {path}: {problem}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A loss or a gradient that is not a number.
    #[error("the loss is not a number at step {step}: lower the learning rate ({learning_rate:e}); the batch was {files}", files = list(files))]
    NotANumber {
        /// Optimiser step, from 1.
        step: usize,
        /// The learning rate at that step.
        learning_rate: f64,
        /// The batch's files.
        files: Vec<PathBuf>,
    },
    /// The state of a run that cannot be written or gone on from.
    #[error("the run cannot go on from {path}: it {problem}; start a new run in another folder", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller cancelled while it validated: the epoch does not count.
    #[error("cancelled")]
    Cancelled,
    /// What the caller does between steps failed.
    #[error(transparent)]
    Callback(Box<dyn std::error::Error + Send + Sync>),
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}
