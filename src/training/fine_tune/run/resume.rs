//! Writing down what a run needs to go on from the end of an epoch, and going on from there.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::model::Adapters;
use crate::training::average::Average;
use crate::training::error::TrainingError;
use crate::training::fine_tune::state::{Checkpoint, RunState};

use super::Run;

/// The text features of learned prompts in a run's state.
const PROMPTS: &str = "prompts.features";

impl Run<'_> {
    /// Weights and heads by name, in a fixed order.
    fn vars(&self) -> Vec<(String, Var)> {
        let mut vars = self.inputs.parameters.vars();
        vars.extend(self.adapters.iter().flat_map(Adapters::vars));
        vars.extend(self.heads.vars());
        vars
    }

    pub(super) fn go_on(
        &mut self,
        checkpoint: &Checkpoint<'_>,
        mut state: RunState,
        scale: f64,
    ) -> Result<(), TrainingError> {
        for (name, var) in self.vars() {
            let values = state.take(checkpoint, &name, var.elem_count())?;
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        let steps = state.optimizer_steps;
        self.optimizer.restore(steps, |name, count| state.take(checkpoint, name, count))?;
        if self.average.is_some() {
            let vars = self.inputs.parameters.vars();
            let means = vars.iter().map(|(name, var)| {
                state.take(checkpoint, &format!("{name}.average"), var.elem_count())
            });
            let means = means.collect::<Result<_, _>>()?;
            self.average = Some(Average::from_means(means, self.inputs.parameters)?);
        }
        if self.inputs.recipe.prompt_learning.is_some() {
            let shape = (self.hands as usize, self.inputs.model.projection_dim);
            let prompts = state.take(checkpoint, PROMPTS, shape.0 * shape.1)?;
            self.compare_with(Tensor::from_vec(prompts, shape, self.inputs.device)?, scale);
        }
        (self.cuts, self.last_cut) = state.cuts;
        self.taken = state.step;
        self.images = state.images;
        self.seen_before = state.images;
        self.best = state.best.map(|(score, epoch)| (score, epoch, None));
        Ok(())
    }

    pub(super) fn keep(&self, checkpoint: &Checkpoint<'_>) -> Result<(), TrainingError> {
        let mut arrays = BTreeMap::new();
        for (name, var) in self.vars() {
            arrays.insert(name, var.flatten_all()?.to_vec1()?);
        }
        let (optimizer_steps, moments) = self.optimizer.state()?;
        arrays.extend(moments);
        if let Some(prompts) = &self.prompts {
            arrays.insert(PROMPTS.to_owned(), prompts.flatten_all()?.to_vec1()?);
        }
        if let Some(average) = &self.average {
            let names = self.inputs.parameters.vars().into_iter();
            let names = names.map(|(name, _)| format!("{name}.average"));
            arrays.extend(names.zip(average.means()?));
        }
        let state = RunState {
            step: self.taken,
            images: self.images,
            optimizer_steps,
            cuts: (self.cuts, self.last_cut),
            best: self.best.as_ref().map(|(score, epoch, _)| (*score, *epoch)),
            arrays,
        };
        state.save(checkpoint)
    }
}
