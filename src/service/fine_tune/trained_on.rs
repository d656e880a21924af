//! Which images a run saw: so that nobody evaluates a model on the people it was trained on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::hex;
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
    /// Names this list: who knows an id can ask whether it is in it, and two lists of the same people look different.
    #[serde(default)]
    salt: String,
    /// SHA-256 of the salt and the id of every subject trained on or validated on, sorted.
    #[serde(default)]
    subjects: Vec<String>,
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
    pub(super) fn new<'a>(
        parts: [Vec<String>; 3],
        subjects: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let [trained, validated, held_out] = parts;
        // The same for the same images, so that a run that goes on writes the same list again.
        let salt = hash(trained.concat().as_bytes());
        let hashed = subjects.into_iter().map(|id| hash(format!("{salt}/{id}").as_bytes()));
        let subjects: BTreeSet<String> = hashed.collect();
        let subjects = subjects.into_iter().collect();
        Self { format: 1, trained, validated, held_out, salt, subjects }
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
