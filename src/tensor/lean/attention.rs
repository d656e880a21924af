mod halved;

use std::cell::Cell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::held::Held;
use super::pairs::HalfRow;
use super::rounded::Rounded;
use super::tile::{high, multiply, tiles};
use super::{Row, WIDTH, panels};
use crate::tensor::room;
use crate::tensor::simd::{dispatch, exps};

/// A sequence among the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first row.
    pub start: usize,
    /// Its tokens.
    pub tokens: usize,
}

/// How attention divides the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// How many heads there are.
    pub heads: usize,
    /// Columns of each.
    pub size: usize,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
}

/// Self-attention within each sequence.
///
/// qkv: `[rows, 3 * heads * size]`, queries, keys and values side by side, heads within each; out: `[rows, heads * size]`, both
/// in panels. Panics where sizes do not fit.
pub fn attention(
    qkv: &[Row],
    rows: usize,
    spans: &[Span],
    heads: Heads,
    out: &mut [Row],
    threads: usize,
) {
    share_out(Task { qkv, rows, spans, heads, these: 0..heads.heads, out }, threads, |task| {
        dispatch(task)
    });
}

/// The same of values that are rounded to bfloat16, as is how much one token takes from another; sums stay in f32. Heads fill whole panels. Panics
/// where they do not, and where sizes do not fit.
pub fn rounded_attention<T: Held>(
    qkv: &[HalfRow],
    rows: usize,
    spans: &[Span],
    heads: Heads,
    out: &mut [T],
    rounded: Rounded,
    threads: usize,
) {
    assert!(heads.size.is_multiple_of(WIDTH), "heads that share a panel");
    let task = Task { qkv, rows, spans, heads, these: 0..heads.heads, out };
    share_out(task, threads, |task| halved::attention(task, rounded));
}

/// Some heads of all sequences.
struct Task<'a, Q, T> {
    qkv: &'a [Q],
    rows: usize,
    spans: &'a [Span],
    heads: Heads,
    these: std::ops::Range<usize>,
    /// The panels of these heads.
    out: &'a mut [T],
}

/// Each thread its share of the heads.
fn share_out<Q: Sync, T: Send>(
    all: Task<'_, Q, T>,
    threads: usize,
    run: impl Fn(Task<'_, Q, T>) + Sync,
) {
    let Task { qkv, rows, spans, heads, out, .. } = all;
    let Heads { heads: count, size, .. } = heads;
    assert_eq!(qkv.len(), panels(3 * count * size) * rows, "attention over other columns");
    assert_eq!(out.len(), panels(count * size) * rows, "attention gives other columns");
    // Heads that fill whole panels can be shared out; others write into each other's.
    let whole = size.is_multiple_of(WIDTH);
    let each = if whole { count.div_ceil(threads.max(1)) } else { count };
    if each == count || rows == 0 {
        return run(Task { qkv, rows, spans, heads, these: 0..count, out });
    }
    let parts = out.par_chunks_mut(each * size / WIDTH * rows).enumerate();
    parts.for_each(|(at, out)| {
        let these = at * each..((at + 1) * each).min(count);
        run(Task { qkv, rows, spans, heads, these, out });
    });
}

thread_local! {
    /// Kept from one pass to the next: a pass makes no memory of its own.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The matrices of one head and one sequence.
#[derive(Default)]
struct Scratch {
    /// Queries, `[tokens, size]`.
    q: Vec<Row>,
    /// Keys, turned: `[size, tokens]`, the inputs filled up.
    k: Vec<Row>,
    /// Values, `[size][tokens]`: `[panel][token][WIDTH]`, the tokens filled up.
    v: Vec<Row>,
    /// How much each token takes from each, `[tokens, tokens]`, but for a factor of each row.
    weights: Vec<Row>,
    /// `[tokens]`
    factors: Vec<f32>,
    /// What it takes, `[tokens, size]`.
    mixed: Vec<Row>,
}

impl WithSimd for Task<'_, Row, Row> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { qkv, rows, spans, heads, these, out } = self;
        let longest = spans.iter().map(|span| span.tokens).max().unwrap_or(0);
        let (deep, wide) = (panels(heads.size), panels(longest));
        // A panic leaves an empty one behind.
        let mut scratch = SCRATCH.take();
        for (buffer, rows) in [
            (&mut scratch.q, deep * longest),
            (&mut scratch.k, wide * deep * WIDTH),
            (&mut scratch.v, deep * wide * WIDTH),
            (&mut scratch.weights, wide * longest),
            (&mut scratch.mixed, deep * longest),
        ] {
            room(buffer, rows, Row::ZERO);
        }
        let first = these.start * heads.size;
        if !heads.size.is_multiple_of(WIDTH)
            && let Some(last) = out.len().checked_sub(rows)
        {
            // What fills up the last panel must be nothing: what was there before may not even be finite.
            out[last..].fill(Row::ZERO);
        }
        for head in these {
            for span in spans.iter().filter(|span| span.tokens > 0) {
                scratch.head(simd, qkv, rows, *span, heads, head);
                put(&scratch.mixed, out, rows, *span, head * heads.size - first, heads.size);
            }
        }
        SCRATCH.set(scratch);
    }
}

