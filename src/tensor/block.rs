mod cpu;

use candle_core::{Result, Tensor};

use super::activation::Activation;
use super::backward::take;
use super::buffer::fusible;
use super::card;
use super::lean::Rounded;

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

    /// Whether one of them gets a gradient.
    pub(super) fn learns(&self) -> bool {
        self.tensors().any(Tensor::track_op)
    }

    /// Without history.
    pub(super) fn weight(&self) -> Result<Tensor> {
        joined(self.0.iter().map(|(weight, _)| weight.detach()).collect())
    }

    /// Without history.
    pub(super) fn bias(&self) -> Result<Tensor> {
        joined(self.0.iter().map(|(_, bias)| bias.detach()).collect())
    }

    /// Hands each part that learns its share of the gradients.
    pub(super) fn give(&self, dweight: &Tensor, dbias: &Tensor) -> Result<()> {
        let mut start = 0;
        for (weight, bias) in &self.0 {
            let outputs = weight.dim(0)?;
            for (of, gradients) in [(weight, dweight), (bias, dbias)] {
                if of.track_op() {
                    take(of, gradients.narrow(0, start, outputs)?.contiguous()?)?;
                }
            }
            start += outputs;
        }
        Ok(())
    }
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
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
    /// Whether products on a CPU are of rounded values, as in [`super::linear`].
    pub rounded: Option<Rounded>,
}

/// A transformer block as one operation where it can be one: `[batch, tokens, dim]` to the same. `None` where it must
/// be composed: in types that no fused pass takes, and where a gradient must reach something that is neither `xs` nor a
/// variable. Only [`super::backward`] finds its gradients.
///
/// # Errors
/// When sizes do not fit, or the device fails.
pub fn block(xs: &Tensor, parameters: BlockParameters) -> Result<Option<Tensor>> {
    let tensors: Vec<&Tensor> = parameters.affine.iter().flat_map(Affine::tensors).collect();
    let reached = tensors.iter().all(|tensor| !tensor.track_op() || tensor.is_variable());
    let learns = tensors.iter().any(|tensor| tensor.track_op());
    if !fusible(xs, &tensors) || !reached || learns && !xs.track_op() {
        return Ok(None);
    }
    let xs = xs.contiguous()?;
    let ys = if xs.device().is_cuda() {
        card::block(&xs, parameters)
    } else {
        cpu::block(&xs, parameters)
    };
    ys.map(Some)
}

#[cfg(test)]
mod tests;
