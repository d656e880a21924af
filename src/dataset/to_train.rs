//! What of a data set may be trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::DatasetError;
use super::read::{LabelledImage, folders, hand_info, read, unreadable};

/// The images under `root` that may be trained on: of a tree of published splits `train_all` (or `train` and
/// `val`) of each split, of everything else all, as [`read`] finds them.
///
/// # Errors
/// As [`read`]; [`DatasetError::TrainedAndTested`] for trees of which one tests on a subject that another
/// trains on.
pub fn read_to_train(root: &Path) -> Result<Vec<LabelledImage>, DatasetError> {
    let splits =
        if root.is_dir() && hand_info(root).is_none() { splits(root)? } else { Vec::new() };
    if splits.is_empty() {
        return read(root);
    }
    let part = |folder: PathBuf| if folder.is_dir() { folders(root, &folder) } else { Ok(vec![]) };
    let (mut images, mut tested) = (Vec::new(), BTreeMap::new());
    for split in &splits {
        let whole = part(split.join("train_all"))?;
        if whole.is_empty() {
            images.extend(part(split.join("train"))?);
            images.extend(part(split.join("val"))?);
        } else {
            images.extend(whole);
        }
        tested.extend(part(split.join("test"))?.into_iter().map(|image| (image.key(), split)));
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

/// Folders under `root` that hold what is trained on beside what is tested on.
fn splits(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    /// `HD/Original Images/train_val_test_split`, and one more for what holds it.
    const DEEPEST: usize = 4;
    let mut found = Vec::new();
    let entries = walkdir::WalkDir::new(root).max_depth(DEEPEST).sort_by_file_name();
    // The root may be a link to a folder.
    let is_folder = |entry: &walkdir::DirEntry| entry.depth() == 0 || entry.file_type().is_dir();
    for entry in entries.into_iter().filter_entry(is_folder) {
        let folder = entry.map_err(|error| unreadable(root, error))?.into_path();
        let has = |name: &str| folder.join(name).is_dir();
        if (has("train") || has("train_all")) && (has("test") || has("query0")) {
            found.push(folder);
        }
    }
    Ok(found)
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
        // Anything else is trained on whole.
        let dir = tree(&["ann/1.jpg", "train/1.jpg"]);
        assert_eq!(read_to_train(dir.path()).unwrap().len(), 2);
    }
}
