//! Which patches of an image decide how similar it is to a direction. Knows one image's pixels and one
//! direction; not where they come from, nor how a map is drawn.

mod grad_cam;
mod relevance;
mod rollout;

use candle_core::{Result as CandleResult, Tensor, Var};
use serde::Serialize;

use super::{Clip, ModelError};
use crate::domain::Embedding;
use crate::tensor::normalise;

/// How patches are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExplainMethod {
    /// Attention of all blocks multiplied up (Abnar and Zuidema, 2020). The same for every direction.
    Rollout,
    /// Channels of the last block's first norm, weighted by their gradient (Selvaraju et al., 2017).
    GradCam,
    /// Attention weighted by its gradient, through all blocks (Chefer, Gur and Wolf, 2021).
    Relevance,
}

impl ExplainMethod {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rollout, Self::GradCam, Self::Relevance];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::GradCam => "grad-cam",
            Self::Relevance => "relevance",
        }
    }
}

impl std::fmt::Display for ExplainMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A name of no method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be rollout, grad-cam or relevance")]
pub struct UnknownMethod;

impl std::str::FromStr for ExplainMethod {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or(UnknownMethod)
    }
}

/// How much each patch of an image counts. Invariant: `rows * cols` values, finite and not negative.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchMap {
    /// `[rows, cols]`, in the method's own unit.
    pub values: Vec<f32>,
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
    /// How they were judged.
    pub method: ExplainMethod,
    /// Cosine between the image's feature and the direction.
    pub similarity: f32,
}

/// The cosine, a scalar, and the map, `[patches]`.
type Judged = (Tensor, Tensor);

impl Clip {
    /// Which patches of the first image of `pixels`, `[1, 3, height, width]`, make it as similar to `target` as it is.
    ///
    /// # Errors
    /// [`ModelError::Target`] and [`ModelError::PixelCount`] for what is not of the model's size.
    pub fn explain(
        &self,
        pixels: &Tensor,
        target: &Embedding,
        method: ExplainMethod,
    ) -> Result<PatchMap, ModelError> {
        let (got, expected) = (target.dim(), self.config().projection_dim);
        if got != expected {
            return Err(ModelError::Target { got, expected });
        }
        let pixels = pixels.narrow(0, 0, 1)?;
        let target = Tensor::from_slice(target.as_slice(), (1, expected), pixels.device())?;
        let (similarity, values) = match method {
            ExplainMethod::Rollout => rollout::judge(self, &pixels, &target)?,
            ExplainMethod::GradCam => grad_cam::judge(self, &pixels, &target)?,
            ExplainMethod::Relevance => relevance::judge(self, &pixels, &target)?,
        };
        let vision = &self.config().vision;
        let side = vision.image_size / vision.patch_size;
        Ok(PatchMap {
            values: values.to_vec1()?,
            rows: side,
            cols: side,
            method,
            similarity: similarity.to_scalar()?,
        })
    }
}

/// features: `[1, dim]`; target: `[1, dim]`, of unit length.
fn cosine(features: &Tensor, target: &Tensor) -> CandleResult<Tensor> {
    normalise(features)?.mul(target)?.sum_all()
}

/// A value inside a pass whose gradient will be asked for. Candle keeps gradients of variables alone, so a zero is
/// added that is one: its gradient is the value's.
struct Watched {
    value: Tensor,
    zero: Var,
}

impl Watched {
    /// Also gives what the pass goes on with.
    fn new(value: &Tensor) -> CandleResult<(Self, Tensor)> {
        let zero = Var::zeros(value.shape(), value.dtype(), value.device())?;
        let sum = (value + zero.as_tensor())?;
        Ok((Self { value: value.detach(), zero }, sum))
    }

    fn gradient(&self, grads: &candle_core::backprop::GradStore) -> CandleResult<Tensor> {
        match grads.get(&self.zero) {
            Some(gradient) => Ok(gradient.detach()),
            // Nothing depends on it.
            None => self.zero.as_tensor().zeros_like(),
        }
    }
}

/// The class token's row of a product of matrices, over the patches: `[patches]`. `step` multiplies a row, `[1, tokens]`,
/// by one of them; from the last to the first, so that no matrix meets a matrix.
fn class_row(
    factors: &[Tensor],
    step: impl Fn(&Tensor, &Tensor) -> CandleResult<Tensor>,
) -> CandleResult<Tensor> {
    let first = factors.first().ok_or_else(no_blocks)?;
    let tokens = first.dim(0)?;
    let unit: Vec<f32> = (0..tokens).map(|token| if token == 0 { 1.0 } else { 0.0 }).collect();
    let unit = Tensor::from_vec(unit, (1, tokens), first.device())?;
    let row = factors.iter().rev().try_fold(unit, |row, factor| step(&row, factor))?;
    row.get(0)?.narrow(0, 1, tokens - 1)
}

/// A tower that a configuration cannot describe.
fn no_blocks() -> candle_core::Error {
    candle_core::Error::Msg("the tower has no blocks".to_owned())
}
