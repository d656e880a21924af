use std::path::PathBuf;

use crate::gallery::Galleries;

use super::DataRoot;
use super::options::ServiceOptions;

/// What jobs work with, apart from what they are told.
pub(super) struct Workshop {
    pub(super) galleries: Galleries,
    /// Where jobs may keep what is too large for their records; each kind has a folder of its own in it.
    pub(super) data_dir: PathBuf,
    /// Folders that requests may name.
    pub(super) data_roots: Vec<DataRoot>,
    /// `auto`, `cpu` or `cuda:N`.
    pub(super) device: String,
}

impl Workshop {
    pub(super) fn new(galleries: Galleries, options: &ServiceOptions) -> Self {
        Self {
            galleries,
            data_dir: options.data_dir.clone(),
            data_roots: options.data_roots.clone(),
            device: options.device.clone(),
        }
    }
}
