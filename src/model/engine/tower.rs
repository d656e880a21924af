use super::source::Source;
use crate::model::config::Activation;
use crate::model::{ModelError, Precision};
use crate::tensor;
use crate::tensor::lean::{After, Heads, Lean, LeanNorm, Rounded, Row, Span, attention, panels};

/// What a pass needs besides the weights; kept from one to the next.
#[derive(Default)]
pub(super) struct Workspace {
    /// `[rows, width]`: what goes from block to block.
    pub(super) xs: Vec<Row>,
    /// What goes into a tower, before its first product.
    pub(super) input: Vec<Row>,
    normed: Vec<Row>,
    qkv: Vec<Row>,
    mixed: Vec<Row>,
    inner: Vec<Row>,
    /// `[pooled, width]`
    pub(super) pooled: Vec<Row>,
    /// `[pooled, projection]`
    pub(super) projected: Vec<Row>,
}

/// So many rows of a buffer, with whatever is in them.
pub(super) fn room(buffer: &mut Vec<Row>, rows: usize) -> &mut [Row] {
    tensor::room(buffer, rows, Row::ZERO)
}

/// A pre-norm transformer block.
struct Block {
    norm1: LeanNorm,
    /// Queries, keys and values.
    qkv: Lean,
    out: Lean,
    norm2: LeanNorm,
    fc1: Lean,
    fc2: Lean,
}

/// The blocks of a tower.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    prefix: &'static str,
    width: usize,
    heads: Heads,
    activation: After,
    /// Whether the attention's products are rounded, as all others are.
    rounded: Option<Rounded>,
}

/// What the blocks of a tower share.
pub(super) struct BlocksConfig {
    pub(super) prefix: &'static str,
    pub(super) layers: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) causal: bool,
    pub(super) activation: Activation,
    pub(super) eps: f64,
}

pub(super) fn norm(source: &dyn Source, at: &str, eps: f64) -> Result<LeanNorm, ModelError> {
    let values = |kind: &str| source.values(&format!("{at}.{kind}"));
    let (weight, bias) = (values("weight")?, values("bias")?);
    Ok(LeanNorm::new(&weight, &bias, eps))
}

