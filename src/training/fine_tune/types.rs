//! What a run is given, what it says on the way, and what it gives.

use std::collections::BTreeMap;

use candle_core::Device;
use serde::Serialize;

use crate::domain::HandAttributes;
use crate::model::{ClipConfig, ModelError, Parameters};
use crate::training::error::TrainingError;

use super::loader::PictureFiles;
use super::recipe::Recipe;
use super::state::Checkpoint;

/// A picture to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainPicture {
    /// Its place in the [`PictureFiles`].
    pub file: usize,
    /// Its identity: a number for each hand of each subject, from 0 without gaps.
    pub hand: u32,
    /// Its kind of hand: a number for each aspect and side.
    pub kind: usize,
    /// What prompts may say of it.
    pub attributes: HandAttributes,
}

/// Turns prompts into token ids, all of one length.
pub type Tokens<'a> = dyn Fn(&[String]) -> Result<Vec<Vec<u32>>, ModelError> + 'a;

/// What a run reads.
#[derive(Clone, Copy)]
pub struct FineTuneInputs<'a> {
    /// Shape of the model.
    pub model: &'a ClipConfig,
    /// Where it starts; these are the weights that move.
    pub parameters: &'a Parameters,
    /// The model's tokenizer.
    pub tokens: &'a Tokens<'a>,
    /// The image files.
    pub files: &'a PictureFiles<'a>,
    /// Those that are trained on.
    pub pictures: &'a [TrainPicture],
    /// How.
    pub recipe: &'a Recipe,
    /// Where to compute.
    pub device: &'a Device,
    /// Where the run can go on from if the process dies; `None` keeps nothing.
    pub checkpoint: Option<Checkpoint<'a>>,
}

/// What a run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Words for every hand are learned; the towers are frozen.
    Prompts,
    /// The towers are trained.
    Towers,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineTuneProgress {
    /// What is trained; epochs and steps are of this stage.
    pub stage: Stage,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Optimiser steps taken.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of this step.
    pub loss: f32,
    /// Pictures a second since the start, validation left out.
    pub images_per_second: f64,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
}

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochReport {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Optimiser steps taken.
    pub step: usize,
    /// Mean of the weighted sum.
    pub loss: f64,
    /// Mean of each weighted part.
    pub parts: BTreeMap<String, f64>,
    /// Mean gradient norm before clipping.
    pub gradient_norm: f64,
    /// Rate of the last step.
    pub learning_rate: f64,
    /// Pictures a second since the start, validation left out.
    pub images_per_second: f64,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
    /// The best score of the epochs before.
    pub best_score: Option<f64>,
}

/// Scores weights on subjects that training never sees, after each epoch; higher is better.
/// [`TrainingError::Cancelled`] ends the run as it was before the epoch's end.
pub type ValidateEpoch<'a> =
    dyn FnMut(&Parameters, &EpochReport) -> Result<f64, TrainingError> + 'a;

/// What a run gives.
#[derive(Debug)]
pub struct FineTuned {
    /// Weights of the best epoch: a copy, not the weights that trained on. `None` when the best epoch was
    /// before the run went on from a checkpoint: the caller was given its weights then.
    pub best: Option<Parameters>,
    /// The best score; `None` when cancelled before the first epoch ended, `best` being the last weights.
    pub best_score: Option<f64>,
    /// The best epoch, from 1; 0 when cancelled before the first ended.
    pub best_epoch: usize,
    /// Steps taken.
    pub steps: usize,
    /// Pictures seen, repetitions counted.
    pub images: usize,
    /// Whether it ended early because validation got no better.
    pub stopped_early: bool,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
}
