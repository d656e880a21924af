//! Files that are copies of each other.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::read::LabelledImage;
use super::sha256;

/// Leaves out images whose bytes an earlier one of the same subject has: enrolled and asked about, a file would find
/// itself. What cannot be read is no copy of anything.
#[must_use]
pub fn distinct(images: Vec<LabelledImage>) -> Vec<LabelledImage> {
    let hashes: Vec<Option<String>> =
        images.par_iter().map(|image| sha256(&image.path).ok()).collect();
    let mut known = BTreeSet::new();
    let is_new = |(image, hash): &(LabelledImage, Option<String>)| {
        hash.as_ref().is_none_or(|hash| known.insert((image.key(), hash.clone())))
    };
    images.into_iter().zip(hashes).filter(is_new).map(|(image, _)| image).collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::super::read::tests::{subjects, tree};
    use super::*;
    use crate::dataset::read;

    #[test]
    fn a_copy_is_left_out_where_it_is_of_the_same_subject() {
        let dir = tree(&["0007/1.jpg", "0007/2.jpg", "7/3.jpg", "ann/1.jpg", "ann/2.jpg"]);
        std::fs::write(dir.path().join("0007/2.jpg"), "another").unwrap();
        let images = read(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("ann/2.jpg")).unwrap();
        assert_eq!(subjects(&distinct(images)), ["0007", "0007", "ann", "ann"]);
    }
}