impl Blocks {
    pub(super) fn load(
        config: &BlocksConfig,
        source: &dyn Source,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let BlocksConfig { prefix, layers, width, heads, causal, activation, eps } = *config;
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let at = format!("{prefix}.encoder.layers.{layer}");
            let linear = |names: &[&str]| {
                let both = |kind: &str| -> Result<Vec<Vec<f32>>, ModelError> {
                    names.iter().map(|name| source.values(&format!("{at}.{name}.{kind}"))).collect()
                };
                let (weights, bias) = (both("weight")?, both("bias")?);
                let inputs = weights[0].len() / bias[0].len();
                let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
                let bias: Vec<&[f32]> = bias.iter().map(Vec::as_slice).collect();
                Ok::<_, ModelError>(Lean::pack(inputs, &weights, &bias, precision))
            };
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            let (qkv, out) = (linear(&qkv)?, linear(&["self_attn.out_proj"])?);
            let (fc1, fc2) = (linear(&["mlp.fc1"])?, linear(&["mlp.fc2"])?);
            blocks.push(Block {
                norm1: norm(source, &format!("{at}.layer_norm1"), eps)?,
                qkv,
                out,
                norm2: norm(source, &format!("{at}.layer_norm2"), eps)?,
                fc1,
                fc2,
            });
        }
        let activation = match activation {
            Activation::QuickGelu => After::QuickGelu,
            Activation::Gelu => After::Gelu,
        };
        let heads = Heads { heads, size: width / heads, causal };
        let rounded = if precision == Precision::F32 { None } else { Rounded::detect() };
        Ok(Self { blocks, prefix, width, heads, activation, rounded })
    }

    /// Gives every parameter by its name.
    pub(super) fn unload(&self, keep: &mut impl FnMut(String, Vec<f32>)) {
        for (layer, block) in self.blocks.iter().enumerate() {
            let at = format!("{}.encoder.layers.{layer}", self.prefix);
            for (name, norm) in [("layer_norm1", &block.norm1), ("layer_norm2", &block.norm2)] {
                unload_norm(norm, &format!("{at}.{name}"), keep);
            }
            let (weights, bias) = (block.qkv.weights(), block.qkv.bias());
            let parts = weights.chunks(self.width * self.width).zip(bias.chunks(self.width));
            for (name, (weights, bias)) in ["q_proj", "k_proj", "v_proj"].iter().zip(parts) {
                keep(format!("{at}.self_attn.{name}.weight"), weights.to_vec());
                keep(format!("{at}.self_attn.{name}.bias"), bias.to_vec());
            }
            let linears = [
                ("self_attn.out_proj", &block.out),
                ("mlp.fc1", &block.fc1),
                ("mlp.fc2", &block.fc2),
            ];
            for (name, linear) in linears {
                keep(format!("{at}.{name}.weight"), linear.weights());
                keep(format!("{at}.{name}.bias"), linear.bias());
            }
        }
    }

    /// Takes `workspace.xs`, `[rows, width]`, through the blocks and leaves the rows `pooled` of what comes out in
    /// `workspace.pooled`. Only those leave a tower, so the last block finishes no other.
    pub(super) fn forward(
        &self,
        workspace: &mut Workspace,
        rows: usize,
        spans: &[Span],
        pooled: &[usize],
        threads: usize,
    ) {
        let wide = panels(self.width);
        let Workspace { xs, normed, qkv, mixed, inner, pooled: kept, .. } = workspace;
        let xs = room(xs, wide * rows);
        for (at, block) in self.blocks.iter().enumerate() {
            let normed = room(normed, wide * rows);
            let qkv = room(qkv, panels(block.qkv.outputs()) * rows);
            let mixed = room(mixed, wide * rows);
            block.norm1.forward(xs, rows, normed);
            block.qkv.forward(normed, rows, qkv, After::Nothing, threads);
            attention(qkv, rows, spans, self.heads, mixed, self.rounded, threads);
            if at + 1 < self.blocks.len() {
                self.finish(block, xs, mixed, rows, normed, inner, threads);
                continue;
            }
            let kept = room(kept, wide * pooled.len());
            select(xs, rows, pooled, kept);
            // The place of the queries is free again.
            let mixed_kept = &mut qkv[..wide * pooled.len()];
            select(mixed, rows, pooled, mixed_kept);
            self.finish(block, kept, mixed_kept, pooled.len(), normed, inner, threads);
        }
    }

    /// What follows the attention.
    #[expect(clippy::too_many_arguments, reason = "the parts of a workspace")]
    fn finish(
        &self,
        block: &Block,
        xs: &mut [Row],
        mixed: &[Row],
        rows: usize,
        normed: &mut [Row],
        inner: &mut Vec<Row>,
        threads: usize,
    ) {
        block.out.forward(mixed, rows, xs, After::Add, threads);
        let normed = &mut normed[..xs.len()];
        block.norm2.forward(xs, rows, normed);
        let inner = room(inner, panels(block.fc1.outputs()) * rows);
        block.fc1.forward(normed, rows, inner, self.activation, threads);
        block.fc2.forward(inner, rows, xs, After::Add, threads);
    }
}

pub(super) fn unload_norm(norm: &LeanNorm, at: &str, keep: &mut impl FnMut(String, Vec<f32>)) {
    let [weight, bias] = norm.values();
    keep(format!("{at}.weight"), weight);
    keep(format!("{at}.bias"), bias);
}

/// The rows `at` of a matrix with `rows` rows.
fn select(matrix: &[Row], rows: usize, at: &[usize], out: &mut [Row]) {
    for (panel, out) in matrix.chunks_exact(rows).zip(out.chunks_exact_mut(at.len())) {
        for (out, row) in out.iter_mut().zip(at) {
            *out = panel[*row];
        }
    }
}

/// Normalises `workspace.pooled`, `[rows, columns]`, projects it, and gives it row by row.
pub(super) fn project(
    workspace: &mut Workspace,
    norm: &LeanNorm,
    projection: &Lean,
    rows: usize,
) -> Vec<Vec<f32>> {
    let Workspace { pooled, normed, projected, .. } = workspace;
    let size = panels(projection.inputs()) * rows;
    let normed = room(normed, size);
    norm.forward(&pooled[..size], rows, normed);
    let projected = room(projected, panels(projection.outputs()) * rows);
    projection.forward(normed, rows, projected, After::Nothing, 1);
    let row = |at| crate::tensor::lean::row_of(projected, rows, at, projection.outputs());
    (0..rows).map(row).collect()
}
