//! Which images of a data set are measured on, where draws are made here.

use std::path::Path;

use crate::dataset::{self, DatasetError, LabelledImage};

use super::fine_tune::held_out;

/// Images that are measured on.
pub(super) struct Measured {
    /// None of them is the same file as another one of its subject.
    pub(super) images: Vec<LabelledImage>,
    /// What of the data set they are, where they are not all of it; for people.
    pub(super) notes: Vec<String>,
}

/// The images of those whom `train` holds out with this share and seed, of all without one. Of a tree of splits, where
/// a photograph lies in several folders, one part is read: what `train` divides, or what is tested on.
pub(super) fn measured(
    data: &Path,
    hold_out: Option<(f64, u64)>,
) -> Result<Measured, DatasetError> {
    let mut notes = Vec::new();
    let all = match hold_out {
        Some((share, seed)) => {
            let images = dataset::read_to_train(data)?;
            let kept = held_out(&images, share, seed)?;
            kept.into_iter().map(|at| images[at].clone()).collect()
        }
        None => {
            let found = dataset::read_to_test(data)?;
            if found.of_splits {
                notes.push("of the splits only what they test on takes part".to_owned());
            }
            found.images
        }
    };
    let count = all.len();
    let images = dataset::distinct(all);
    match count - images.len() {
        0 => {}
        1 => notes.push("one image is a copy of another one of its subject: left out".to_owned()),
        copies => {
            notes.push(format!("{copies} images are copies of others of their subjects: left out"));
        }
    }
    Ok(Measured { images, notes })
}
