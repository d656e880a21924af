use super::Values;
use super::tower::{Blocks, BlocksConfig, Workspace, norm, project, room, unload_norm};
use crate::model::{ClipConfig, ModelError, Precision, TextConfig};
use crate::tensor::lean::{Lean, LeanNorm, Span, WIDTH, panels};

const TOKEN: &str = "text_model.embeddings.token_embedding.weight";
const POSITION: &str = "text_model.embeddings.position_embedding.weight";
const FINAL_NORM: &str = "text_model.final_layer_norm";
const PROJECTION: &str = "text_projection.weight";

/// The embedding of each token.
enum Table {
    F32(Vec<f32>),
    Bf16(Vec<half::bf16>),
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
        values: &mut Values<'_>,
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
        let token = values(TOKEN)?;
        Ok(Self {
            token: match precision {
                Precision::F32 => Table::F32(token),
                Precision::Bf16 | Precision::Int8 => {
                    Table::Bf16(token.into_iter().map(half::bf16::from_f32).collect())
                }
            },
            position: values(POSITION)?,
            blocks: Blocks::load(&blocks, values, precision)?,
            final_norm: norm(values, FINAL_NORM, eps)?,
            projection: Lean::pack(width, &[&values(PROJECTION)?], &[], precision.at_the_ends()),
            config: text.clone(),
        })
    }

    pub(super) fn unload(&self, keep: &mut impl FnMut(String, Vec<f32>)) {
        let token = match &self.token {
            Table::F32(values) => values.clone(),
            Table::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
        };
        keep(TOKEN.to_owned(), token);
        keep(POSITION.to_owned(), self.position.clone());
        keep(PROJECTION.to_owned(), self.projection.weights());
        unload_norm(&self.final_norm, FINAL_NORM, keep);
        self.blocks.unload(keep);
    }

    /// The ids of each sequence as far as its end: no token sees a later one and only the end's leaves the tower.
    ///
    /// # Errors
    /// [`ModelError::Tokens`].
    pub(super) fn used<'a>(&self, ids: &[&'a [u32]]) -> Result<Vec<&'a [u32]>, ModelError> {
        let used = ids.iter().enumerate();
        used.map(|(row, ids)| Ok(&ids[..=self.config.end(row, ids)?])).collect()
    }

    /// Raw features of sequences that end with their end token.
    pub(super) fn features(
        &self,
        workspace: &mut Workspace,
        sequences: &[&[u32]],
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let width = self.config.hidden_size;
        let mut spans = Vec::with_capacity(sequences.len());
        let mut rows = 0;
        for ids in sequences {
            spans.push(Span { start: rows, tokens: ids.len() });
            rows += ids.len();
        }
        let xs = room(&mut workspace.xs, panels(width) * rows);
        for (span, ids) in spans.iter().zip(sequences) {
            for (place, id) in ids.iter().enumerate() {
                let token = *id as usize * width;
                for column in 0..panels(width) * WIDTH {
                    let value = if column >= width {
                        0.0
                    } else {
                        let token = match &self.token {
                            Table::F32(values) => values[token + column],
                            Table::Bf16(values) => values[token + column].to_f32(),
                        };
                        token + self.position[place * width + column]
                    };
                    xs[column / WIDTH * rows + span.start + place].0[column % WIDTH] = value;
                }
            }
        }
        let ends: Vec<usize> = spans.iter().map(|span| span.start + span.tokens - 1).collect();
        self.blocks.forward(workspace, rows, &spans, &ends, threads);
        project(workspace, &self.final_norm, &self.projection, sequences.len())
    }
}
