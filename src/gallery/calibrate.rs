//! The thresholds that go with a gallery's templates. They belong to a generation: another model's similarities
//! mean something else.

use std::sync::Arc;

use crate::domain::Calibration;
use crate::storage::{Batch, Seal};

use super::catalogue::Busy;
use super::key::Key;
use super::record::{from_json, to_json};
use super::{Gallery, GalleryError};

impl Gallery {
    /// The thresholds in use; `None` while the gallery is not calibrated.
    #[must_use]
    pub fn calibration(&self) -> Option<Arc<Calibration>> {
        self.calibration.load_full()
    }

    /// Uses these thresholds from now on; durable when this returns. `None` uses none.
    ///
    /// # Errors
    /// [`GalleryError::Fingerprint`] for thresholds of another model, or the store's.
    pub fn set_calibration(&self, calibration: Option<Calibration>) -> Result<(), GalleryError> {
        let key = self.calibration_key();
        let mut batch = Batch::default();
        // Held to the end, so that the record and what is in use are of the same call.
        let _reservation = self.reserve(vec![Busy::Calibration]);
        if self.state().deleted {
            return Err(GalleryError::GalleryNotFound(self.doc.id.clone()));
        }
        match &calibration {
            Some(calibration) if calibration.fingerprint != self.doc.fingerprint => {
                return Err(GalleryError::Fingerprint {
                    got: calibration.fingerprint,
                    expected: self.doc.fingerprint,
                });
            }
            Some(calibration) => {
                batch.put(key.encode(), to_json("calibration", calibration)?, Seal::Store);
            }
            None => batch.remove(key.encode()),
        }
        self.store.commit(batch)?;
        self.calibration.store(calibration.map(Arc::new));
        Ok(())
    }

    /// Reads the thresholds of the gallery's generation.
    pub(super) fn load_calibration(&self) -> Result<(), GalleryError> {
        let at = self.calibration_key().encode();
        if let Some(text) = self.store.get(&at)? {
            let calibration: Calibration = from_json(&at, &text)?;
            if calibration.fingerprint != self.doc.fingerprint {
                return Err(GalleryError::inconsistent(&at, "a calibration of another model"));
            }
            self.calibration.store(Some(Arc::new(calibration)));
        }
        Ok(())
    }

    fn calibration_key(&self) -> Key {
        Key::Calibration { gallery: self.number, generation: self.doc.generation.0 }
    }
}
