//! What of a data set may be trained on.

use std::collections::BTreeMap;
use std::path::Path;

use super::DatasetError;
use super::folders::split_folders;
use super::read::{LabelledImage, read};

/// The images under `root` that may be trained on: of a tree of published splits `train_all` (or `train` and
/// `val`) of each split, of everything else all, as [`read`] finds them.
///
/// # Errors
/// As [`read`]; [`DatasetError::TrainedAndTested`] for trees of which one tests on a subject that another
/// trains on.
pub fn read_to_train(root: &Path) -> Result<Vec<LabelledImage>, DatasetError> {
    let splits = split_folders(root)?;
    if !splits.iter().any(|split| split.trains()) {
        return read(root);
    }
    let (mut images, mut tested) = (Vec::new(), BTreeMap::new());
    for split in &splits {
        let whole = split.part(root, "train_all")?;
        if whole.is_empty() {
            images.extend(split.part(root, "train")?);
            images.extend(split.part(root, "val")?);
        } else {
            images.extend(whole);
        }
        let asked_about =
            split.part(root, "test")?.into_iter().chain(split.drawn(root, usize::MAX)?);
        tested.extend(asked_about.map(|image| (image.key(), &split.path)));
    }
    let on_both_sides = |image: &&LabelledImage| tested.contains_key(&image.key());
    if let Some(image) = images.iter().find(on_both_sides) {
        return Err(DatasetError::TrainedAndTested {
            subject: image.key(),
            trained: image.path.clone(),
            tested: tested[&image.key()].clone(),
        });
    }
    if images.is_empty() { Err(DatasetError::Nothing(root.to_path_buf())) } else { Ok(images) }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{subjects, tree};
    use super::*;

    #[test]
    fn of_a_tree_of_published_splits_only_the_training_part_is_trained_on() {
        for base in [
            "11k/train_val_test_split_dorsal_r",
            "HD/Original Images/train_val_test_split",
            "HD/Original_Images/train_val_test_split",
            "",
        ] {
            let files = ["train_all/7/1.jpg", "train/7/1.jpg", "val/7/2.jpg", "train_all/7/2.jpg"];
            let others = ["test/9/3.jpg", "query0/9/3.jpg", "gallery0_all/11000005/1.jpg"];
            let files: Vec<String> =
                files.iter().chain(&others).map(|file| format!("{base}/{file}")).collect();
            let files: Vec<&str> = files.iter().map(|file| file.trim_start_matches('/')).collect();
            let dir = tree(&files);
            assert_eq!(subjects(&read_to_train(dir.path()).unwrap()), ["7", "7"], "{base}");
            std::fs::remove_dir_all(dir.path().join(base).join("train_all")).unwrap();
            assert_eq!(read_to_train(dir.path()).unwrap().len(), 2, "train and val of {base}");
        }
        let dir =
            tree(&["a/train/7/1.jpg", "a/test/8/1.jpg", "b/train/6/1.jpg", "b/test/0007/1.jpg"]);
        let message = read_to_train(dir.path()).unwrap_err().to_string();
        assert!(message.contains("subject 7") && message.contains("one split"), "{message}");
        assert_eq!(subjects(&read_to_train(&dir.path().join("a")).unwrap()), ["7"]);
        // Whoever is enrolled or asked about in a draw is tested on, with and without a folder of all of them.
        for draw in ["b/query0/0007/1.jpg", "b/gallery12/7/1.jpg"] {
            let dir = tree(&["a/train/7/1.jpg", "a/query0/8/1.jpg", "b/train/6/1.jpg", draw]);
            let message = read_to_train(dir.path()).unwrap_err().to_string();
            assert!(message.contains("subject 7") && message.contains("one split"), "{message}");
        }
        let draw = ["b/query0/7/1.jpg", "b/gallery0/7/2.jpg"];
        let dir = tree(&["a/train/7/1.jpg", "a/test/8/1.jpg", draw[0], draw[1]]);
        assert!(matches!(read_to_train(dir.path()), Err(DatasetError::TrainedAndTested { .. })));
        // Anything else is trained on whole.
        let dir = tree(&["ann/1.jpg", "train/1.jpg"]);
        assert_eq!(read_to_train(dir.path()).unwrap().len(), 2);
    }
}
