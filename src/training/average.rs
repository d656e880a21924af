use candle_core::{Device, Tensor, Var};

use crate::model::Parameters;

use super::error::TrainingError;

/// Moving average of the weights: generalises better than the last step's.
pub(super) struct Average(Vec<Mean>);

/// Where a parameter lies.
enum Mean {
    Host(Vec<f32>),
    Card(Tensor),
}

impl Mean {
    fn of(values: Vec<f32>, var: &Var) -> candle_core::Result<Self> {
        match var.device() {
            Device::Cpu => Ok(Self::Host(values)),
            device @ (Device::Cuda(_) | Device::Metal(_)) => {
                Tensor::from_vec(values, var.shape(), device).map(Self::Card)
            }
        }
    }
}

impl Average {
    /// The means, in the order of the parameters.
    pub(super) fn means(&self) -> Result<Vec<Vec<f32>>, TrainingError> {
        let values = |mean: &Mean| match mean {
            Mean::Host(values) => Ok(values.clone()),
            Mean::Card(values) => values.flatten_all()?.to_vec1(),
        };
        Ok(self.0.iter().map(values).collect::<candle_core::Result<_>>()?)
    }

    /// Goes on with what [`Average::means`] gave of parameters such as these.
    pub(super) fn from_means(
        means: Vec<Vec<f32>>,
        parameters: &Parameters,
    ) -> Result<Self, TrainingError> {
        let pairs = means.into_iter().zip(parameters.vars());
        let means = pairs.map(|(values, (_, var))| Mean::of(values, &var));
        Ok(Self(means.collect::<candle_core::Result<_>>()?))
    }

    pub(super) fn of(parameters: &Parameters) -> Result<Self, TrainingError> {
        let values = parameters
            .vars()
            .iter()
            .map(|(_, var)| var.flatten_all()?.to_vec1())
            .collect::<candle_core::Result<_>>()?;
        Self::from_means(values, parameters)
    }

    pub(super) fn follow(
        &mut self,
        parameters: &Parameters,
        decay: f64,
        step: usize,
    ) -> Result<(), TrainingError> {
        // Young averages forget faster, or they would hold the random start for long.
        let decay = decay.min((step as f64 + 1.0) / (step as f64 + 10.0));
        for (mean, (_, var)) in self.0.iter_mut().zip(parameters.vars()) {
            match mean {
                Mean::Host(mean) => {
                    let now = var.flatten_all()?.to_vec1::<f32>()?;
                    for (m, v) in mean.iter_mut().zip(now) {
                        *m += (v - *m) * (1.0 - decay as f32);
                    }
                }
                Mean::Card(mean) => {
                    let towards = ((var.as_detached_tensor() - &*mean)? * (1.0 - decay))?;
                    *mean = (&*mean + towards)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self, like: &Parameters) -> Result<Parameters, TrainingError> {
        let copy = like.snapshot()?;
        for (mean, (_, var)) in self.0.iter().zip(copy.vars()) {
            match mean {
                Mean::Host(values) => {
                    var.set(&Tensor::from_vec(values.clone(), var.dims(), var.device())?)?;
                }
                Mean::Card(values) => var.set(values)?,
            }
        }
        Ok(copy)
    }
}
