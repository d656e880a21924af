//! What stands for the operations where they are not built.

use candle_core::{CudaStorage, Error, Result, Shape, Tensor};

use super::super::activation::Activation;
use super::super::block::BlockParameters;
use super::{AdamStep, Given, MomentumStep};

const ABSENT: Error = Error::NotCompiledWithCudaSupport;

pub(in super::super) fn activation(_: Activation, _: Given<'_>) -> Result<(CudaStorage, Shape)> {
    Err(ABSENT)
}

pub(in super::super) fn activation_backward(
    _: Activation,
    _: &Tensor,
    _: &Tensor,
) -> Result<Tensor> {
    Err(ABSENT)
}

pub(in super::super) fn attention(_: Given<'_>, _: usize, _: bool) -> Result<(CudaStorage, Shape)> {
    Err(ABSENT)
}

pub(in super::super) fn attention_backward(
    _: &Tensor,
    _: &Tensor,
    _: usize,
    _: bool,
) -> Result<Tensor> {
    Err(ABSENT)
}

pub(in super::super) fn block(_: &Tensor, _: BlockParameters) -> Result<Tensor> {
    Err(ABSENT)
}

pub(in super::super) fn column_sums(_: &Tensor) -> Result<Tensor> {
    Err(ABSENT)
}

pub(in super::super) fn layer_norm(
    _: Given<'_>,
    _: Given<'_>,
    _: Given<'_>,
    _: f32,
) -> Result<(CudaStorage, Shape)> {
    Err(ABSENT)
}

pub(in super::super) fn layer_norm_backward(
    _: &Tensor,
    _: &Tensor,
    _: &Tensor,
    _: f32,
) -> Result<[Tensor; 3]> {
    Err(ABSENT)
}

pub(in super::super) fn linear(
    _: Given<'_>,
    _: Given<'_>,
    _: Option<Given<'_>>,
) -> Result<(CudaStorage, Shape)> {
    Err(ABSENT)
}

pub(in super::super) fn softmax(_: Given<'_>) -> Result<(CudaStorage, Shape)> {
    Err(ABSENT)
}

pub(in super::super) fn softmax_backward(_: &Tensor, _: &Tensor) -> Result<Tensor> {
    Err(ABSENT)
}

/// One step of AdamW on a card.
///
/// # Errors
/// Always, in this build.
pub fn adam_step(_: [&Tensor; 3], _: &Tensor, _: &Tensor, _: AdamStep) -> Result<()> {
    Err(ABSENT)
}

/// One step with momentum on a card.
///
/// # Errors
/// Always, in this build.
pub fn momentum_step(_: [&Tensor; 2], _: &Tensor, _: &Tensor, _: MomentumStep) -> Result<()> {
    Err(ABSENT)
}

/// The sum of all squared values on a card.
///
/// # Errors
/// Always, in this build.
pub fn square_sum(_: &[&Tensor]) -> Result<Tensor> {
    Err(ABSENT)
}
