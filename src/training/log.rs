use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::storage::file::write_atomic;

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

    /// Opens the log in `folder` and drops the lines of epoch `epoch` and later: a process that died may have
    /// written them, and they will be written again.
    ///
    /// # Errors
    /// [`TrainingError::Write`], [`TrainingError::Storage`].
    pub fn open_before(folder: &Path, epoch: usize) -> Result<Self, TrainingError> {
        let path = folder.join("metrics.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(TrainingError::Write { path, source }),
        };
        // A line cut short by the end of the process is no JSON, and of no epoch.
        let of = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["epoch"]["epoch"].as_u64()
        };
        let kept: String = text
            .lines()
            .filter(|line| of(line).is_some_and(|of| of < epoch as u64))
            .flat_map(|line| [line, "\n"])
            .collect();
        write_atomic(&path, kept.as_bytes())?;
        Self::open(folder)
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
