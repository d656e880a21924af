use candle_core::{D, Result as CandleResult, Tensor};

use super::config::Activation;
use super::{ModelError, Parameters};
use crate::tensor::{attention, gelu, layer_norm, linear, quick_gelu};

/// Where a tower takes its tensors from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) parameters: &'a Parameters,
    /// Tracked tensors follow the variables and give gradients; others are fixed and may be fused.
    pub(super) tracked: bool,
}

impl Source<'_> {
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let var = self.parameters.require(name)?;
        Ok(if self.tracked { var.as_tensor().clone() } else { var.as_detached_tensor() })
    }
}

pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn load(source: Source<'_>, at: &str) -> Result<Self, ModelError> {
        Ok(Self {
            weight: source.tensor(&format!("{at}.weight"))?,
            bias: Some(source.tensor(&format!("{at}.bias"))?),
        })
    }

    /// Without a bias. weight: `[outputs, ..inputs]`, flattened to `[outputs, inputs]`.
    pub(super) fn load_projection(source: Source<'_>, at: &str) -> Result<Self, ModelError> {
        Ok(Self { weight: source.tensor(&format!("{at}.weight"))?, bias: None })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> CandleResult<Tensor> {
        let weight = self.weight.flatten_from(1)?.to_dtype(xs.dtype())?;
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(xs.dtype())).transpose()?;
        linear(xs, &weight, bias.as_ref())
    }
}

pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    pub(super) fn load(source: Source<'_>, at: &str, eps: f64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: source.tensor(&format!("{at}.weight"))?,
            bias: source.tensor(&format!("{at}.bias"))?,
            eps,
        })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> CandleResult<Tensor> {
        let (weight, bias) = (self.weight.to_dtype(xs.dtype())?, self.bias.to_dtype(xs.dtype())?);
        layer_norm(xs, &weight, &bias, self.eps)
    }
}

/// Queries, keys and values in one product.
enum Qkv {
    /// Joined anew each time, so that the three variables get their gradients.
    Tracked([Linear; 3]),
    /// Joined once.
    Fused(Linear),
}

impl Qkv {
    fn load(source: Source<'_>, at: &str) -> Result<Self, ModelError> {
        let part = |name: &str| Linear::load(source, &format!("{at}.{name}"));
        let parts = [part("q_proj")?, part("k_proj")?, part("v_proj")?];
        Ok(if source.tracked { Self::Tracked(parts) } else { Self::Fused(Self::join(&parts)?) })
    }

    fn join(parts: &[Linear; 3]) -> CandleResult<Linear> {
        let weights = parts.each_ref().map(|part| &part.weight);
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        Ok(Linear { weight: Tensor::cat(&weights, 0)?, bias: Some(Tensor::cat(&biases, 0)?) })
    }

    fn forward(&self, xs: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Tracked(parts) => Self::join(parts)?.forward(xs),
            Self::Fused(joined) => joined.forward(xs),
        }
    }
}

/// A pre-norm transformer block.
struct Block {
    norm1: Norm,
    qkv: Qkv,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    shape: BlockShape,
}

/// What the blocks of a tower share.
#[derive(Clone, Copy)]
pub(super) struct BlockShape {
    pub(super) heads: usize,
    pub(super) causal: bool,
    pub(super) activation: Activation,
    pub(super) eps: f64,
}

impl Block {
    fn load(source: Source<'_>, at: &str, shape: BlockShape) -> Result<Self, ModelError> {
        Ok(Self {
            norm1: Norm::load(source, &format!("{at}.layer_norm1"), shape.eps)?,
            qkv: Qkv::load(source, &format!("{at}.self_attn"))?,
            out: Linear::load(source, &format!("{at}.self_attn.out_proj"))?,
            norm2: Norm::load(source, &format!("{at}.layer_norm2"), shape.eps)?,
            fc1: Linear::load(source, &format!("{at}.mlp.fc1"))?,
            fc2: Linear::load(source, &format!("{at}.mlp.fc2"))?,
            shape,
        })
    }

    /// xs: `[batch, tokens, dim]`. With `rows`, indices into `[batch * tokens]`, only those rows
    /// are finished: `[rows, dim]`.
    fn forward(&self, xs: &Tensor, rows: Option<&Tensor>) -> CandleResult<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(xs)?)?;
        let mixed = attention(&qkv, self.shape.heads, self.shape.causal)?;
        let (xs, mixed) = match rows {
            Some(rows) => (select(xs, rows)?, select(&mixed, rows)?),
            None => (xs.clone(), mixed),
        };
        let xs = (xs + self.out.forward(&mixed)?)?;
        let inner = self.fc1.forward(&self.norm2.forward(&xs)?)?;
        let inner = match self.shape.activation {
            Activation::QuickGelu => quick_gelu(&inner)?,
            Activation::Gelu => gelu(&inner)?,
        };
        xs + self.fc2.forward(&inner)?
    }
}

fn select(xs: &Tensor, rows: &Tensor) -> CandleResult<Tensor> {
    xs.flatten_to(D::Minus2)?.index_select(rows, 0)
}

/// The blocks of a tower.
pub(super) struct Encoder {
    blocks: Vec<Block>,
}

impl Encoder {
    pub(super) fn load(
        source: Source<'_>,
        prefix: &str,
        layers: usize,
        shape: BlockShape,
    ) -> Result<Self, ModelError> {
        let block = |i| Block::load(source, &format!("{prefix}.encoder.layers.{i}"), shape);
        Ok(Self { blocks: (0..layers).map(block).collect::<Result<_, _>>()? })
    }

    /// xs: `[batch, tokens, dim]`; rows: one index into `[batch * tokens]` for each item. The
    /// result is `[batch, dim]`. Only the pooled token of an item leaves the tower, so the last
    /// block finishes no other.
    pub(super) fn forward_pooled(&self, xs: Tensor, rows: &Tensor) -> CandleResult<Tensor> {
        let Some((last, others)) = self.blocks.split_last() else {
            return select(&xs, rows);
        };
        let xs = others.iter().try_fold(xs, |xs, block| block.forward(&xs, None))?;
        last.forward(&xs, Some(rows))
    }
}
