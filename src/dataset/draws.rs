//! Draws of query and gallery that lie in folders, as the published scripts write them.

use std::path::{Path, PathBuf};

use super::DatasetError;
use super::read::{LabelledImage, SPLIT_PREFIX, folders, unreadable};

/// One draw: `query{i}`, `gallery{i}` and, where it is there, `gallery{i}_all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawFolders {
    /// Asked about.
    pub query: Vec<LabelledImage>,
    /// Enrolled.
    pub gallery: Vec<LabelledImage>,
    /// Enrolled with distractors, whose ids no query has.
    pub gallery_all: Option<Vec<LabelledImage>>,
}

/// The draws of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawTree {
    /// `dorsal_r` and its like; the folder's name where it is no published split.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// `query0` and `gallery0` first.
    pub draws: Vec<DrawFolders>,
}

/// Finds the trees of draws under `root`, itself included; none where there is no `query0`. At most `most`
/// draws of each are read.
///
/// # Errors
/// [`DatasetError`], also for a draw that lacks one of its two folders.
pub fn draw_trees(root: &Path, most: usize) -> Result<Vec<DrawTree>, DatasetError> {
    let mut trees = Vec::new();
    let mut walk = walkdir::WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| unreadable(root, error))?;
        if !entry.file_type().is_dir() || !entry.path().join("query0").is_dir() {
            continue;
        }
        // Nothing below a tree is another one.
        walk.skip_current_dir();
        trees.push(tree(entry.path(), most)?);
    }
    Ok(trees)
}

fn tree(path: &Path, most: usize) -> Result<DrawTree, DatasetError> {
    let of_hand = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(SPLIT_PREFIX));
    let name = path.canonicalize().ok().filter(|_| !of_hand).unwrap_or_else(|| path.to_path_buf());
    let name =
        name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut draws = Vec::new();
    for number in 0..most {
        let query = path.join(format!("query{number}"));
        if !query.is_dir() {
            break;
        }
        let all = path.join(format!("gallery{number}_all"));
        draws.push(DrawFolders {
            query: part(path, &query)?,
            gallery: part(path, &path.join(format!("gallery{number}")))?,
            gallery_all: all.is_dir().then(|| part(path, &all)).transpose()?,
        });
    }
    let name = name.strip_prefix(SPLIT_PREFIX).map_or(name.clone(), str::to_owned);
    Ok(DrawTree { name, path: path.to_path_buf(), draws })
}

/// The split's folder is the root, so that its name says which hand is shown.
fn part(tree: &Path, path: &Path) -> Result<Vec<LabelledImage>, DatasetError> {
    let images = folders(tree, path)?;
    if images.is_empty() { Err(DatasetError::Nothing(path.to_path_buf())) } else { Ok(images) }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::tree as tree_of;
    use super::*;
    use crate::domain::{Aspect, Side};

    const TREE: [&str; 7] = [
        "11k/train_val_test_split_dorsal_r/train/0000001/Hand_1.jpg",
        "11k/train_val_test_split_dorsal_r/query0/0001053/Hand_2.jpg",
        "11k/train_val_test_split_dorsal_r/gallery0/0001053/Hand_3.jpg",
        "11k/train_val_test_split_dorsal_r/gallery0_all/0001053/Hand_3.jpg",
        "11k/train_val_test_split_dorsal_r/gallery0_all/11001053/Hand_9.jpg",
        "11k/train_val_test_split_dorsal_r/query1/0001053/Hand_3.jpg",
        "11k/train_val_test_split_dorsal_r/gallery1/0001053/Hand_2.jpg",
    ];

    #[test]
    fn published_trees_are_found_from_any_folder_above_them() {
        let dir = tree_of(&TREE);
        let from_top = draw_trees(dir.path(), 10).unwrap();
        let split = dir.path().join("11k/train_val_test_split_dorsal_r");
        assert_eq!(draw_trees(&split, 10).unwrap(), from_top);
        assert_eq!((from_top.len(), from_top[0].name.as_str()), (1, "dorsal_r"));
        let draws = &from_top[0].draws;
        assert_eq!((draws.len(), draws[0].query.len(), draws[0].gallery.len()), (2, 1, 1));
        let all = draws[0].gallery_all.as_ref().unwrap();
        assert_eq!(all.iter().map(LabelledImage::key).collect::<Vec<_>>(), ["1053", "11001053"]);
        assert_eq!(draws[1].gallery_all, None);
        let attributes = &draws[0].query[0].attributes;
        assert_eq!((attributes.aspect, attributes.side), (Some(Aspect::Dorsal), Some(Side::Right)));
        assert_eq!(draw_trees(dir.path(), 1).unwrap()[0].draws.len(), 1);
    }

    #[test]
    fn trees_behind_links_are_found_by_the_names_of_the_links() {
        let store = tree_of(&["kept/query0/7/1.jpg", "kept/gallery0/7/2.jpg"]);
        let dir = tree_of(&[]);
        let link = dir.path().join("train_val_test_split_palmar_l");
        std::os::unix::fs::symlink(store.path().join("kept"), &link).unwrap();
        let trees = draw_trees(dir.path(), 10).unwrap();
        assert_eq!((trees.len(), trees[0].name.as_str(), &trees[0].path), (1, "palmar_l", &link));
    }

    #[test]
    fn a_draw_without_its_gallery_is_an_error_and_other_folders_are_no_tree() {
        let dir = tree_of(&["split/query0/1/a.jpg"]);
        assert!(draw_trees(dir.path(), 10).is_err());
        let dir = tree_of(&["ann/1.jpg", "bob/2.jpg"]);
        assert!(draw_trees(dir.path(), 10).unwrap().is_empty());
    }
}
