//! Whether a second model and a second set of templates fit, before anything is begun.

use std::path::Path;

use super::record::ModelRef;
use crate::model::Embedder;
use crate::service::ServiceError;
use crate::service::room::{available_memory, free_disk};
use crate::service::workshop::Workshop;

/// The files of the model inside the binary, or more.
const NANO_BYTES: u64 = 8 * 1024 * 1024;
/// Beyond weights and templates: buffers, lists being made.
const SLACK: u64 = 64 * 1024 * 1024;
/// Bytes of a sample in an index beside its template and its codes: names, numbers.
const ROW: u64 = 256;
/// How much of what is written sled may take before it gives room back.
const LOG_FACTOR: u64 = 3;

/// Refuses what does not fit.
pub(super) fn preflight(workshop: &Workshop, model: &ModelRef) -> Result<(), ServiceError> {
    let dir = match model {
        ModelRef::Nano => None,
        ModelRef::Registered(name) => {
            Some(workshop.data_dir.join("models").join(name).join("files"))
        }
        ModelRef::Directory(path) => Some(path.clone()),
    };
    // A narrow model holds more than its files do.
    let held = |dir: &Path| Embedder::bytes(dir).unwrap_or(0).max(size_of(dir));
    let (file, held) = dir.map_or((NANO_BYTES, NANO_BYTES), |dir| (size_of(&dir), held(&dir)));
    let samples: u64 =
        workshop.galleries.list().iter().map(|gallery| gallery.info().samples as u64).sum();
    // The new model's dimensions are known when it is open; those of today are near enough.
    let dim = workshop.deployments.load().live.space().dim as u64;
    // Each value as it is, as a byte and as a bit; twice, since a merge copies what it merges.
    let templates = samples.saturating_mul(2 * (dim * 5 + dim / 8 + ROW));
    // Weights are read whole before they are placed.
    let needed = file.saturating_add(held).saturating_add(templates).saturating_add(SLACK);
    let system = available_memory().unwrap_or(u64::MAX);
    let available = workshop.deploy_memory_bytes.map_or(system, |budget| budget.min(system));
    if needed > available {
        return Err(ServiceError::InsufficientMemory { needed, available });
    }
    let records = samples.saturating_mul(dim * 4 + ROW);
    let needed = records.saturating_mul(LOG_FACTOR).saturating_add(SLACK);
    let free = free_disk(&workshop.data_dir);
    if free.is_some_and(|free| needed > free) {
        let free = free.unwrap_or(0);
        return Err(ServiceError::StorageFull(format!(
            "the templates of the new model may take {needed} bytes and {free} are free"
        )));
    }
    Ok(())
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum()
}
