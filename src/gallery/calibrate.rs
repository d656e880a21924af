//! The thresholds that go with a gallery's templates. They belong to a generation: another model's similarities
//! mean something else.

use std::sync::Arc;

use crate::domain::Calibration;
use crate::storage::{Batch, Seal};

use super::catalogue::Busy;
use super::key::Key;
use super::record::{from_json, to_json};
use super::space::Space;
use super::{Gallery, GalleryError};

impl Gallery {
    /// The thresholds in use; `None` while the gallery is not calibrated.
    #[must_use]
    pub fn calibration(&self) -> Option<Arc<Calibration>> {
        self.spaces.load().home.calibration.load_full()
    }

    /// Uses these thresholds from now on; durable when this returns. `None` uses none. Those of a model that a deployment
    /// is bringing are used from the moment it serves.
    ///
    /// # Errors
    /// [`GalleryError::Fingerprint`] for thresholds of another model, or the store's.
    pub fn set_calibration(&self, calibration: Option<Calibration>) -> Result<(), GalleryError> {
        let mut batch = Batch::default();
        // Held to the end, so that the record and what is in use are of the same call.
        let _reservation = self.reserve(vec![Busy::Calibration]);
        if self.state().deleted {
            return Err(GalleryError::GalleryNotFound(self.doc.id.clone()));
        }
        let spaces = self.spaces.load();
        let space = match &calibration {
            None => &spaces.home,
            Some(calibration) => {
                let (got, expected) = (calibration.fingerprint, spaces.home.of.fingerprint);
                let mut both = spaces.both();
                let found = both.find(|space| space.of.fingerprint == got);
                found.ok_or(GalleryError::Fingerprint { got, expected })?
            }
        };
        let key = self.calibration_key(space).encode();
        match &calibration {
            Some(calibration) => {
                batch.put(key, to_json("calibration", calibration)?, Seal::Store);
            }
            None => batch.remove(key),
        }
        self.store.commit(batch)?;
        space.calibration.store(calibration.map(Arc::new));
        Ok(())
    }

    /// Reads the thresholds of every space.
    pub(super) fn load_calibrations(&self) -> Result<(), GalleryError> {
        for space in self.spaces.load().both() {
            let at = self.calibration_key(space).encode();
            let Some(text) = self.store.get(&at)? else { continue };
            let calibration: Calibration = from_json(&at, &text)?;
            if calibration.fingerprint != space.of.fingerprint {
                return Err(GalleryError::inconsistent(&at, "a calibration of another model"));
            }
            space.calibration.store(Some(Arc::new(calibration)));
        }
        Ok(())
    }

    fn calibration_key(&self, space: &Space) -> Key {
        Key::Calibration { gallery: self.number, generation: space.of.generation.0 }
    }
}
