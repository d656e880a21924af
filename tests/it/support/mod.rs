//! What several tests need: where the shared photos lie, where golden files lie.

pub(crate) mod app;

use std::path::{Path, PathBuf};

/// The folder of shared research data, or `None` (with a printed line) where it is missing.
pub(crate) fn shared_data(test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HANDCLIP_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped {test}: no shared data at {} (set HANDCLIP_SHARED)", root.display());
    None
}

/// A committed golden file.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}