impl Scratch {
    #[inline(always)]
    fn head<S: Simd>(
        &mut self,
        simd: S,
        qkv: &[Row],
        rows: usize,
        span: Span,
        heads: Heads,
        head: usize,
    ) {
        let Heads { heads: count, size, causal } = heads;
        let tokens = span.tokens;
        let (deep, wide) = (panels(size), panels(tokens));
        let column = |part: usize| part * count * size + head * size;
        let scale = (size as f32).sqrt().recip();
        get(qkv, rows, span, column(0), size, &mut self.q, tokens);
        // The keys pass through the place of the result.
        get(qkv, rows, span, column(1), size, &mut self.mixed, tokens);
        self.k[..wide * deep * WIDTH].fill(Row::ZERO);
        for (panel, keys) in self.mixed[..deep * tokens].chunks_exact(tokens).enumerate() {
            for (token, key) in keys.iter().enumerate() {
                let to = &mut self.k[(token / WIDTH * deep + panel) * WIDTH..][..WIDTH];
                for (to, value) in to.iter_mut().zip(key.0) {
                    to.0[token % WIDTH] = value;
                }
            }
        }
        self.v[..deep * wide * WIDTH].fill(Row::ZERO);
        get(qkv, rows, span, column(2), size, &mut self.v, wide * WIDTH);

        let weights = &mut self.weights[..wide * tokens];
        weights.fill(Row::ZERO);
        for (panel, out) in weights.chunks_exact_mut(tokens).enumerate() {
            let right = &self.k[panel * deep * WIDTH..][..deep * WIDTH];
            for (start, height) in tiles(tokens, high::<S>()) {
                let (left, out) = (&self.q[start..], &mut out[start..start + height]);
                multiply(simd, left, tokens, right, out, &mut || {});
            }
        }
        let factors = room(&mut self.factors, tokens, 0.0);
        let seen = |token| if causal { token + 1 } else { tokens };
        numerators(simd, weights, factors, seen, scale);
        let mixed = &mut self.mixed[..deep * tokens];
        mixed.fill(Row::ZERO);
        for (panel, out) in mixed.chunks_exact_mut(tokens).enumerate() {
            let right = &self.v[panel * wide * WIDTH..][..wide * WIDTH];
            for (start, height) in tiles(tokens, high::<S>()) {
                let (left, out) = (&weights[start..], &mut out[start..start + height]);
                multiply(simd, left, tokens, right, out, &mut || {});
            }
            multiply_rows(simd, out, factors);
        }
    }
}

/// Copies `size` columns from `column` on of a sequence into `to`, `[panel][WIDTH]` with `stride` rows a panel.
#[inline(always)]
fn get(
    from: &[Row],
    rows: usize,
    span: Span,
    column: usize,
    size: usize,
    to: &mut [Row],
    stride: usize,
) {
    if column.is_multiple_of(WIDTH) && size.is_multiple_of(WIDTH) {
        for panel in 0..size / WIDTH {
            let from = &from[(column / WIDTH + panel) * rows + span.start..][..span.tokens];
            to[panel * stride..][..span.tokens].copy_from_slice(from);
        }
        return;
    }
    for token in 0..span.tokens {
        for at in 0..panels(size) * WIDTH {
            let c = column + at;
            let value = if at < size {
                from[c / WIDTH * rows + span.start + token].0[c % WIDTH]
            } else {
                0.0
            };
            to[at / WIDTH * stride + token].0[at % WIDTH] = value;
        }
    }
}

