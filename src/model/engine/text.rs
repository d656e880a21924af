use half::bf16;

use super::source::Source;
use super::tower::{Blocks, BlocksConfig, Workspace, norm, project, room, unload_norm};
use crate::model::stream::StoredRows;
use crate::model::{ClipConfig, ModelError, Precision, TextConfig};
use crate::tensor::lean::{Lean, LeanNorm, Span, WIDTH, panels};

const TOKEN: &str = "text_model.embeddings.token_embedding.weight";
const POSITION: &str = "text_model.embeddings.position_embedding.weight";
const FINAL_NORM: &str = "text_model.final_layer_norm";
const PROJECTION: &str = "text_projection.weight";

/// The embedding of each token: a sixth of ViT-B/32, of which a prompt needs a dozen rows.
enum Table {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Stored(StoredRows, Precision),
}

impl Table {
    fn load(source: &dyn Source, width: usize, precision: Precision) -> Result<Self, ModelError> {
        if let Some(rows) = source.rows(TOKEN, width)? {
            return Ok(Self::Stored(rows, precision));
        }
        let values = source.values(TOKEN)?;
        Ok(match precision {
            Precision::F32 => Self::F32(values),
            Precision::Bf16 | Precision::Int8 => {
                Self::Bf16(values.into_iter().map(bf16::from_f32).collect())
            }
        })
    }

    /// Adds a token's embedding to `out`.
    fn read(&self, token: u32, width: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        let at = token as usize * width..(token as usize + 1) * width;
        match self {
            Self::F32(values) => out.extend_from_slice(&values[at]),
            Self::Bf16(values) => out.extend(values[at].iter().map(|value| value.to_f32())),
            Self::Stored(rows, precision) => {
                let read = out.len();
                rows.read(token as usize, out)?;
                if *precision != Precision::F32 {
                    let rounded = |value: &mut f32| *value = bf16::from_f32(*value).to_f32();
                    out[read..].iter_mut().for_each(rounded);
                }
            }
        }
        Ok(())
    }
}

/// A prompt's tokens as far as its end, `[tokens, width]`.
pub(super) struct Sequence {
    tokens: usize,
    embedded: Vec<f32>,
}

/// The text tower.
pub(super) struct LeanText {
    config: TextConfig,
    token: Table,
    position: Vec<f32>,
    blocks: Blocks,
    final_norm: LeanNorm,
    projection: Lean,
}

impl LeanText {
    pub(super) fn load(
        config: &ClipConfig,
        source: &dyn Source,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let text = &config.text;
        let (width, eps) = (text.hidden_size, text.layer_norm_eps);
        let blocks = BlocksConfig {
            prefix: "text_model",
            layers: text.num_hidden_layers,
            width,
            heads: text.num_attention_heads,
            causal: true,
            activation: text.hidden_act,
            eps,
        };
        let projection = source.values(PROJECTION)?;
        Ok(Self {
            token: Table::load(source, width, precision)?,
            position: source.values(POSITION)?,
            blocks: Blocks::load(&blocks, source, precision)?,
            final_norm: norm(source, FINAL_NORM, eps)?,
            projection: Lean::pack(width, &[&projection], &[], precision.at_the_ends()),
            config: text.clone(),
        })
    }

    /// Gives every parameter by its name.
    ///
    /// # Errors
    /// When embeddings of tokens cannot be read.
    pub(super) fn unload(&self, keep: &mut impl FnMut(String, Vec<f32>)) -> Result<(), ModelError> {
        let TextConfig { vocab_size, hidden_size: width, .. } = self.config;
        let mut token = Vec::with_capacity(vocab_size * width);
        (0..vocab_size as u32).try_for_each(|id| self.token.read(id, width, &mut token))?;
        keep(TOKEN.to_owned(), token);
        keep(POSITION.to_owned(), self.position.clone());
        keep(PROJECTION.to_owned(), self.projection.weights());
        unload_norm(&self.final_norm, FINAL_NORM, keep);
        self.blocks.unload(keep);
        Ok(())
    }

    /// The tokens of each sequence as far as its end: no token sees a later one and only the end's leaves the tower.
    ///
    /// # Errors
    /// [`ModelError::Tokens`]; when their embeddings cannot be read.
    pub(super) fn sequences(&self, ids: &[&[u32]]) -> Result<Vec<Sequence>, ModelError> {
        let width = self.config.hidden_size;
        let sequence = |(row, ids): (usize, &&[u32])| {
            let ids = &ids[..=self.config.end(row, ids)?];
            let mut embedded = Vec::with_capacity(ids.len() * width);
            ids.iter().try_for_each(|id| self.token.read(*id, width, &mut embedded))?;
            Ok(Sequence { tokens: ids.len(), embedded })
        };
        ids.iter().enumerate().map(sequence).collect()
    }

    /// Raw features of sequences.
    pub(super) fn features(
        &self,
        workspace: &mut Workspace,
        sequences: &[Sequence],
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let width = self.config.hidden_size;
        let mut spans = Vec::with_capacity(sequences.len());
        let mut rows = 0;
        for Sequence { tokens, .. } in sequences {
            spans.push(Span { start: rows, tokens: *tokens });
            rows += tokens;
        }
        let xs = room(&mut workspace.xs, panels(width) * rows);
        for (span, sequence) in spans.iter().zip(sequences) {
            for (place, token) in sequence.embedded.chunks_exact(width).enumerate() {
                let position = &self.position[place * width..(place + 1) * width];
                for column in 0..panels(width) * WIDTH {
                    let value = if column < width { token[column] + position[column] } else { 0.0 };
                    xs[column / WIDTH * rows + span.start + place].0[column % WIDTH] = value;
                }
            }
        }
        let ends: Vec<usize> = spans.iter().map(|span| span.start + span.tokens - 1).collect();
        self.blocks.forward(workspace, rows, &spans, &ends, threads);
        project(workspace, &self.final_norm, &self.projection, sequences.len())
    }
}
