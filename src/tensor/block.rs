use candle_core::{Result, Tensor};

use super::activation::Activation;
use super::buffer::fusible;
use super::card;

/// A weight and what is added: of a norm `[dim]` both, of a product `[outputs, inputs]` and `[outputs]`. Several of
/// the same inputs are one with all their outputs.
#[derive(Debug, Clone)]
pub struct Affine(pub(super) Vec<(Tensor, Tensor)>);

impl Affine {
    /// Of one or more pairs.
    #[must_use]
    pub fn new(parts: Vec<(Tensor, Tensor)>) -> Self {
        Self(parts)
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().flat_map(|(weight, bias)| [weight, bias])
    }
}

/// What a pre-norm transformer block consists of.
#[derive(Debug, Clone)]
pub struct BlockParameters {
    /// Norm, queries with keys and values, output of the attention, norm, and both products of the perceptron.
    pub affine: [Affine; 6],
    /// Heads of the attention.
    pub heads: usize,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// Between both products.
    pub activation: Activation,
    /// Keeps the norms' division finite.
    pub eps: f64,
}

/// A transformer block as one operation where it can be one: `[batch, tokens, dim]` to the same. `None` where it must
/// be composed: off CUDA devices, and where a gradient must reach something that is neither `xs` nor a
/// variable. Only [`super::backward`] finds its gradients.
///
/// # Errors
/// When sizes do not fit, or the device fails.
pub fn block(xs: &Tensor, parameters: BlockParameters) -> Result<Option<Tensor>> {
    let tensors: Vec<&Tensor> = parameters.affine.iter().flat_map(Affine::tensors).collect();
    let reached = tensors.iter().all(|tensor| !tensor.track_op() || tensor.is_variable());
    let learns = tensors.iter().any(|tensor| tensor.track_op());
    if !xs.device().is_cuda() || !fusible(xs, &tensors) || !reached || learns && !xs.track_op() {
        return Ok(None);
    }
    card::block(&xs.contiguous()?, parameters).map(Some)
}
