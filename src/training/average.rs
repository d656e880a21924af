use candle_core::Tensor;

use crate::model::Parameters;

use super::error::TrainingError;

/// Moving average of the weights: generalises better than the last step's.
pub(super) struct Average(Vec<Vec<f32>>);

impl Average {
    /// The means, in the order of the parameters.
    pub(super) fn means(&self) -> &[Vec<f32>] {
        &self.0
    }

    /// As many means as there are parameters.
    pub(super) fn from_means(means: Vec<Vec<f32>>) -> Self {
        Self(means)
    }

    pub(super) fn of(parameters: &Parameters) -> Result<Self, TrainingError> {
        let values = parameters
            .vars()
            .iter()
            .map(|(_, var)| var.flatten_all()?.to_vec1())
            .collect::<candle_core::Result<_>>()?;
        Ok(Self(values))
    }

    pub(super) fn follow(
        &mut self,
        parameters: &Parameters,
        decay: f64,
        step: usize,
    ) -> Result<(), TrainingError> {
        // Young averages forget faster, or they would hold the random start for long.
        let decay = decay.min((step as f64 + 1.0) / (step as f64 + 10.0)) as f32;
        for (mean, (_, var)) in self.0.iter_mut().zip(parameters.vars()) {
            let now = var.flatten_all()?.to_vec1::<f32>()?;
            for (m, v) in mean.iter_mut().zip(now) {
                *m += (v - *m) * (1.0 - decay);
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self, like: &Parameters) -> Result<Parameters, TrainingError> {
        let copy = like.snapshot()?;
        for (mean, (_, var)) in self.0.iter().zip(copy.vars()) {
            var.set(&Tensor::from_vec(mean.clone(), var.dims(), var.device())?)?;
        }
        Ok(copy)
    }
}
