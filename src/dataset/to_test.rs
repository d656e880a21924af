//! What of a data set may be tested on.

use std::path::Path;

use super::DatasetError;
use super::folders::split_folders;
use super::read::{LabelledImage, read};

/// The images that may be tested on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTest {
    /// The images.
    pub images: Vec<LabelledImage>,
    /// Whether there are splits, so that these are not all.
    pub of_splits: bool,
}

/// The images under `root` that may be tested on: of a tree of published splits `test` (or the first draw) of each
/// split, where every image lies once; of everything else all, as [`read`] finds them.
///
/// # Errors
/// As [`read`].
pub fn read_to_test(root: &Path) -> Result<ToTest, DatasetError> {
    let splits = split_folders(root)?;
    if splits.is_empty() {
        return Ok(ToTest { images: read(root)?, of_splits: false });
    }
    let mut images = Vec::new();
    for split in &splits {
        let whole = split.part(root, "test")?;
        images.extend(if whole.is_empty() { split.drawn(root, 1)? } else { whole });
    }
    if images.is_empty() {
        return Err(DatasetError::Nothing(root.to_path_buf()));
    }
    Ok(ToTest { images, of_splits: true })
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{subjects, tree};
    use super::*;

    #[test]
    fn of_a_tree_of_splits_every_image_that_is_tested_on_is_read_once() {
        let dir = tree(&[
            "train_val_test_split_dorsal_r/train/7/1.jpg",
            "train_val_test_split_dorsal_r/test/9/3.jpg",
            "train_val_test_split_dorsal_r/test/9/4.jpg",
            "train_val_test_split_dorsal_r/query0/9/3.jpg",
            "train_val_test_split_dorsal_r/gallery0/9/4.jpg",
            "train_val_test_split_dorsal_r/gallery0_all/11000005/1.jpg",
            "other/query0/8/1.jpg",
            "other/gallery0/8/2.jpg",
            "other/query1/8/2.jpg",
            "other/gallery1/8/1.jpg",
        ]);
        let found = read_to_test(dir.path()).unwrap();
        assert_eq!((subjects(&found.images), found.of_splits), (vec!["8", "8", "9", "9"], true));
        assert!(found.images[2].attributes.aspect.is_some(), "its folder says which hand it is");
        let dir = tree(&["ann/1.jpg", "test/1.jpg"]);
        let found = read_to_test(dir.path()).unwrap();
        assert_eq!((found.images, found.of_splits), (read(dir.path()).unwrap(), false));
    }
}
