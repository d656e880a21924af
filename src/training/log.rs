use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::TrainingError;

/// One line of `metrics.jsonl`: what happened since the line before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Epoch {
    /// Optimiser steps taken.
    pub step: usize,
    /// Mean loss.
    pub loss: f64,
    /// Mean identity loss.
    pub identity: f64,
    /// Mean image-text loss.
    pub text: f64,
    /// Mean gradient norm before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Training pictures a second, validation left out.
    pub images_per_second: f64,
    /// What the validation scored.
    pub score: f64,
}

/// Appends to `metrics.jsonl` in a run's folder.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    file: File,
}

impl RunLog {
    /// Opens the log in `folder`, which must exist.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn open(folder: &Path) -> Result<Self, TrainingError> {
        let path = folder.join("metrics.jsonl");
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.map_err(|source| TrainingError::Write { path: path.clone(), source })?;
        Ok(Self { path, file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn write(&mut self, epoch: &impl Serialize) -> Result<(), TrainingError> {
        let line = serde_json::to_string(epoch).map_err(std::io::Error::other);
        line.and_then(|line| writeln!(self.file, "{line}"))
            .map_err(|source| TrainingError::Write { path: self.path.clone(), source })
    }
}
