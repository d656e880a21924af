//! Everything that a run needs to go on after the process died, in one file that is written whole or not at
//! all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::storage::file::write_atomic;
use crate::training::error::TrainingError;

const FORMAT: u32 = 1;
/// The metadata key of the header.
const KEY: &str = "handclip_run";

/// Where a run leaves its state, and whether it begins from it.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The file.
    pub path: &'a Path,
    /// Names recipe, data and start: a state of another run is refused.
    pub about: &'a str,
    /// Whether to go on from the file, if it is there.
    pub resume: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: u32,
    about: String,
    step: usize,
    images: usize,
    optimizer_steps: u64,
    cuts: (usize, usize),
    best_epoch: usize,
    /// Bits, so that it comes back as it was.
    best_score: Option<u64>,
}

/// A run at the end of an epoch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RunState {
    pub(super) step: usize,
    pub(super) images: usize,
    pub(super) optimizer_steps: u64,
    /// How often the rate was cut, and the epoch of the last time.
    pub(super) cuts: (usize, usize),
    pub(super) best: Option<(f64, usize)>,
    /// Weights, heads, moments, averages, by name.
    pub(super) arrays: BTreeMap<String, Vec<f32>>,
}

impl RunState {
    pub(super) fn save(&self, checkpoint: &Checkpoint<'_>) -> Result<(), TrainingError> {
        let header = Header {
            format: FORMAT,
            about: checkpoint.about.to_owned(),
            step: self.step,
            images: self.images,
            optimizer_steps: self.optimizer_steps,
            cuts: self.cuts,
            best_epoch: self.best.map_or(0, |(_, epoch)| epoch),
            best_score: self.best.map(|(score, _)| score.to_bits()),
        };
        let failed =
            |problem: String| TrainingError::State { path: checkpoint.path.to_path_buf(), problem };
        let header = serde_json::to_string(&header).map_err(|error| failed(error.to_string()))?;
        let bytes: Vec<(&String, Vec<u8>)> = self
            .arrays
            .iter()
            .map(|(name, values)| {
                (name, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, bytes)| {
                Ok((name.as_str(), TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| failed(error.to_string()))?;
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        let file = safetensors::serialize(views, Some(metadata))
            .map_err(|error| failed(error.to_string()))?;
        Ok(write_atomic(checkpoint.path, &file)?)
    }

    /// `None` when there is nothing to go on from.
    pub(super) fn load(checkpoint: &Checkpoint<'_>) -> Result<Option<Self>, TrainingError> {
        if !checkpoint.resume || !checkpoint.path.exists() {
            return Ok(None);
        }
        let failed =
            |problem: String| TrainingError::State { path: checkpoint.path.to_path_buf(), problem };
        let file = std::fs::read(checkpoint.path).map_err(|error| failed(error.to_string()))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&file).map_err(|error| failed(error.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|all| all.get(KEY));
        let header = header.ok_or_else(|| failed("is no state of a run".to_owned()))?;
        let header: Header =
            serde_json::from_str(header).map_err(|error| failed(error.to_string()))?;
        if header.format != FORMAT || header.about != checkpoint.about {
            let problem = "belongs to a run with another recipe, data set or model";
            return Err(failed(problem.to_owned()));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|error| failed(error.to_string()))?;
        let value = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        let arrays = tensors
            .iter()
            .map(|(name, view)| {
                let (values, _) = view.data().as_chunks::<4>();
                (name.to_owned(), values.iter().map(value).collect())
            })
            .collect();
        Ok(Some(Self {
            step: header.step,
            images: header.images,
            optimizer_steps: header.optimizer_steps,
            cuts: header.cuts,
            best: header.best_score.map(|bits| (f64::from_bits(bits), header.best_epoch)),
            arrays,
        }))
    }

    /// The values of this name, as many as there have to be.
    pub(super) fn take(
        &mut self,
        checkpoint: &Checkpoint<'_>,
        name: &str,
        count: usize,
    ) -> Result<Vec<f32>, TrainingError> {
        let found = self.arrays.remove(name).filter(|values| values.len() == count);
        found.ok_or_else(|| TrainingError::State {
            path: checkpoint.path.to_path_buf(),
            problem: format!("has no {count} values of `{name}`"),
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;

    fn state() -> RunState {
        RunState {
            step: 12,
            images: 96,
            optimizer_steps: 11,
            cuts: (2, 7),
            best: Some((0.1 + 0.2, 3)),
            arrays: BTreeMap::from([
                ("a.mean".to_owned(), vec![1.0e-38, -0.0, 3.5]),
                ("b".to_owned(), Vec::new()),
            ]),
        }
    }

    #[test]
    fn a_state_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        let checkpoint = Checkpoint { path: &path, about: "run 1", resume: true };
        assert_eq!(RunState::load(&checkpoint).unwrap(), None);
        state().save(&checkpoint).unwrap();
        let mut back = RunState::load(&checkpoint).unwrap().unwrap();
        assert_eq!(back, state());
        let fresh = Checkpoint { resume: false, ..checkpoint };
        assert_eq!(RunState::load(&fresh).unwrap(), None);
        assert_eq!(back.take(&checkpoint, "a.mean", 3).unwrap().len(), 3);
        assert!(back.take(&checkpoint, "b", 1).is_err());
    }

    #[test]
    fn states_of_other_runs_and_damaged_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        let checkpoint = Checkpoint { path: &path, about: "run 1", resume: true };
        state().save(&checkpoint).unwrap();
        let other = Checkpoint { about: "run 2", ..checkpoint };
        let message = RunState::load(&other).unwrap_err().to_string();
        assert!(message.contains("another recipe"), "{message}");
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(RunState::load(&checkpoint).is_err(), "cut to {cut} bytes");
        }
    }
}
