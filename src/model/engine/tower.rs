use super::source::Source;
use crate::model::config::Activation;
use crate::model::{ModelError, Precision};
use crate::tensor;
use crate::tensor::lean::{
    After, HalfRow, Heads, Held, Lean, LeanNorm, Left, Rounded, Row, Span, WIDTH, attention,
    panels, rounded_attention,
};

/// What a pass needs besides the weights; kept from one to the next.
#[derive(Default)]
pub(super) struct Workspace {
    /// `[rows, width]`: what goes from block to block.
    pub(super) xs: Vec<Row>,
    /// What goes into a tower before its first product, and what goes out before the last.
    pub(super) input: Vec<Row>,
    as_is: Between<Row, Row>,
    halves: Between<HalfRow, HalfRow>,
    octets: Between<Row, HalfRow>,
    /// `[pooled, width]`
    pub(super) pooled: Vec<Row>,
    /// `[pooled, projection]`
    pub(super) projected: Vec<Row>,
}

/// What stands between a block's products: `Q` goes into the attention, and `T` into all others.
struct Between<T, Q> {
    normed: Vec<T>,
    qkv: Vec<Q>,
    mixed: Vec<T>,
    inner: Vec<T>,
    /// Rows of `mixed` that are finished in the last block.
    chosen: Vec<T>,
}

impl<T, Q> Default for Between<T, Q> {
    fn default() -> Self {
        let [normed, mixed, inner, chosen] = [const { Vec::new() }; 4];
        Self { normed, qkv: Vec::new(), mixed, inner, chosen }
    }
}

/// Room for the left side of a product.
fn left_room<T: Held>(buffer: &mut Vec<T>, rows: usize) -> &mut [T] {
    tensor::room(buffer, rows + T::BEHIND, T::ZERO)
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
    kept: Kept,
}

/// How values are kept between products.
#[derive(Clone, Copy)]
enum Kept {
    AsIs,
    /// Rounded, and the attention's products too.
    Halves(Rounded),
    /// Those of the attention alone are rounded; others put them in eight bits.
    Octets(Rounded),
}

impl Kept {
    fn new(precision: Precision, heads: Heads) -> Self {
        // Heads that share a panel have no attention of rounded values.
        match Rounded::detect().filter(|_| heads.size.is_multiple_of(WIDTH)) {
            Some(rounded) if precision == Precision::Bf16 => Self::Halves(rounded),
            Some(rounded) if precision == Precision::Int8 => Self::Octets(rounded),
            Some(_) | None => Self::AsIs,
        }
    }
}

/// Rows, and which of them leave the tower.
#[derive(Clone, Copy)]
struct Pass<'a> {
    rows: usize,
    pooled: &'a [usize],
    threads: usize,
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
        let kept = Kept::new(precision, heads);
        Ok(Self { blocks, prefix, width, heads, activation, kept })
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
        let Workspace { xs, as_is, halves, octets, pooled: kept, .. } = workspace;
        let wide = panels(self.width);
        let (xs, kept) = (room(xs, wide * rows), room(kept, wide * pooled.len()));
        let (pass, heads) = (Pass { rows, pooled, threads }, self.heads);
        match self.kept {
            Kept::AsIs => self.pass(xs, kept, as_is, pass, |qkv, mixed| {
                attention(qkv, rows, spans, heads, mixed, threads);
            }),
            Kept::Halves(rounded) => self.pass(xs, kept, halves, pass, |qkv, mixed| {
                rounded_attention(qkv, rows, spans, heads, mixed, rounded, threads);
            }),
            Kept::Octets(rounded) => self.pass(xs, kept, octets, pass, |qkv, mixed| {
                rounded_attention(qkv, rows, spans, heads, mixed, rounded, threads);
            }),
        }
    }

    fn pass<T: Held, Q: Held>(
        &self,
        xs: &mut [Row],
        kept: &mut [Row],
        between: &mut Between<T, Q>,
        pass: Pass<'_>,
        attend: impl Fn(&[Q], &mut [T]),
    ) {
        let Pass { rows, pooled, threads } = pass;
        let size = panels(self.width) * rows;
        let Between { normed, qkv, mixed, inner, chosen } = between;
        let normed = left_room(normed, size);
        let mixed = left_room(mixed, size);
        for (at, block) in self.blocks.iter().enumerate() {
            let qkv = tensor::room(qkv, panels(block.qkv.outputs()) * rows, Q::ZERO);
            block.norm1.forward(xs, rows, &mut normed[..size], threads);
            block.qkv.forward(T::left(normed), rows, qkv, After::Nothing, threads);
            attend(qkv, &mut mixed[..size]);
            if at + 1 < self.blocks.len() {
                self.finish(block, xs, T::left(mixed), (rows, threads), normed, inner);
                continue;
            }
            select(xs, rows, pooled, kept);
            let chosen = left_room(chosen, kept.len());
            select(&mixed[..size], rows, pooled, &mut chosen[..kept.len()]);
            let of = (pooled.len(), threads);
            self.finish(block, kept, T::left(chosen), of, normed, inner);
        }
    }

    /// What follows the attention.
    fn finish<T: Held>(
        &self,
        block: &Block,
        xs: &mut [Row],
        mixed: Left<'_>,
        (rows, threads): (usize, usize),
        normed: &mut [T],
        inner: &mut Vec<T>,
    ) {
        block.out.forward(mixed, rows, xs, After::Add, threads);
        let normed = &mut normed[..xs.len() + T::BEHIND];
        block.norm2.forward(xs, rows, &mut normed[..xs.len()], threads);
        let size = panels(block.fc1.outputs()) * rows;
        let inner = left_room(inner, size);
        block.fc1.forward(T::left(normed), rows, &mut inner[..size], self.activation, threads);
        block.fc2.forward(T::left(inner), rows, xs, After::Add, threads);
    }
}

pub(super) fn unload_norm(norm: &LeanNorm, at: &str, keep: &mut impl FnMut(String, Vec<f32>)) {
    let [weight, bias] = norm.values();
    keep(format!("{at}.weight"), weight);
    keep(format!("{at}.bias"), bias);
}

/// The rows `at` of a matrix with `rows` rows.
fn select<T: Copy>(matrix: &[T], rows: usize, at: &[usize], out: &mut [T]) {
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
    let Workspace { pooled, input, projected, .. } = workspace;
    let size = panels(projection.inputs()) * rows;
    // The place of what went into the tower is free.
    let normed = room(input, size);
    norm.forward(&pooled[..size], rows, normed, 1);
    let projected = room(projected, panels(projection.outputs()) * rows);
    projection.forward(Left::Rows(normed), rows, projected, After::Nothing, 1);
    let row = |at| crate::tensor::lean::row_of(projected, rows, at, projection.outputs());
    (0..rows).map(row).collect()
}
