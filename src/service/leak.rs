//! Whether a model was trained on people that it is to be measured on.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use crate::dataset::{DatasetError, LabelledImage, sha256};

use super::fine_tune::{TrainedOn, TrainedOnError};
use super::options::ModelChoice;

/// Why a model may not be measured.
#[derive(Debug, thiserror::Error)]
pub enum LeakError {
    /// Subjects that the model was trained on.
    #[error(
        "{count} of the subjects were trained on, e.g. {subject}: measure on others (--hold-out {advice}), or say that you know (--allow-leak)",
        advice = "with the share and seed of the training run"
    )]
    TrainedOn {
        /// How many.
        count: usize,
        /// One of them.
        subject: String,
    },
    /// The record of what the model was trained on is damaged.
    #[error(transparent)]
    Record(#[from] TrainedOnError),
    /// An image cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// Refuses when a subject that is measured on has an image, anywhere in the data set, that the run which made the
/// model, or one that made a model before it, trained on or chose its weights by. Models that no run of this program made say nothing of that.
///
/// measured: subjects by [`LabelledImage::key`]; everybody: all images of the data set.
pub(super) fn check_leak(
    model: &ModelChoice,
    measured: &BTreeSet<&str>,
    everybody: &[LabelledImage],
) -> Result<(), LeakError> {
    let Some(files) = model.files() else { return Ok(()) };
    let Some(trained) = TrainedOn::beside(files)? else { return Ok(()) };
    let known: BTreeSet<&str> = trained.images().collect();
    let of_training =
        |path: &Path| -> Result<bool, DatasetError> { Ok(known.contains(sha256(path)?.as_str())) };
    let leaked: Vec<Option<String>> = everybody
        .par_iter()
        .filter(|image| measured.contains(image.key().as_str()))
        .map(|image| Ok(of_training(&image.path)?.then(|| image.key())))
        .collect::<Result<_, DatasetError>>()?;
    let leaked: BTreeSet<String> = leaked.into_iter().flatten().collect();
    match leaked.first() {
        Some(subject) => {
            Err(LeakError::TrainedOn { count: leaked.len(), subject: subject.clone() })
        }
        None => Ok(()),
    }
}
