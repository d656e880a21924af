use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use super::ModelError;
use crate::tensor::backward;

/// A part of a tower: a function of what the part before it gives, and of its own parameters.
pub(super) type Stage<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor, ModelError> + 'a>;

/// A tower's way from its input to features in parts, so that a pass need not keep what happens inside them:
/// the backward pass computes each part once more (Chen et al., 2016, "Training deep nets with sublinear
/// memory cost").
pub struct Stages<'a> {
    input: Tensor,
    steps: Vec<Stage<'a>>,
}

/// What a pass keeps: the features without a graph, and the input of every stage that has to learn.
pub struct Kept {
    /// `[batch, dim]`, detached.
    pub features: Tensor,
    /// Input of each stage from the first one that learns.
    inputs: Vec<Tensor>,
}

impl<'a> Stages<'a> {
    pub(super) fn new(input: Tensor, steps: Vec<Stage<'a>>) -> Self {
        Self { input, steps }
    }

    pub(super) fn ending_in(mut self, dtype: DType) -> Self {
        self.steps.push(Box::new(move |features: &Tensor| Ok(features.to_dtype(dtype)?)));
        self
    }

    /// All stages as one, whose inside is kept while it is computed.
    #[must_use]
    pub fn as_one(self) -> Self {
        let Self { input, steps } = self;
        let whole = move |xs: &Tensor| steps.iter().try_fold(xs.clone(), |xs, step| step(&xs));
        Self { input, steps: vec![Box::new(whole)] }
    }

    /// The features with their whole graph.
    ///
    /// # Errors
    /// What a stage fails with.
    pub fn forward(&self) -> Result<Tensor, ModelError> {
        self.steps.iter().try_fold(self.input.clone(), |xs, step| step(&xs))
    }

    /// The features without a graph, and what [`Stages::backward`] needs.
    ///
    /// # Errors
    /// What a stage fails with.
    pub fn forward_keeping(&self) -> Result<Kept, ModelError> {
        let mut inputs = Vec::new();
        let mut xs = self.input.clone();
        for step in &self.steps {
            let ys = step(&xs)?;
            // A detached input leaves only the stage's own parameters to be tracked.
            if ys.track_op() || !inputs.is_empty() {
                inputs.push(xs);
            }
            xs = ys.detach();
        }
        Ok(Kept { features: xs, inputs })
    }

    /// Gradients of every parameter that learns, given the gradient of the features: `give` is called once a
    /// stage, the last stage first.
    ///
    /// # Errors
    /// What a stage or `give` fails with.
    pub fn backward<E: From<ModelError>>(
        &self,
        kept: Kept,
        of_features: &Tensor,
        mut give: impl FnMut(GradStore) -> Result<(), E>,
    ) -> Result<(), E> {
        let tensor = |error: candle_core::Error| E::from(ModelError::from(error));
        let mut gradient = of_features.clone();
        let first = self.steps.len() - kept.inputs.len();
        let mut pairs: Vec<_> = self.steps[first..].iter().zip(kept.inputs).collect();
        while let Some((step, input)) = pairs.pop() {
            // What comes before the first stage that learns needs no gradient.
            let leaf = match pairs.is_empty() {
                true => None,
                false => Some(Var::from_tensor(&input).map_err(tensor)?),
            };
            let ys = step(leaf.as_ref().map_or(&input, Var::as_tensor))?;
            let product = (&ys * &gradient).and_then(|product| product.sum_all());
            let mut grads = product.and_then(|sum| backward(&sum)).map_err(tensor)?;
            if let Some(leaf) = leaf {
                let missing = || candle_core::Error::Msg("a stage ignores its input".to_owned());
                gradient = grads.remove(&leaf).ok_or_else(missing).map_err(tensor)?.detach();
            }
            give(grads)?;
        }
        Ok(())
    }
}
