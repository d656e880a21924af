use candle_core::{D, Result as CandleResult, Tensor};

use super::adapters::{Adapter, Adapters};
use super::config::Activation;
use super::stages::Stage;
use super::{ModelError, Parameters};
use crate::tensor::lean::Rounded;
use crate::tensor::{
    self, Affine, BlockParameters, attention, attention_weights, block, gelu, layer_norm, linear,
    mix_heads, quick_gelu,
};

/// Where a tower takes its tensors from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) parameters: &'a Parameters,
    /// Whether the parameter of a name follows its variable and gives a gradient; others are fixed and may
    /// be fused.
    pub(super) tracks: &'a dyn Fn(&str) -> bool,
    /// What is added to weight matrices.
    pub(super) adapters: Option<&'a Adapters>,
    /// Whether products on a CPU are of rounded values.
    pub(super) rounded: Option<Rounded>,
}

impl Source<'_> {
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let var = self.parameters.require(name)?;
        let tracked = (self.tracks)(name);
        Ok(if tracked { var.as_tensor().clone() } else { var.as_detached_tensor() })
    }
}

pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<Adapter>,
    rounded: Option<Rounded>,
}

impl Linear {
    pub(super) fn load(source: Source<'_>, at: &str) -> Result<Self, ModelError> {
        let name = format!("{at}.weight");
        Ok(Self {
            weight: source.tensor(&name)?,
            bias: Some(source.tensor(&format!("{at}.bias"))?),
            adapter: source.adapters.and_then(|adapters| adapters.of(&name)),
            rounded: source.rounded,
        })
    }

    /// Without a bias. weight: `[outputs, ..inputs]`, flattened to `[outputs, inputs]`.
    pub(super) fn load_projection(source: Source<'_>, at: &str) -> Result<Self, ModelError> {
        Ok(Self {
            weight: source.tensor(&format!("{at}.weight"))?,
            bias: None,
            adapter: None,
            rounded: source.rounded,
        })
    }

    /// The matrix with what is added to it.
    fn weight(&self) -> CandleResult<Tensor> {
        match &self.adapter {
            Some(adapter) => &self.weight + adapter.change()?,
            None => Ok(self.weight.clone()),
        }
    }

    /// Whether something of it changes between two passes.
    fn learns(&self) -> bool {
        let bias = self.bias.as_ref().is_some_and(Tensor::track_op);
        self.weight.track_op() || bias || self.adapter.is_some()
    }

    /// Weight and bias, where nothing is added to the weight.
    fn plain(&self) -> Option<(Tensor, Tensor)> {
        let bias = self.bias.clone().filter(|_| self.adapter.is_none())?;
        Some((self.weight.clone(), bias))
    }

    pub(super) fn forward(&self, xs: &Tensor) -> CandleResult<Tensor> {
        linear(xs, &self.weight()?.flatten_from(1)?, self.bias.as_ref(), self.rounded)
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
        layer_norm(xs, &self.weight, &self.bias, self.eps)
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
        let learns = parts.iter().any(Linear::learns);
        Ok(if learns { Self::Tracked(parts) } else { Self::Fused(Self::join(&parts)?) })
    }

    fn join(parts: &[Linear; 3]) -> CandleResult<Linear> {
        let weights = [parts[0].weight()?, parts[1].weight()?, parts[2].weight()?];
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let (weight, bias) = (Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?);
        Ok(Linear { weight, bias: Some(bias), adapter: None, rounded: parts[0].rounded })
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
        if rows.is_none()
            && let Some(parameters) = self.as_one()
            && let Some(ys) = block(xs, parameters)?
        {
            return Ok(ys);
        }
        let qkv = self.qkv.forward(&self.norm1.forward(xs)?)?;
        let mixed = attention(&qkv, self.shape.heads, self.shape.causal)?;
        self.finish(xs, mixed, rows)
    }

