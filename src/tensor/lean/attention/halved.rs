//! The same with both sides of the products rounded to bfloat16: as f32 they take a sixth of ViT-B/16's time where all others are rounded.

use std::cell::Cell;

use pulp::{Simd, WithSimd};

use super::super::amx::BLOCK;
use super::super::pairs::{HalfRow, HalfRows, halve, pair_up};
use super::super::rounded::{Ready, Rounded};
use super::super::{Row, WIDTH, panels};
use super::{Heads, Span, Task, multiply_rows, numerators};
use crate::tensor::room;
use crate::tensor::simd::dispatch;

thread_local! {
    /// Kept from one pass to the next, as the other.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Heads of whole panels.
pub(super) fn attention(task: Task<'_>, rounded: Rounded) {
    dispatch(Halved { task, ready: rounded.ready() });
}

struct Halved<'a> {
    task: Task<'a>,
    ready: Ready,
}

/// The matrices of one head and one sequence.
#[derive(Default)]
struct Scratch {
    /// Queries, `[tokens, size]`, and rows that fill up a block.
    q: Vec<HalfRow>,
    /// Keys, turned: `[size / 2, tokens]`.
    k: Vec<HalfRows>,
    /// Values, `[tokens / 2, size]`, the tokens filled up.
    v: Vec<HalfRows>,
    /// How much each token takes from each, `[tokens, tokens]`: before the softmax, and after it but for a factor of each row.
    scores: Vec<Row>,
    weights: Vec<HalfRow>,
    /// `[tokens]`
    factors: Vec<f32>,
}

impl Scratch {
    /// Makes room for so many tokens.
    fn grow(&mut self, tokens: usize, size: usize) {
        let (deep, wide) = (size / WIDTH, panels(tokens));
        room(&mut self.q, deep * tokens + BLOCK - 1, HalfRow::ZERO);
        room(&mut self.k, wide * size / 2, HalfRows::ZERO);
        room(&mut self.v, deep * wide * WIDTH / 2, HalfRows::ZERO);
        room(&mut self.scores, wide * tokens, Row::ZERO);
        room(&mut self.weights, wide * tokens + BLOCK - 1, HalfRow::ZERO);
        room(&mut self.factors, tokens, 0.0);
    }

    /// Rounds what goes into the products. `part`: a panel of queries (0), keys or values.
    fn pack<'a>(&mut self, part: impl Fn(usize, usize) -> &'a [Row], tokens: usize, size: usize) {
        let (deep, wide) = (size / WIDTH, panels(tokens));
        for panel in 0..deep {
            // The keys pass through the place of the weights.
            halve(part(1, panel), &mut self.weights[..tokens]);
            for (token, key) in self.weights[..tokens].iter().enumerate() {
                let to = &mut self.k[(token / WIDTH * deep + panel) * WIDTH / 2..][..WIDTH / 2];
                for (to, pair) in to.iter_mut().zip(key.0) {
                    to.0[token % WIDTH] = pair;
                }
            }
            halve(part(0, panel), &mut self.q[panel * tokens..][..tokens]);
            let to = &mut self.v[panel * wide * WIDTH / 2..][..wide * WIDTH / 2];
            let (to, filling) = to.split_at_mut(tokens.div_ceil(2));
            pair_up(part(2, panel), to);
            // Nothing is taken from them, but what was there before may not even be finite.
            filling.fill(HalfRows::ZERO);
        }
    }
}

impl WithSimd for Halved<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task: Task { qkv, rows, spans, heads, these, out }, mut ready } = self;
        let Heads { heads: count, size, causal } = heads;
        let deep = size / WIDTH;
        let scale = (size as f32).sqrt().recip();
        // A panic leaves an empty one behind.
        let mut scratch = SCRATCH.take();
        scratch.grow(spans.iter().map(|span| span.tokens).max().unwrap_or(0), size);
        for (head, out) in these.zip(out.chunks_exact_mut(deep * rows)) {
            for Span { start, tokens } in spans.iter().copied().filter(|span| span.tokens > 0) {
                let part = |part: usize, panel: usize| {
                    &qkv[((part * count + head) * deep + panel) * rows + start..][..tokens]
                };
                scratch.pack(part, tokens, size);
                let Scratch { q, k, v, scores, weights, factors } = &mut scratch;
                let scores = &mut scores[..panels(tokens) * tokens];
                scores.fill(Row::ZERO);
                for (scores, k) in scores.chunks_exact_mut(tokens).zip(k.chunks_exact(size / 2)) {
                    ready.product(q, tokens, k, scores);
                }
                for (token, factor) in factors[..tokens].iter_mut().enumerate() {
                    let seen = if causal { token + 1 } else { tokens };
                    *factor = numerators(simd, scores, (tokens, token), seen, scale);
                }
                halve(scores, weights);
                let v = v.chunks_exact(panels(tokens) * WIDTH / 2);
                for (out, v) in out.chunks_exact_mut(rows).zip(v) {
                    let out = &mut out[start..start + tokens];
                    out.fill(Row::ZERO);
                    ready.product(weights, tokens, v, out);
                    multiply_rows(simd, out, factors);
                }
            }
        }
        SCRATCH.set(scratch);
    }
}
