//! Data sets: finding labelled images in the layouts of the field, dividing their subjects as the published
//! protocols do, and looking for what is wrong with them. Knows neither models nor galleries.

mod distinct;
mod draws;
mod error;
mod folders;
mod inspect;
mod read;
mod split;
mod to_test;
mod to_train;
mod tree;

pub use distinct::distinct;
pub use draws::{DrawFolders, DrawTree, draw_trees};
pub use error::DatasetError;
pub use folders::check_undivided;
pub use inspect::{Inspection, NearDuplicate, Unreadable, inspect};
pub use read::{LabelledImage, read};
pub use split::{HANDS, Hand, Protocol, RUNS, Run, Split, leaks, split, without_offset};
pub use to_test::{ToTest, read_to_test};
pub use to_train::read_to_train;
pub use tree::{Count, Manifest, ManifestFile, SplitCounts, counts, sha256, write_tree};
