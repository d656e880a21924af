//! Looking at data sets and dividing them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::dataset::{self, DatasetError, LabelledImage};
pub use crate::dataset::{Count, Hand, Inspection, Protocol, SplitCounts};

/// What to divide, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitRequest {
    /// A folder or a label file.
    pub path: PathBuf,
    /// How subjects are divided.
    pub protocol: Protocol,
    /// The only hand that is divided; `None` for all.
    pub hand: Option<Hand>,
    /// Names the draws.
    pub seed: u64,
    /// Whether a subject may be trained on in one split and tested on in another.
    pub allow_leaks: bool,
    /// A new folder; `None` only counts.
    pub out: Option<PathBuf>,
}

/// What a division came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    /// Sizes, one entry a split.
    pub splits: Vec<SplitCounts>,
    /// Subjects that one split trains on and another tests on.
    pub leaked_subjects: usize,
}

/// What there is to divide.
fn images_of(request: &SplitRequest) -> Result<Vec<LabelledImage>, DatasetError> {
    // A tree of splits holds links to one file many times.
    dataset::check_undivided(&request.path)?;
    let mut images = dataset::read(&request.path)?;
    // The published halves are drawn hand by hand, and each needs the others for its distractors.
    if let (Some(hand), Protocol::Subjects { .. }) = (&request.hand, request.protocol) {
        images.retain(|image| hand.is_of(image));
    }
    Ok(images)
}

/// Divides a data set. `progress` gets files done and in all.
///
/// # Errors
/// [`DatasetError`]; [`DatasetError::Divided`] for a tree of splits; [`DatasetError::Leaks`] where subjects are on both sides and that was not asked for. What
/// only counts says how many there are and writes nothing that could be trained on.
pub fn split_dataset(
    request: &SplitRequest,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<SplitSummary, DatasetError> {
    let SplitRequest { path, protocol, hand, seed, allow_leaks, out } = request;
    let images = images_of(request)?;
    let mut splits = dataset::split(&images, *protocol, *seed)?;
    if let Some(hand) = hand {
        let of_one = matches!(protocol, Protocol::Subjects { .. });
        splits.retain(|split| of_one || split.name == hand.name);
    }
    let leaks = dataset::leaks(&images, &splits);
    if let Some((subject, (trained, tested))) = leaks.first_key_value()
        && !allow_leaks
        && out.is_some()
    {
        return Err(DatasetError::Leaks {
            count: leaks.len(),
            subject: subject.clone(),
            trained: trained.clone(),
            tested: tested.clone(),
        });
    }
    if let Some(out) = out {
        let root = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        dataset::write_tree(&images, &splits, (*protocol, *seed), root, out, progress)?;
    }
    Ok(SplitSummary { splits: dataset::counts(&images, &splits), leaked_subjects: leaks.len() })
}

/// Looks at every image of a data set. `progress` gets images done and in all.
///
/// # Errors
/// [`DatasetError`] when its folders or labels cannot be read.
pub fn inspect_dataset(
    path: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Inspection, DatasetError> {
    Ok(dataset::inspect(&dataset::read(path)?, progress))
}
