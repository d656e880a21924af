use super::source::Source;
use super::tower::{Blocks, BlocksConfig, Workspace, norm, project, room, unload_norm};
use crate::model::{ClipConfig, ModelError, Precision, VisionConfig};
use crate::tensor::lean::{After, Lean, LeanNorm, Left, Row, Span, WIDTH, lay_out, panels};

const CLASS: &str = "vision_model.embeddings.class_embedding";
const PATCH: &str = "vision_model.embeddings.patch_embedding.weight";
const POSITION: &str = "vision_model.embeddings.position_embedding.weight";
const PRE_NORM: &str = "vision_model.pre_layrnorm";
const POST_NORM: &str = "vision_model.post_layernorm";
const PROJECTION: &str = "visual_projection.weight";

/// The image tower.
pub(super) struct LeanVision {
    config: VisionConfig,
    class: Vec<f32>,
    patch: Lean,
    /// `[token][panel]`
    position: Vec<Vec<Row>>,
    pre_norm: LeanNorm,
    blocks: Blocks,
    post_norm: LeanNorm,
    projection: Lean,
}

impl LeanVision {
    pub(super) fn load(
        config: &ClipConfig,
        source: &dyn Source,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let vision = &config.vision;
        let (width, eps) = (vision.hidden_size, vision.layer_norm_eps);
        let blocks = BlocksConfig {
            prefix: "vision_model",
            layers: vision.num_hidden_layers,
            width,
            heads: vision.num_attention_heads,
            causal: false,
            activation: vision.hidden_act,
            eps,
        };
        let patch = source.values(PATCH)?;
        Ok(Self {
            class: source.values(CLASS)?,
            patch: Lean::pack(
                3 * vision.patch_size.pow(2),
                &[&patch],
                &[],
                precision.at_the_ends(),
            ),
            position: source.values(POSITION)?.chunks(width).map(lay_out).collect(),
            pre_norm: norm(source, PRE_NORM, eps)?,
            blocks: Blocks::load(&blocks, source, precision)?,
            post_norm: norm(source, POST_NORM, eps)?,
            projection: Lean::pack(
                width,
                &[&source.values(PROJECTION)?],
                &[],
                precision.at_the_ends(),
            ),
            config: vision.clone(),
        })
    }

    pub(super) fn unload(&self, keep: &mut impl FnMut(String, Vec<f32>)) {
        let width = self.config.hidden_size;
        let position = self.position.iter();
        let position = position.flat_map(|row| row.iter().flat_map(|row| row.0).take(width));
        keep(POSITION.to_owned(), position.collect());
        keep(CLASS.to_owned(), self.class.clone());
        keep(PATCH.to_owned(), self.patch.weights());
        keep(PROJECTION.to_owned(), self.projection.weights());
        unload_norm(&self.pre_norm, PRE_NORM, keep);
        unload_norm(&self.post_norm, POST_NORM, keep);
        self.blocks.unload(keep);
    }

    /// Raw features of normalised pixels, each `[3, side, side]`.
    pub(super) fn features(
        &self,
        workspace: &mut Workspace,
        pixels: &[&[f32]],
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let patches = self.config.patches();
        let (batch, tokens) = (pixels.len(), patches + 1);
        let (cut, rows) = (batch * patches, batch * tokens);
        let wide = panels(self.config.hidden_size);
        let input = room(&mut workspace.input, panels(self.patch.inputs()) * cut);
        for (image, pixels) in pixels.iter().enumerate() {
            self.cut(pixels, image * patches, cut, input);
        }
        // The patches pass through the place that the pooled rows take later.
        let embedded = room(&mut workspace.pooled, wide * cut);
        self.patch.forward(Left::Rows(input), cut, embedded, After::Nothing, threads);
        let class = lay_out(&self.class);
        let placed = room(&mut workspace.input, wide * rows);
        for panel in 0..wide {
            let placed = placed[panel * rows..][..rows].chunks_exact_mut(tokens);
            let embedded = embedded[panel * cut..][..cut].chunks_exact(patches);
            for (placed, embedded) in placed.zip(embedded) {
                let from = std::iter::once(&class[panel]).chain(embedded);
                for ((to, from), position) in placed.iter_mut().zip(from).zip(&self.position) {
                    for lane in 0..WIDTH {
                        to.0[lane] = from.0[lane] + position[panel].0[lane];
                    }
                }
            }
        }
        self.pre_norm.forward(placed, rows, room(&mut workspace.xs, wide * rows), threads);
        let spans: Vec<Span> =
            (0..batch).map(|image| Span { start: image * tokens, tokens }).collect();
        let pooled: Vec<usize> = spans.iter().map(|span| span.start).collect();
        self.blocks.forward(workspace, rows, &spans, &pooled, threads);
        project(workspace, &self.post_norm, &self.projection, batch)
    }

    /// Cuts an image into patches, `[patch][3 * side * side]`, from row `first` of `rows` on.
    fn cut(&self, pixels: &[f32], first: usize, rows: usize, out: &mut [Row]) {
        let (side, size) = (self.config.image_size, self.config.patch_size);
        let grid = side / size;
        for (line, values) in pixels.chunks_exact(side).enumerate() {
            let (channel, y) = (line / side, line % side);
            // Lines below the last whole patch belong to none.
            let (down, within) = (y / size, y % size);
            if down >= grid {
                continue;
            }
            for (across, values) in values.chunks_exact(size).enumerate() {
                let row = first + down * grid + across;
                let mut column = (channel * size + within) * size;
                let mut values = values;
                while !values.is_empty() {
                    let fits = (WIDTH - column % WIDTH).min(values.len());
                    let (now, later) = values.split_at(fits);
                    out[column / WIDTH * rows + row].0[column % WIDTH..][..fits]
                        .copy_from_slice(now);
                    (values, column) = (later, column + fits);
                }
            }
        }
        // What fills up the last panel may be of another picture's size.
        let (inputs, last) = (self.patch.inputs(), panels(self.patch.inputs()) - 1);
        if !inputs.is_multiple_of(WIDTH) {
            for row in first..first + grid * grid {
                out[last * rows + row].0[inputs % WIDTH..].fill(0.0);
            }
        }
    }
}
