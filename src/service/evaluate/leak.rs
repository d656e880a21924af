//! Whether a model was trained on people that it is to be evaluated on.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use crate::dataset::{DatasetError, sha256};
use crate::service::fine_tune::TrainedOn;

use super::EvaluateError;
use super::plan::Plan;

/// Refuses when a subject that is evaluated has an image, anywhere in the data set, that the run which made the
/// model trained on or chose its weights by. Models that no run of this program made say nothing of that.
pub(super) fn check_leak(model: &Path, plan: &Plan) -> Result<(), EvaluateError> {
    let Some(trained) = TrainedOn::beside(model)? else { return Ok(()) };
    let known: BTreeSet<&str> = trained.images().collect();
    let of_training =
        |path: &Path| -> Result<bool, DatasetError> { Ok(known.contains(sha256(path)?.as_str())) };
    let evaluated: BTreeSet<&str> = plan.subjects.iter().map(String::as_str).collect();
    let leaked: Vec<Option<String>> = plan
        .everybody
        .par_iter()
        .filter(|image| evaluated.contains(image.key().as_str()))
        .map(|image| Ok(of_training(&image.path)?.then(|| image.key())))
        .collect::<Result<_, DatasetError>>()?;
    let leaked: BTreeSet<String> = leaked.into_iter().flatten().collect();
    match leaked.first() {
        Some(subject) => Err(EvaluateError::Leak { count: leaked.len(), subject: subject.clone() }),
        None => Ok(()),
    }
}
