use std::collections::BTreeSet;

use crate::dataset::{self, DatasetError, LabelledImage, Protocol};
use crate::training::TrainingError;
use crate::training::fine_tune::{Recipe, TrainPicture, never_drawn};

use super::{FineTuneError, FineTuneEvent, FineTuneRequest};

/// What separates the draw of validation subjects from that of test subjects.
const VALIDATION_SALT: u64 = 0x5a17;

/// Who is trained on, validated on and held out: indices of the data set's images.
pub(super) struct Parts {
    pub(super) train: Vec<usize>,
    pub(super) validation: Vec<usize>,
    pub(super) held_out: Vec<usize>,
}

/// Subjects are held out first, then set apart for validation; none is on two sides. Held-out images with
/// accessories are left out, as the published protocol has it.
pub(super) fn divide(
    images: &[LabelledImage],
    request: &FineTuneRequest,
    recipe: &Recipe,
) -> Result<Parts, FineTuneError> {
    let all: Vec<usize> = (0..images.len()).collect();
    let (rest, mut held_out) = share(images, all, request.hold_out, request.split_seed)?;
    held_out.retain(|at| images[*at].attributes.accessories != Some(true));
    let seed = request.split_seed ^ VALIDATION_SALT;
    let (train, validation) = share(images, rest, recipe.validation, seed)?;
    Ok(Parts { train, validation, held_out })
}

/// Of the training part, the images that batches hold. Says how many others there are.
pub(super) fn drawn(
    pictures: &[TrainPicture],
    recipe: &Recipe,
    progress: &dyn Fn(FineTuneEvent),
) -> Result<Vec<usize>, TrainingError> {
    let never: BTreeSet<usize> = never_drawn(pictures, recipe)?.into_iter().collect();
    if !never.is_empty() {
        let hands: BTreeSet<u32> = never.iter().map(|at| pictures[*at].hand).collect();
        progress(FineTuneEvent::Notice(format!(
            "no batch holds {} of {} images, of {} hands: a hand needs two images for a batch of several each, and somebody else with the same kind of hand",
            never.len(),
            pictures.len(),
            hands.len()
        )));
    }
    let drawn = pictures.iter().enumerate().filter(|(at, _)| !never.contains(at));
    Ok(drawn.map(|(_, picture)| picture.file).collect())
}

/// The images of the subjects that a run with this share and seed holds out.
///
/// # Errors
/// [`DatasetError`] for a share that leaves a side empty.
pub(in crate::service) fn held_out(
    images: &[LabelledImage],
    share_out: f64,
    seed: u64,
) -> Result<Vec<usize>, DatasetError> {
    Ok(share(images, (0..images.len()).collect(), share_out, seed)?.1)
}

/// Takes `share` of the subjects of `from` out.
fn share(
    images: &[LabelledImage],
    from: Vec<usize>,
    share: f64,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), DatasetError> {
    if share == 0.0 {
        return Ok((from, Vec::new()));
    }
    let of: Vec<LabelledImage> = from.iter().map(|at| images[*at].clone()).collect();
    let split = dataset::split(&of, Protocol::Subjects { train: 1.0 - share }, seed)?;
    let mut sides = (Vec::new(), Vec::new());
    for split in split {
        sides.0.extend(split.train.iter().chain(&split.val).map(|at| from[*at]));
        sides.1.extend(split.test.iter().map(|at| from[*at]));
    }
    sides.0.sort_unstable();
    sides.1.sort_unstable();
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::domain::HandAttributes;
    use crate::service::ModelChoice;
    use crate::service::fine_tune::TrainingData;

    /// What broke a published run: checkpoints were chosen on test data, or on the subjects of training.
    #[test]
    fn nobody_is_on_two_sides() {
        let images: Vec<LabelledImage> = (0..200)
            .map(|i| LabelledImage {
                path: PathBuf::from(format!("{i}.jpg")),
                subject: format!("{:03}", i / 5).parse().unwrap(),
                attributes: HandAttributes {
                    accessories: Some(i % 5 == 0),
                    ..HandAttributes::default()
                },
            })
            .collect();
        let request = FineTuneRequest {
            model: ModelChoice::Nano,
            data: TrainingData::Directory(PathBuf::new()),
            recipe: String::new(),
            hold_out: 0.4,
            split_seed: 3,
            device: "cpu".to_owned(),
            cache_bytes: 0,
            skip_unreadable: false,
            out: PathBuf::new(),
            resume: false,
        };
        let recipe = Recipe { validation: 0.25, ..Recipe::default() };
        let parts = divide(&images, &request, &recipe).unwrap();
        let people =
            |of: &[usize]| of.iter().map(|at| images[*at].key()).collect::<BTreeSet<String>>();
        let [train, validation, test] =
            [&parts.train, &parts.validation, &parts.held_out].map(|of| people(of));
        assert!(train.is_disjoint(&validation) && train.is_disjoint(&test));
        assert!(validation.is_disjoint(&test));
        assert_eq!(train.len() + validation.len() + test.len(), 40);
        assert!(!validation.is_empty() && test.len() == 16, "{} {}", validation.len(), test.len());
        // The published protocol tests on images without accessories.
        assert_eq!(parts.held_out.len(), test.len() * 4);
    }
}
