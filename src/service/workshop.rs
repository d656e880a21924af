use std::path::PathBuf;

use parking_lot::Mutex;

use crate::gallery::Galleries;
use crate::storage::Failpoint;

use super::DataRoot;
use super::deployment::Deployments;
use super::evaluate::GateMargins;
use super::options::ServiceOptions;
use super::registry::Registry;

/// What jobs work with, apart from what they are told.
pub(super) struct Workshop {
    pub(super) galleries: Galleries,
    pub(super) deployments: Deployments,
    pub(super) registry: Registry,
    /// How much worse a challenger may be.
    pub(super) gate_margins: GateMargins,
    /// Largest data set that is taken, in bytes.
    pub(super) max_dataset_bytes: u64,
    /// Largest model that is taken, in bytes.
    pub(super) max_model_bytes: u64,
    pub(super) failpoint: Failpoint,
    /// Held by whoever changes a list of what was trained on, or makes a model of a run.
    pub(super) lists: Mutex<()>,
    /// Most memory that a deployment may take, in bytes; `None` for what the system has.
    pub(super) deploy_memory_bytes: Option<u64>,
    /// Largest image file, in bytes.
    pub(super) max_image_bytes: usize,
    /// Where jobs may keep what is too large for their records; each kind has a folder of its own in it.
    pub(super) data_dir: PathBuf,
    /// Folders that requests may name.
    pub(super) data_roots: Vec<DataRoot>,
}

impl Workshop {
    pub(super) fn new(
        galleries: Galleries,
        deployments: Deployments,
        registry: Registry,
        failpoint: Failpoint,
        options: &ServiceOptions,
    ) -> Self {
        Self {
            galleries,
            deployments,
            registry,
            gate_margins: options.gate_margins,
            max_dataset_bytes: options.max_dataset_bytes,
            max_model_bytes: options.max_model_bytes,
            failpoint,
            lists: Mutex::default(),
            deploy_memory_bytes: options.deploy_memory_bytes,
            max_image_bytes: options.max_image_bytes,
            data_dir: options.data_dir.clone(),
            data_roots: options.data_roots.clone(),
        }
    }
}
