//! The same with both sides of the products rounded to bfloat16: as f32 they take a sixth of ViT-B/16's time where all others are rounded.

use std::cell::Cell;

use pulp::{Simd, WithSimd};

use super::super::amx::BLOCK;
use super::super::held::Held;
use super::super::pairs::{HalfRow, HalfRows, halve, weave};
use super::super::rounded::{Ready, Rounded};
use super::super::tile::tiles;
use super::super::{Row, WIDTH, panels};
use super::{Heads, Span, Task, multiply_rows, numerators};
use crate::tensor::room;
use crate::tensor::simd::dispatch;

thread_local! {
    /// Kept from one pass to the next, as the other.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Heads of whole panels.
pub(super) fn attention<T: Held>(task: Task<'_, HalfRow, T>, rounded: Rounded) {
    dispatch(Halved { task, ready: rounded.ready() });
}

struct Halved<'a, T> {
    task: Task<'a, HalfRow, T>,
    ready: Ready,
}

/// The matrices of one head and one sequence; queries are taken from where they lie.
#[derive(Default)]
struct Scratch {
    /// Keys, turned: `[size / 2, tokens]`.
    k: Vec<HalfRows>,
    /// Values, `[tokens / 2, size]`, the tokens filled up.
    v: Vec<HalfRows>,
    /// How much each token of a block takes from each, `[block, tokens]`: before the softmax, and after it but for a factor of each row.
    scores: Vec<Row>,
    weights: Vec<HalfRow>,
    /// `[block]`
    factors: [f32; BLOCK],
    /// A panel of what the block takes.
    mixed: Vec<Row>,
}

impl Scratch {
    /// Makes room for so many tokens.
    fn grow(&mut self, tokens: usize, size: usize) {
        let (deep, wide) = (size / WIDTH, panels(tokens));
        room(&mut self.k, wide * size / 2, HalfRows::ZERO);
        room(&mut self.v, deep * wide * WIDTH / 2, HalfRows::ZERO);
        room(&mut self.scores, wide * BLOCK, Row::ZERO);
        room(&mut self.weights, wide * BLOCK + HalfRow::BEHIND, HalfRow::ZERO);
        room(&mut self.mixed, BLOCK, Row::ZERO);
    }

    /// Lays out what is on the right of a product. `part`: a panel of keys (1) or values (2).
    #[inline(always)]
    fn pack<'a>(
        &mut self,
        part: impl Fn(usize, usize) -> &'a [HalfRow],
        tokens: usize,
        size: usize,
    ) {
        let (deep, wide) = (size / WIDTH, panels(tokens));
        for panel in 0..deep {
            for (token, key) in part(1, panel).iter().enumerate() {
                let to = &mut self.k[(token / WIDTH * deep + panel) * WIDTH / 2..][..WIDTH / 2];
                for (to, pair) in to.iter_mut().zip(key.0) {
                    to.0[token % WIDTH] = pair;
                }
            }
            let to = &mut self.v[panel * wide * WIDTH / 2..][..wide * WIDTH / 2];
            let (to, filling) = to.split_at_mut(tokens.div_ceil(2));
            weave(part(2, panel), to);
            // Nothing is taken from them, but what was there before may not even be finite.
            filling.fill(HalfRows::ZERO);
        }
    }
}

impl<T: Held> WithSimd for Halved<'_, T> {
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
                let from = |part: usize, panel: usize| {
                    &qkv[((part * count + head) * deep + panel) * rows + start..]
                };
                scratch.pack(|part, panel| &from(part, panel)[..tokens], tokens, size);
                let Scratch { k, v, scores, weights, factors, mixed } = &mut scratch;
                // A block of tokens at a time: what each takes from all others stays in the first-level cache.
                for (first, here) in tiles(tokens, BLOCK) {
                    let q = &from(0, 0)[first..];
                    let scores = &mut scores[..panels(tokens) * here];
                    scores.fill(Row::ZERO);
                    for (scores, k) in scores.chunks_exact_mut(here).zip(k.chunks_exact(size / 2)) {
                        ready.product(q, rows, k, scores);
                    }
                    let factors = &mut factors[..here];
                    let seen = |at| if causal { first + at + 1 } else { tokens };
                    numerators(simd, scores, factors, seen, scale);
                    halve(scores, weights);
                    let v = v.chunks_exact(panels(tokens) * WIDTH / 2);
                    for (out, v) in out.chunks_exact_mut(rows).zip(v) {
                        let mixed = &mut mixed[..here];
                        mixed.fill(Row::ZERO);
                        ready.product(weights, here, v, mixed);
                        multiply_rows(simd, mixed, factors);
                        T::put(mixed, &mut out[start + first..][..here]);
                    }
                }
            }
        }
        SCRATCH.set(scratch);
    }
}
