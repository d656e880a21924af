//! Where splits lie, as the published scripts lay them out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::DatasetError;
use super::read::{LabelledImage, folders, hand_info, is_number, unreadable};

/// A folder that holds parts of a split.
pub(super) struct SplitFolder {
    pub(super) path: PathBuf,
    /// Numbers of its draws, as their folders write them.
    draws: BTreeSet<String>,
}

impl SplitFolder {
    /// `None` for a folder that holds no split: one that lacks a side.
    fn at(path: &Path) -> Option<Self> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names: BTreeSet<String> = names.filter(|name| path.join(name).is_dir()).collect();
        // Not `gallery0_all`: its distractors are tested on in other splits.
        let numbers = |part: &'static str| {
            names.iter().filter_map(move |name| name.strip_prefix(part).filter(|n| is_number(n)))
        };
        let has = |name: &str| names.contains(name);
        let (trained, asked) = (has("train") || has("train_all"), numbers("query").next());
        let enrolled = numbers("gallery").next();
        let tested = has("test") || asked.is_some() || enrolled.is_some();
        if !(trained && tested || asked.is_some() && enrolled.is_some()) {
            return None;
        }
        let draws = numbers("query").chain(numbers("gallery")).map(str::to_owned).collect();
        Some(Self { path: path.to_path_buf(), draws })
    }

    /// Whether it holds what is trained on.
    pub(super) fn trains(&self) -> bool {
        ["train", "train_all"].into_iter().any(|part| self.path.join(part).is_dir())
    }

    /// Images of one of its parts; none where that is not there. `root`: of the data set.
    pub(super) fn part(&self, root: &Path, name: &str) -> Result<Vec<LabelledImage>, DatasetError> {
        let folder = self.path.join(name);
        if folder.is_dir() { folders(root, &folder) } else { Ok(Vec::new()) }
    }

    /// Images of its draws, each as often as it is drawn; of the first `most` of them.
    pub(super) fn drawn(
        &self,
        root: &Path,
        most: usize,
    ) -> Result<Vec<LabelledImage>, DatasetError> {
        let mut images = Vec::new();
        for number in self.draws.iter().take(most) {
            images.extend(self.part(root, &format!("query{number}"))?);
            images.extend(self.part(root, &format!("gallery{number}"))?);
        }
        Ok(images)
    }
}

/// Folders under `root`, itself included, that hold splits; none where labels say what the data set holds.
pub(super) fn split_folders(root: &Path) -> Result<Vec<SplitFolder>, DatasetError> {
    /// `HD/Original Images/train_val_test_split`, and one more for what holds it.
    const DEEPEST: usize = 4;
    if !root.is_dir() || hand_info(root).is_some() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let entries =
        walkdir::WalkDir::new(root).max_depth(DEEPEST).follow_links(true).sort_by_file_name();
    for entry in entries.into_iter().filter_entry(|entry| entry.file_type().is_dir()) {
        let entry = entry.map_err(|error| unreadable(root, error))?;
        found.extend(SplitFolder::at(entry.path()));
    }
    Ok(found)
}

/// Refuses a tree of splits, which holds every image several times.
///
/// # Errors
/// [`DatasetError::Divided`]; [`DatasetError::Read`].
pub fn check_undivided(root: &Path) -> Result<(), DatasetError> {
    match split_folders(root)?.into_iter().next() {
        Some(split) => Err(DatasetError::Divided(split.path)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::tree;
    use super::*;

    #[test]
    fn a_tree_of_splits_is_told_from_a_data_set() {
        for files in [
            &["a/train/7/1.jpg", "a/test/9/1.jpg"][..],
            &["a/train_all/7/1.jpg", "a/query3/9/1.jpg"],
            &["a/train/7/1.jpg", "a/gallery0/9/1.jpg"],
            &["a/query0/9/1.jpg", "a/gallery0/9/2.jpg"],
        ] {
            let dir = tree(files);
            let message = check_undivided(dir.path()).unwrap_err().to_string();
            assert!(message.contains("a holds splits") && message.contains("a/train_all"));
            check_undivided(dir.path().join(files[0]).parent().unwrap()).unwrap();
        }
        for files in [
            &["ann/1.jpg", "train/1.jpg"][..],
            &["train/7/1.jpg", "val/7/2.jpg"],
            &["query/1.jpg", "gallery/1.jpg", "query0_old/1.jpg"],
            &["HandInfo.csv", "train/7/1.jpg", "test/9/1.jpg"],
        ] {
            check_undivided(tree(files).path()).unwrap();
        }
    }
}
