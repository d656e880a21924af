use candle_core::{DType, Device, Tensor};

use super::layers::{BlockShape, Encoder, Linear, Norm, Source};
use super::stages::{Stage, Stages};
use super::{ModelError, TextConfig};

/// The text tower with its projection.
pub(super) struct TextTower {
    token: Tensor,
    position: Tensor,
    encoder: Encoder,
    final_norm: Norm,
    projection: Linear,
    config: TextConfig,
}

impl TextTower {
    pub(super) fn load(source: Source<'_>, config: &TextConfig) -> Result<Self, ModelError> {
        let at = "text_model.embeddings";
        let eps = config.layer_norm_eps;
        let shape = BlockShape {
            heads: config.num_attention_heads,
            causal: true,
            activation: config.hidden_act,
            eps,
        };
        Ok(Self {
            token: source.tensor(&format!("{at}.token_embedding.weight"))?,
            position: source.tensor(&format!("{at}.position_embedding.weight"))?,
            encoder: Encoder::load(source, "text_model", config.num_hidden_layers, shape)?,
            final_norm: Norm::load(source, "text_model.final_layer_norm", eps)?,
            projection: Linear::load_projection(source, "text_projection")?,
            config: config.clone(),
        })
    }

    /// From `ids`, `[batch, tokens]`, u32, to `[batch, projection]` in `dtype`.
    pub(super) fn stages(&self, ids: &Tensor, dtype: DType) -> Result<Stages<'_>, ModelError> {
        let (ids, ends) = self.used(ids)?;
        let rows = pooled_rows(&ends, ids.dim(1)?, ids.device())?;
        let embed = move |ids: &Tensor| self.place(&self.look_up(ids)?, dtype);
        Ok(self.staged(ids, Box::new(embed), rows))
    }

    /// From token embeddings, `[batch, tokens, dim]`, whose sequences end at `ends`, to `[batch, projection]` in
    /// `dtype`.
    pub(super) fn stages_of_embeddings(
        &self,
        embeddings: Tensor,
        ends: &[usize],
        dtype: DType,
    ) -> Result<Stages<'_>, ModelError> {
        let rows = pooled_rows(ends, embeddings.dim(1)?, embeddings.device())?;
        let embed = move |embeddings: &Tensor| self.place(embeddings, dtype);
        Ok(self.staged(embeddings, Box::new(embed), rows))
    }

    fn staged<'a>(&'a self, input: Tensor, embed: Stage<'a>, rows: Tensor) -> Stages<'a> {
        let mut steps = self.encoder.stages(rows);
        steps.insert(0, embed);
        steps.push(Box::new(|pooled: &Tensor| {
            Ok(self.projection.forward(&self.final_norm.forward(pooled)?)?)
        }));
        Stages::new(input, steps)
    }

    /// The ids as far as they matter, and where each sequence ends. No token sees a later one and only the
    /// end's leaves the tower, so all after the last end is work for nothing.
    pub(super) fn used(&self, ids: &Tensor) -> Result<(Tensor, Vec<usize>), ModelError> {
        let sequences = ids.to_vec2::<u32>()?;
        let ends = sequences
            .iter()
            .enumerate()
            .map(|(row, ids)| self.config.end(row, ids))
            .collect::<Result<Vec<usize>, _>>()?;
        let used = ends.iter().max().map_or(1, |end| end + 1);
        Ok((ids.narrow(1, 0, used)?, ends))
    }

    /// Embeddings of token ids, `[batch, tokens, dim]`.
    pub(super) fn look_up(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, used) = ids.dims2()?;
        Ok(self.token.index_select(&ids.flatten_all()?, 0)?.reshape((batch, used, ()))?)
    }

    fn place(&self, tokens: &Tensor, dtype: DType) -> Result<Tensor, ModelError> {
        let positions = self.position.narrow(0, 0, tokens.dim(1)?)?;
        Ok(tokens.broadcast_add(&positions)?.to_dtype(dtype)?)
    }
}

impl TextConfig {
    /// Where the feature of sequence number `row` is taken.
    pub(super) fn end(&self, row: usize, ids: &[u32]) -> Result<usize, ModelError> {
        let refuse = |problem| Err(ModelError::Tokens { row, problem });
        if ids.iter().any(|id| *id as usize >= self.vocab_size) {
            return refuse("holds an id beyond the vocabulary");
        }
        let eos = self.eos_token_id;
        let end = if eos == Self::LEGACY_EOS {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest)
        } else {
            ids.iter().position(|id| *id == eos)
        };
        match end {
            Some(end) if end < self.max_position_embeddings => Ok(end),
            Some(_) => refuse("is longer than the model's positions"),
            None => refuse("has no end token"),
        }
    }
}

/// Indices into `[batch * tokens]` of each sequence's end.
fn pooled_rows(ends: &[usize], tokens: usize, device: &Device) -> Result<Tensor, ModelError> {
    let rows = ends
        .iter()
        .enumerate()
        .map(|(row, end)| u32::try_from(row * tokens + end))
        .collect::<Result<Vec<u32>, _>>()
        .map_err(candle_core::Error::wrap)?;
    Ok(Tensor::from_vec(rows, ends.len(), device)?)
}
