//! The record of experiments: what was run, on what, and what came out. Each run keeps its own record, so a folder
//! of runs is the ledger; nothing else has to be kept in step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::now_ms;
use crate::storage::StorageError;
use crate::storage::file::write_atomic;

/// The record's file, in the run's folder.
pub const RECORD: &str = "run.json";

/// What kind of experiment a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A model was fine-tuned.
    Train,
    /// A system was evaluated.
    Evaluate,
    /// Systems were compared.
    Compare,
    /// Thresholds were calibrated.
    Calibrate,
    /// A system met corrupted images.
    Robustness,
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Compare => "compare",
            Self::Calibrate => "calibrate",
            Self::Robustness => "robustness",
        })
    }
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Of this file.
    pub format: u32,
    /// What was done.
    pub kind: RunKind,
    /// When it ended, milliseconds since 1970.
    pub finished_at_ms: u64,
    /// This program's version.
    pub version: String,
    /// The command.
    pub command: String,
    /// What decided the outcome: model, data, protocol, seed, recipe.
    pub settings: BTreeMap<String, String>,
    /// What came out, by name.
    pub figures: BTreeMap<String, f64>,
}

impl RunRecord {
    /// A record of something that just ended.
    #[must_use]
    pub fn new(kind: RunKind, command: &str) -> Self {
        Self {
            format: 1,
            kind,
            finished_at_ms: now_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            settings: BTreeMap::new(),
            figures: BTreeMap::new(),
        }
    }

    /// Adds something that decided the outcome.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.insert(name.to_owned(), value.to_string());
    }

    /// Adds a figure; one that is not a number is left out.
    pub fn figure(&mut self, name: impl Into<String>, value: f64) {
        if value.is_finite() {
            self.figures.insert(name.into(), value);
        }
    }

    /// Writes the record into the run's folder.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn save(&self, folder: &Path) -> Result<(), LedgerError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| LedgerError::Record {
            path: folder.join(RECORD),
            problem: error.to_string(),
        })?;
        Ok(write_atomic(&folder.join(RECORD), &text)?)
    }
}

/// A run in a folder of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its folder's name.
    pub id: String,
    /// Its record.
    #[serde(flatten)]
    pub record: RunRecord,
}

/// A setting or figure in which two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference<T> {
    /// Its name.
    pub name: String,
    /// What the first run has.
    pub a: Option<T>,
    /// What the second run has.
    pub b: Option<T>,
}

/// How two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunDiff {
    /// Settings that are not the same.
    pub settings: Vec<Difference<String>>,
    /// All figures of either.
    pub figures: Vec<Difference<f64>>,
}

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No folder of runs.
    #[error("there are no runs in {path}: `--out {path}/NAME` leaves one there, and --runs-dir names another folder", path = .0.display())]
    NoFolder(PathBuf),
    /// A record is damaged.
    #[error("{path} is no record of a run: {problem}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No such run.
    #[error("there is no run `{id}` in {path}: `handclip runs list` names them", path = path.display())]
    Unknown {
        /// What was asked for.
        id: String,
        /// Where.
        path: PathBuf,
    },
    /// The record could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What a record calls a data set: the folder's or file's own name, however it was pointed at, so that the records
/// of two runs on the same data say the same and nothing of the machine.
pub(super) fn data_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// All runs in a folder, oldest first. A folder without a record is no run; a damaged record is an error.
///
/// # Errors
/// [`LedgerError`].
pub fn list_runs(folder: &Path) -> Result<Vec<Run>, LedgerError> {
    let failed = |source| LedgerError::Read { path: folder.to_path_buf(), source };
    if !folder.exists() {
        return Err(LedgerError::NoFolder(folder.to_path_buf()));
    }
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join(RECORD).is_file() {
            runs.push(read(&path)?);
        }
    }
    runs.sort_by(|a, b| {
        a.record.finished_at_ms.cmp(&b.record.finished_at_ms).then_with(|| a.id.cmp(&b.id))
    });
    Ok(runs)
}