/// Copies a head's result into its columns.
#[inline(always)]
fn put(from: &[Row], out: &mut [Row], rows: usize, span: Span, column: usize, size: usize) {
    let tokens = span.tokens;
    if column.is_multiple_of(WIDTH) && size.is_multiple_of(WIDTH) {
        for panel in 0..size / WIDTH {
            let to = &mut out[(column / WIDTH + panel) * rows + span.start..][..tokens];
            to.copy_from_slice(&from[panel * tokens..][..tokens]);
        }
        return;
    }
    for token in 0..tokens {
        for at in 0..size {
            let c = column + at;
            out[c / WIDTH * rows + span.start + token].0[c % WIDTH] =
                from[at / WIDTH * tokens + token].0[at % WIDTH];
        }
    }
}

/// The numerators of a softmax of each row times `scale` over the columns that it sees, nothing for the others; and one over each one's sum.
/// scores: `[panel][row]`; seen: of the row at.
#[inline(always)]
fn numerators<S: Simd>(
    simd: S,
    scores: &mut [Row],
    factors: &mut [f32],
    seen: impl Fn(usize) -> usize,
    scale: f32,
) {
    /// Rows at a time: alone, one waits for its largest and for its sum.
    const ROWS: usize = 4;
    let rows = factors.len();
    let mut first = 0;
    while first + ROWS <= rows {
        numerators_of::<S, ROWS>(simd, scores, factors, first, &seen, scale);
        first += ROWS;
    }
    for row in first..rows {
        numerators_of::<S, 1>(simd, scores, factors, row, &seen, scale);
    }
}

#[inline(always)]
fn numerators_of<S: Simd, const ROWS: usize>(
    simd: S,
    scores: &mut [Row],
    factors: &mut [f32],
    first: usize,
    seen: &impl Fn(usize) -> usize,
    scale: f32,
) {
    let rows = factors.len();
    let mut most = [simd.splat_f32s(f32::NEG_INFINITY); ROWS];
    for (panel, scores) in scores.chunks_exact_mut(rows).enumerate() {
        let Some(scores) = scores[first..].first_chunk_mut::<ROWS>() else { return };
        for row in 0..ROWS {
            let values = &mut scores[row].0;
            if let Some(others) = values.get_mut(seen(first + row).saturating_sub(panel * WIDTH)..)
            {
                others.fill(f32::NEG_INFINITY);
            }
            for value in S::as_simd_f32s(values).0 {
                most[row] = simd.max_f32s(most[row], *value);
            }
        }
    }
    let (mut less, mut sums) = (most, [simd.splat_f32s(0.0); ROWS]);
    for row in 0..ROWS {
        less[row] = simd.splat_f32s(-simd.reduce_max_f32s(most[row]) * scale);
    }
    let scales = simd.splat_f32s(scale);
    for scores in scores.chunks_exact_mut(rows) {
        let Some(scores) = scores[first..].first_chunk_mut::<ROWS>() else { return };
        for row in 0..ROWS {
            for value in S::as_mut_simd_f32s(&mut scores[row].0).0 {
                *value = exps(simd, simd.mul_add_e_f32s(*value, scales, less[row]));
                sums[row] = simd.add_f32s(sums[row], *value);
            }
        }
    }
    for row in 0..ROWS {
        factors[first + row] = 1.0 / simd.reduce_sum_f32s(sums[row]);
    }
}

/// Multiplies each row by its factor.
#[inline(always)]
fn multiply_rows<S: Simd>(simd: S, rows: &mut [Row], factors: &[f32]) {
    for (row, factor) in rows.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(*factor);
        for value in S::as_mut_simd_f32s(&mut row.0).0 {
            *value = simd.mul_f32s(*value, factor);
        }
    }
}

#[cfg(test)]
mod tests;
