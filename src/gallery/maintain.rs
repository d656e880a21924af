use std::sync::Arc;

use super::index::RowInfo;
use super::{Gallery, GalleryError};

/// Asks for a merge in the background.
#[derive(Debug, Clone, Default)]
pub(super) struct Maintenance;

/// TODO
#[derive(Debug, Default)]
pub(super) struct Maintainer;

impl Maintainer {
    pub(super) fn start(_on: bool) -> Result<Self, GalleryError> {
        Ok(Self)
    }
    pub(super) fn handle(&self) -> Maintenance {
        Maintenance
    }
    pub(super) fn stop(&self) {}
}

impl Gallery {
    /// Fills the index from the templates of `rows`, which are in order of enrolment.
    pub(super) fn load_index(&self, rows: Vec<RowInfo>) -> Result<(), GalleryError> {
        for row in rows {
            let template = self.template(row.subject_number, row.number)?;
            self.index.push([(Arc::new(row), template.as_slice())]);
        }
        Ok(())
    }

    pub(super) fn changed(&self) {}

    pub(super) fn changed_all(_this: &Arc<Self>) {}

    /// Saves the index.
    pub(super) fn save(&self) -> Result<(), GalleryError> {
        Ok(())
    }

    /// Merges the tail.
    ///
    /// # Errors
    /// [`GalleryError::Index`] or the store's.
    pub fn compact(&self) -> Result<(), GalleryError> {
        Ok(())
    }
}
