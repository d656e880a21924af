use candle_core::{DType, Tensor};

use super::layers::{BlockShape, Encoder, Linear, Norm, Source};
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

    /// ids: `[batch, tokens]`, u32; the result is `[batch, projection]` in `dtype`.
    pub(super) fn forward(&self, ids: &Tensor, dtype: DType) -> Result<Tensor, ModelError> {
        let sequences = ids.to_vec2::<u32>()?;
        let ends = sequences
            .iter()
            .enumerate()
            .map(|(row, ids)| self.end(row, ids))
            .collect::<Result<Vec<usize>, _>>()?;
        // No token sees a later one and only the end's leaves the tower, so all after the last
        // end is work for nothing.
        let used = ends.iter().max().map_or(1, |end| end + 1);
        let batch = sequences.len();
        let flat = ids.narrow(1, 0, used)?.flatten_all()?;
        let tokens = self.token.index_select(&flat, 0)?.reshape((batch, used, ()))?;
        let tokens = tokens.broadcast_add(&self.position.narrow(0, 0, used)?)?.to_dtype(dtype)?;
        let rows = ends
            .iter()
            .enumerate()
            .map(|(row, end)| u32::try_from(row * used + end))
            .collect::<Result<Vec<u32>, _>>()
            .map_err(candle_core::Error::wrap)?;
        let rows = Tensor::from_vec(rows, batch, ids.device())?;
        let pooled = self.encoder.forward_pooled(tokens, &rows)?;
        Ok(self.projection.forward(&self.final_norm.forward(&pooled)?)?)
    }

    /// Where the feature of a sequence is taken.
    fn end(&self, row: usize, ids: &[u32]) -> Result<usize, ModelError> {
        let refuse = |problem| Err(ModelError::Tokens { row, problem });
        if ids.iter().any(|id| *id as usize >= self.config.vocab_size) {
            return refuse("holds an id beyond the vocabulary");
        }
        let eos = self.config.eos_token_id;
        let end = if eos == TextConfig::LEGACY_EOS {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest)
        } else {
            ids.iter().position(|id| *id == eos)
        };
        match end {
            Some(end) if end < self.config.max_position_embeddings => Ok(end),
            Some(_) => refuse("is longer than the model's positions"),
            None => refuse("has no end token"),
        }
    }
}
