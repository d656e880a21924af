//! The end of an epoch: validation, the best weights so far, and whether to go on.

use std::time::Instant;

use crate::model::Parameters;
use crate::training::error::TrainingError;
use crate::training::fine_tune::recipe::ScheduleRecipe;
use crate::training::fine_tune::types::{EpochReport, FineTuned, ValidateEpoch};

use super::Run;

impl Run<'_> {
    /// Whether validation got no better for as long as the recipe has patience.
    pub(super) fn is_stuck(&self) -> bool {
        let patience = self.inputs.recipe.patience;
        let epoch = self.taken / self.an_epoch;
        let since = self.best.as_ref().map_or(0, |(_, best, _)| epoch - best);
        patience > 0 && since >= patience
    }

    /// Validates; says whether to stop because nothing got better for long enough.
    pub(super) fn end_epoch(
        &mut self,
        validate: &mut ValidateEpoch<'_>,
    ) -> Result<bool, TrainingError> {
        let pause = Instant::now();
        let epoch = self.taken / self.an_epoch;
        let window = std::mem::take(&mut self.window);
        if window.batches == 0 {
            return Err(TrainingError::NoBatch { epoch });
        }
        let batches = window.batches as f64;
        let report = EpochReport {
            epoch,
            step: self.taken,
            loss: window.loss / batches,
            parts: window.parts.into_iter().map(|(name, sum)| (name, sum / batches)).collect(),
            gradient_norm: window.norm / window.steps.max(1) as f64,
            learning_rate: self.schedule.at(self.taken - 1, self.cuts),
            images_per_second: self.pace(),
            waiting: self.waiting(),
            best_score: self.best.as_ref().map(|(score, ..)| *score),
        };
        let now = self.weights()?;
        let score = validate(&now, &report)?;
        if self.best.as_ref().is_none_or(|(top, ..)| score > *top) {
            self.best = Some((score, epoch, Some(now)));
        }
        if let ScheduleRecipe::Plateau { epochs, .. } = self.inputs.recipe.optimizer.schedule {
            let best = self.best.as_ref().map_or(0, |(_, best, _)| *best);
            if epoch - best.max(self.last_cut) >= epochs {
                self.cuts += 1;
                self.last_cut = epoch;
            }
        }
        if let Some(checkpoint) = &self.inputs.checkpoint {
            self.keep(checkpoint)?;
        }
        self.paused += pause.elapsed();
        Ok(self.is_stuck())
    }

    fn weights(&self) -> Result<Parameters, TrainingError> {
        let parameters = self.inputs.parameters;
        match (&self.adapters, &self.average) {
            (Some(adapters), _) => Ok(adapters.merged(parameters)?),
            (None, Some(average)) => average.parameters(parameters),
            (None, None) => Ok(parameters.snapshot()?),
        }
    }

    pub(super) fn pace(&self) -> f64 {
        let seconds = self.started.elapsed().saturating_sub(self.paused).as_secs_f64();
        (self.images - self.seen_before) as f64 / seconds.max(1e-9)
    }

    pub(super) fn waiting(&self) -> f64 {
        let seconds = self.started.elapsed().saturating_sub(self.paused).as_secs_f64();
        self.waited.as_secs_f64() / seconds.max(1e-9)
    }

    pub(super) fn finish(mut self) -> Result<FineTuned, TrainingError> {
        let waiting = self.waiting();
        let stopped_early = self.is_stuck();
        let (best_score, best_epoch, best) = match self.best.take() {
            Some((score, epoch, weights)) => (Some(score), epoch, weights),
            None => (None, 0, Some(self.weights()?)),
        };
        Ok(FineTuned {
            best,
            best_score,
            best_epoch,
            steps: self.taken,
            images: self.images,
            stopped_early,
            waiting,
        })
    }
}
