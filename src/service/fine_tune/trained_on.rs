//! Which images a run saw: so that nobody evaluates a model on the people it was trained on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::dataset::hex;
use crate::storage::StorageError;
use crate::storage::file::write_atomic;

/// The record's file, in the run's folder.
const FILE: &str = "data.json";

/// SHA-256 of every image file of a run, hexadecimal, by what it was used for. Says nothing else of anyone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// Of this file.
    format: u32,
    trained: Vec<String>,
    validated: Vec<String>,
    held_out: Vec<String>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrainedOnError {
    /// The file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is there and damaged: whom the model knows is not known.
    #[error("{path} is damaged: {problem}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        problem: String,
    },
}

impl TrainedOn {
    pub(super) fn new(parts: [Vec<String>; 3]) -> Self {
        let [trained, validated, held_out] = parts;
        Self { format: 1, trained, validated, held_out }
    }

    pub(super) fn save(&self, run: &Path) -> Result<(), StorageError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_atomic(&run.join(FILE), &text)
    }

    /// The record of the run that made a model: it lies beside `best` and `last`. `None` for other models.
    ///
    /// # Errors
    /// [`TrainedOnError`].
    pub fn beside(model: &Path) -> Result<Option<Self>, TrainedOnError> {
        let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
        let Some(run) = model.parent() else { return Ok(None) };
        let path = run.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&path)
            .map_err(|source| TrainedOnError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| TrainedOnError::Damaged { path, problem: error.to_string() })
    }

    /// Images that the weights were trained on or chosen by.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.trained.iter().chain(&self.validated).map(String::as_str)
    }
}

/// SHA-256 of a file's bytes, hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