/// One run, by its folder's name or by its path.
///
/// # Errors
/// [`LedgerError`].
pub fn find_run(folder: &Path, id: &str) -> Result<Run, LedgerError> {
    let inside = folder.join(id);
    let found = [inside, PathBuf::from(id)].into_iter().find(|path| path.join(RECORD).is_file());
    let unknown = || LedgerError::Unknown { id: id.to_owned(), path: folder.to_path_buf() };
    read(&found.ok_or_else(unknown)?)
}

fn read(path: &Path) -> Result<Run, LedgerError> {
    let file = path.join(RECORD);
    let text =
        std::fs::read(&file).map_err(|source| LedgerError::Read { path: file.clone(), source })?;
    let record = serde_json::from_slice(&text)
        .map_err(|error| LedgerError::Record { path: file, problem: error.to_string() })?;
    let id = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Run { id, record })
}

/// Settings in which two runs differ, and the figures of both.
#[must_use]
pub fn diff_runs(a: &RunRecord, b: &RunRecord) -> RunDiff {
    let names = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
        let mut names: Vec<String> = a.keys().chain(b.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let settings = names(&a.settings, &b.settings)
        .into_iter()
        .map(|name| Difference {
            a: a.settings.get(&name).cloned(),
            b: b.settings.get(&name).cloned(),
            name,
        })
        .filter(|difference| difference.a != difference.b)
        .collect();
    let mut of_figures: Vec<&String> = a.figures.keys().chain(b.figures.keys()).collect();
    of_figures.sort_unstable();
    of_figures.dedup();
    let figures = of_figures.into_iter().map(|name| Difference {
        name: name.clone(),
        a: a.figures.get(name).copied(),
        b: b.figures.get(name).copied(),
    });
    RunDiff { settings, figures: figures.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64, seed: u64, rank1: f64) -> RunRecord {
        let mut record = RunRecord::new(RunKind::Evaluate, "handclip evaluate");
        record.finished_at_ms = at;
        record.set("seed", seed);
        record.set("protocol", "hands");
        record.figure("rank1", rank1);
        record.figure("nothing", f64::NAN);
        record
    }

    #[test]
    fn runs_are_listed_found_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        for (name, record) in [("b", record(1, 7, 0.5)), ("a", record(2, 8, 0.75))] {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            record.save(&folder).unwrap();
        }
        std::fs::create_dir(dir.path().join("cache")).unwrap();
        let runs = list_runs(dir.path()).unwrap();
        assert_eq!(runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let a = find_run(dir.path(), "a").unwrap();
        let b = find_run(Path::new("elsewhere"), dir.path().join("b").to_str().unwrap()).unwrap();
        let diff = diff_runs(&b.record, &a.record);
        let seed = |v: &str| Some(v.to_owned());
        let expected = Difference { name: "seed".to_owned(), a: seed("7"), b: seed("8") };
        assert_eq!(diff.settings, [expected]);
        assert_eq!(diff.figures.len(), 1, "what is no number is no figure");
        assert_eq!((diff.figures[0].a, diff.figures[0].b), (Some(0.5), Some(0.75)));
        assert!(matches!(find_run(dir.path(), "c"), Err(LedgerError::Unknown { .. })));
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("runs");
        let error = list_runs(&missing).unwrap_err();
        assert!(matches!(&error, LedgerError::NoFolder(path) if *path == missing));
        assert!(error.to_string().contains("--runs-dir"), "{error}");
        assert_eq!(data_name(&dir.path().join(".")), data_name(dir.path()));
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        crate::storage::file::write_atomic(&dir.path().join("a").join(RECORD), b"{").unwrap();
        let message = list_runs(dir.path()).unwrap_err().to_string();
        assert!(message.contains(RECORD), "{message}");
    }
}