    /// Everything it computes with, where that is nothing but parameters.
    fn as_one(&self) -> Option<BlockParameters> {
        let qkv = match &self.qkv {
            Qkv::Tracked(parts) => parts.iter().map(Linear::plain).collect::<Option<_>>()?,
            Qkv::Fused(joined) => vec![joined.plain()?],
        };
        let [out, fc1, fc2] = [self.out.plain()?, self.fc1.plain()?, self.fc2.plain()?];
        let [norm1, norm2] =
            [&self.norm1, &self.norm2].map(|norm| (norm.weight.clone(), norm.bias.clone()));
        let one = |part| Affine::new(vec![part]);
        Some(BlockParameters {
            affine: [one(norm1), Affine::new(qkv), one(out), one(norm2), one(fc1), one(fc2)],
            heads: self.shape.heads,
            causal: self.shape.causal,
            activation: match self.shape.activation {
                Activation::QuickGelu => tensor::Activation::QuickGelu,
                Activation::Gelu => tensor::Activation::Gelu,
            },
            eps: self.shape.eps,
            rounded: self.out.rounded,
        })
    }

    /// As [`Block::forward`], with its inside shown to `lens`.
    fn forward_through(
        &self,
        xs: &Tensor,
        rows: Option<&Tensor>,
        lens: &mut dyn FnMut(Inside, Tensor) -> CandleResult<Tensor>,
    ) -> CandleResult<Tensor> {
        let normed = lens(Inside::Norm, self.norm1.forward(xs)?)?;
        let qkv = self.qkv.forward(&normed)?;
        let (weights, values) = attention_weights(&qkv, self.shape.heads, self.shape.causal)?;
        let weights = lens(Inside::Attention, weights)?;
        self.finish(xs, mix_heads(&weights, &values)?, rows)
    }

    /// What follows the attention. mixed: `[batch, tokens, dim]`.
    fn finish(&self, xs: &Tensor, mixed: Tensor, rows: Option<&Tensor>) -> CandleResult<Tensor> {
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

/// A place inside a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// The first norm's output, `[batch, tokens, dim]`.
    Norm,
    /// How much each token takes from each, `[batch, heads, tokens, tokens]`.
    Attention,
}

/// Sees a value inside a block of this number and says what the pass goes on with.
pub(super) type Lens<'a> = dyn FnMut(usize, Inside, Tensor) -> CandleResult<Tensor> + 'a;

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

    /// The blocks one after the other, from `[batch, tokens, dim]` to `[batch, dim]`; rows: one index into
    /// `[batch * tokens]` for each item. Only the pooled token of an item leaves the tower, so the last
    /// block finishes no other.
    pub(super) fn stages(&self, rows: Tensor) -> Vec<Stage<'_>> {
        let Some((last, others)) = self.blocks.split_last() else {
            return vec![Box::new(move |xs: &Tensor| Ok(select(xs, &rows)?))];
        };
        let mut stages: Vec<Stage<'_>> = Vec::with_capacity(self.blocks.len());
        for block in others {
            stages.push(Box::new(|xs: &Tensor| Ok(block.forward(xs, None)?)));
        }
        stages.push(Box::new(move |xs: &Tensor| Ok(last.forward(xs, Some(&rows))?)));
        stages
    }

    /// What [`Encoder::stages`] computes, by operations that let `lens` see inside.
    pub(super) fn forward_through(
        &self,
        xs: Tensor,
        rows: &Tensor,
        lens: &mut Lens<'_>,
    ) -> CandleResult<Tensor> {
        let Some((last, others)) = self.blocks.split_last() else {
            return select(&xs, rows);
        };
        let mut xs = xs;
        for (i, block) in others.iter().enumerate() {
            xs = block.forward_through(&xs, None, &mut |inside, value| lens(i, inside, value))?;
        }
        let at_last = &mut |inside, value| lens(others.len(), inside, value);
        last.forward_through(&xs, Some(rows), at_last)
    }
}
