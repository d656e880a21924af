use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Device, Error, Layout, Result, Shape, Tensor,
};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::buffer::{f32s, fusible, with_f32s};
use super::card;
use super::room::zeros;
use super::simd::dispatch;
use super::softmax::{row_softmax, row_softmax_backward, softmax};

/// Multi-head scaled dot-product self-attention.
/// qkv: `[batch, tokens, 3 * dim]`, queries, keys and values side by side, heads within each;
/// the result is `[batch, tokens, dim]`. With `causal`, a token sees only itself and earlier ones.
///
/// # Errors
/// When the last axis is not three times a multiple of `heads`.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    if fusible(qkv, &[]) {
        let shape = HeadShape::of(qkv, heads, causal)?;
        return qkv.contiguous()?.apply_op1(Attention { shape });
    }
    let (weights, values) = attention_weights(qkv, heads, causal)?;
    mix_heads(&weights, &values)
}

/// The first half of [`attention`], for whoever must see inside: how much each token takes from
/// each, `[batch, heads, tokens, tokens]`, and the values it takes, `[batch, heads, tokens, head]`.
///
/// # Errors
/// As [`attention`].
pub fn attention_weights(qkv: &Tensor, heads: usize, causal: bool) -> Result<(Tensor, Tensor)> {
    let shape = HeadShape::of(qkv, heads, causal)?;
    let (batch, tokens) = (qkv.dim(0)?, shape.tokens);
    // [3, batch, heads, tokens, head]
    let split = qkv.reshape((batch, tokens, 3, heads, shape.head))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| split.get(i)?.contiguous();
    let scores = (part(0)? * shape.scale())?.matmul(&part(1)?.t()?)?;
    let scores = if causal { scores.broadcast_add(&causal_mask(tokens, qkv)?)? } else { scores };
    Ok((softmax(&scores)?, part(2)?))
}

/// The second half of [`attention`]: `[batch, tokens, dim]` of what [`attention_weights`] gives.
///
/// # Errors
/// When the sizes do not fit.
pub fn mix_heads(weights: &Tensor, values: &Tensor) -> Result<Tensor> {
    weights.matmul(values)?.transpose(1, 2)?.flatten_from(2)
}

/// `[tokens, tokens]`: 0 where a row's token may look, minus infinity elsewhere.
fn causal_mask(tokens: usize, like: &Tensor) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens * tokens)
        .map(|i| if i % tokens > i / tokens { f32::NEG_INFINITY } else { 0.0 })
        .collect();
    Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu)?
        .to_device(like.device())?
        .to_dtype(like.dtype())
}

#[derive(Clone, Copy)]
pub(super) struct HeadShape {
    tokens: usize,
    heads: usize,
    head: usize,
    causal: bool,
}

impl HeadShape {
    pub(super) fn of(qkv: &Tensor, heads: usize, causal: bool) -> Result<Self> {
        let (_, tokens, width) = qkv.dims3()?;
        if heads == 0 || width == 0 || width % (3 * heads) != 0 || tokens == 0 {
            let message =
                format!("attention of {heads} heads over {tokens} tokens of {width} values");
            return Err(Error::Msg(message).bt());
        }
        Ok(Self { tokens, heads, head: width / (3 * heads), causal })
    }

    fn scale(&self) -> f64 {
        (self.head as f64).sqrt().recip()
    }

    fn dim(&self) -> usize {
        self.heads * self.head
    }

    /// How many tokens the token at `row` sees.
    fn seen(&self, row: usize) -> usize {
        if self.causal { row + 1 } else { self.tokens }
    }
}

/// Every packed row is padded with zeros to whole vectors of the widest instruction set.
const PAD: usize = 16;

/// The packed matrices of one head: one set a thread, reused for every head it works on.
struct Scratch {
    /// Queries, scaled, `[tokens, head]`.
    q: Vec<f32>,
    /// Keys, `[tokens, head]` and transposed.
    k: Vec<f32>,
    k_t: Vec<f32>,
    /// Values, `[tokens, head]` and transposed.
    v: Vec<f32>,
    v_t: Vec<f32>,
    /// Attention weights, `[tokens, tokens]`, and their gradient.
    p: Vec<f32>,
    dp: Vec<f32>,
    /// Gradient of the output, `[tokens, head]`.
    g: Vec<f32>,
    /// A product on its way out, `[tokens, head]`.
    out: Vec<f32>,
}

impl Scratch {
    fn new(shape: HeadShape) -> Self {
        let rows = vec![0.0; shape.tokens * shape.head.next_multiple_of(PAD)];
        let columns = vec![0.0; shape.head * shape.tokens.next_multiple_of(PAD)];
        let square = vec![0.0; shape.tokens * shape.tokens.next_multiple_of(PAD)];
        Self {
            q: rows.clone(),
            k: rows.clone(),
            k_t: columns.clone(),
            v: rows.clone(),
            v_t: columns,
            p: square.clone(),
            dp: square,
            g: rows.clone(),
            out: rows,
        }
    }
}

/// A strided left operand: element (row, column) is at `row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
struct Left<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

/// `c = a b`, with a: `[m, k]` strided, b: `[k, n]`, c: `[m, n]`, n a multiple of [`PAD`].
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    (m, k, n): (usize, usize, usize),
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
) {
    let columns = n / S::F32_LANES;
    let (b, _) = S::as_simd_f32s(&b[..k * n]);
    let (c, _) = S::as_mut_simd_f32s(&mut c[..m * n]);
    let mut row = 0;
    while row + 4 <= m {
        let mut column = 0;
        while column + 2 <= columns {
            block::<S, 4, 2>(simd, (row, column, columns, k), a, b, c);
            column += 2;
        }
        while column < columns {
            block::<S, 4, 1>(simd, (row, column, columns, k), a, b, c);
            column += 1;
        }
        row += 4;
    }
    while row < m {
        for column in 0..columns {
            block::<S, 1, 1>(simd, (row, column, columns, k), a, b, c);
        }
        row += 1;
    }
}

#[inline(always)]
fn block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    (row, column, columns, k): (usize, usize, usize, usize),
    a: Left<'_>,
    b: &[S::f32s],
    c: &mut [S::f32s],
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for p in 0..k {
        let at = p * columns + column;
        let b = &b[at..at + V];
        for (r, sums) in sums.iter_mut().enumerate() {
            let left = a.values[(row + r) * a.row_stride + p * a.column_stride];
            let left = simd.splat_f32s(left);
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = simd.mul_add_e_f32s(left, *b, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let at = (row + r) * columns + column;
        c[at..at + V].copy_from_slice(sums);
    }
}

/// Copies `tokens` rows of `head` values from `source` (`stride` apart) into padded rows.
#[inline(always)]
fn pack(source: &[f32], stride: usize, head: usize, scale: f32, rows: &mut [f32]) {
    let padded = head.next_multiple_of(PAD);
    for (row, source) in rows.chunks_exact_mut(padded).zip(source.chunks(stride)) {
        row[..head].iter_mut().zip(&source[..head]).for_each(|(to, from)| *to = from * scale);
    }
}

/// Transposes packed rows `[tokens, head]` into `[head, tokens]`, padded.
#[inline(always)]
fn transpose(rows: &[f32], head: usize, columns: &mut [f32]) {
    let padded = head.next_multiple_of(PAD);
    let to = columns.len() / head;
    for (token, row) in rows.chunks_exact(padded).enumerate() {
        for (i, value) in row[..head].iter().enumerate() {
            columns[i * to + token] = *value;
        }
    }
}

/// Copies packed rows out to rows `stride` apart.
#[inline(always)]
fn unpack(rows: &[f32], head: usize, scale: f32, target: &mut [f32], stride: usize) {
    let padded = head.next_multiple_of(PAD);
    for (row, target) in rows.chunks_exact(padded).zip(target.chunks_mut(stride)) {
        target[..head].iter_mut().zip(&row[..head]).for_each(|(to, from)| *to = from * scale);
    }
}

/// Packs one head of one image or text and computes its attention weights into `scratch.p`.
#[inline(always)]
fn weights<S: Simd>(simd: S, shape: HeadShape, qkv: &[f32], index: usize, scratch: &mut Scratch) {
    let HeadShape { tokens, head, .. } = shape;
    let (dim, at) = (shape.dim(), index * head);
    pack(&qkv[at..], 3 * dim, head, shape.scale() as f32, &mut scratch.q);
    pack(&qkv[dim + at..], 3 * dim, head, 1.0, &mut scratch.k);
    pack(&qkv[2 * dim + at..], 3 * dim, head, 1.0, &mut scratch.v);
    transpose(&scratch.k, head, &mut scratch.k_t);
    let padded = tokens.next_multiple_of(PAD);
    let q = rows(&scratch.q, head);
    product(simd, (tokens, head, padded), q, &scratch.k_t, &mut scratch.p);
    for (row, p) in scratch.p.chunks_exact_mut(padded).enumerate() {
        let (seen, hidden) = p.split_at_mut(shape.seen(row));
        row_softmax(seen);
        hidden.fill(0.0);
    }
}

/// Packed rows of `width` values as a left operand.
fn rows(values: &[f32], width: usize) -> Left<'_> {
    Left { values, row_stride: width.next_multiple_of(PAD), column_stride: 1 }
}

/// The transpose of packed rows of `width` values as a left operand.
fn transposed(values: &[f32], width: usize) -> Left<'_> {
    Left { values, row_stride: 1, column_stride: width.next_multiple_of(PAD) }
}

/// All heads of one image or text. qkv: `[tokens, 3 * dim]`; out: `[tokens, dim]`.
struct Forward<'a> {
    shape: HeadShape,
    qkv: &'a [f32],
    out: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, qkv, out, scratch } = self;
        let HeadShape { tokens, head, .. } = shape;
        let padded = head.next_multiple_of(PAD);
        for index in 0..shape.heads {
            weights(simd, shape, qkv, index, scratch);
            let p = rows(&scratch.p, tokens);
            product(simd, (tokens, tokens, padded), p, &scratch.v, &mut scratch.out);
            unpack(&scratch.out, head, 1.0, &mut out[index * head..], shape.dim());
        }
    }
}

/// Gradient of all heads of one image or text. grads: `[tokens, dim]`; dqkv: `[tokens, 3 * dim]`.
struct Backward<'a> {
    shape: HeadShape,
    qkv: &'a [f32],
    grads: &'a [f32],
    dqkv: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, qkv, grads, dqkv, scratch } = self;
        let HeadShape { tokens, head, .. } = shape;
        let (dim, stride) = (shape.dim(), 3 * shape.dim());
        let (head_padded, padded) = (head.next_multiple_of(PAD), tokens.next_multiple_of(PAD));
        let (to_head, to_tokens) = ((tokens, tokens, head_padded), (tokens, head, padded));
        for index in 0..shape.heads {
            let at = index * head;
            weights(simd, shape, qkv, index, scratch);
            let s = &mut *scratch;
            pack(&grads[at..], dim, head, 1.0, &mut s.g);
            transpose(&s.v, head, &mut s.v_t);

            product(simd, to_head, transposed(&s.p, tokens), &s.g, &mut s.out);
            unpack(&s.out, head, 1.0, &mut dqkv[2 * dim + at..], stride);

            product(simd, to_tokens, rows(&s.g, head), &s.v_t, &mut s.dp);
            let pairs = s.p.chunks_exact(padded).zip(s.dp.chunks_exact_mut(padded));
            for (row, (p, dp)) in pairs.enumerate() {
                let seen = shape.seen(row);
                row_softmax_backward(&p[..seen], dp);
                dp[seen..].fill(0.0);
            }
            product(simd, to_head, rows(&s.dp, tokens), &s.k, &mut s.out);
            unpack(&s.out, head, shape.scale() as f32, &mut dqkv[at..], stride);
            // The packed queries carry the scale.
            product(simd, to_head, transposed(&s.dp, tokens), &s.q, &mut s.out);
            unpack(&s.out, head, 1.0, &mut dqkv[dim + at..], stride);
        }
    }
}

impl HeadShape {
    /// The gradient of qkv. grads: `[batch, tokens, dim]`.
    pub(super) fn backward(self, qkv: &Tensor, grads: &Tensor) -> Result<Tensor> {
        if qkv.device().is_cuda() {
            return card::attention_backward(qkv, grads, self.heads, self.causal);
        }
        let mut dqkv = zeros(qkv.elem_count());
        let item = self.tokens * self.dim();
        with_f32s(qkv, |qkv| {
            with_f32s(grads, |grads| {
                let inputs = qkv.par_chunks(3 * item).zip(grads.par_chunks(item));
                dqkv.par_chunks_mut(3 * item).zip(inputs).for_each_init(
                    || Scratch::new(self),
                    |scratch, (dqkv, (qkv, grads))| {
                        dispatch(Backward { shape: self, qkv, grads, dqkv, scratch });
                    },
                );
                Ok(())
            })
        })?;
        Tensor::from_vec(dqkv, qkv.shape(), qkv.device())
    }
}

struct Attention {
    shape: HeadShape,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = self.shape;
        let (batch, tokens, _) = layout.shape().dims3()?;
        let qkv = f32s(storage, layout)?;
        let mut out = zeros(qkv.len() / 3);
        let item = tokens * shape.dim();
        out.par_chunks_mut(item).zip(qkv.par_chunks(3 * item)).for_each_init(
            || Scratch::new(shape),
            |scratch, (out, qkv)| dispatch(Forward { shape, qkv, out, scratch }),
        );
        Ok((CpuStorage::F32(out), Shape::from((batch, tokens, shape.dim()))))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        card::attention((storage, layout), self.shape.heads, self.shape.causal)
    }

    fn bwd(&self, qkv: &Tensor, _out: &Tensor, grads: &Tensor) -> Result<Option<Tensor>> {
        self.shape.backward(qkv, &grads.contiguous()?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradients::check;
    use super::*;
    use candle_core::DType;

    #[test]
    fn attention_agrees_with_basic_operations_and_finite_differences() {
        check(&[&[2, 7, 3 * 2 * 4]], |xs| attention(&xs[0], 2, false));
        check(&[&[1, 18, 3 * 17]], |xs| attention(&xs[0], 1, false));
    }

    #[test]
    fn causal_attention_agrees_with_basic_operations_and_finite_differences() {
        check(&[&[2, 7, 3 * 2 * 4]], |xs| attention(&xs[0], 2, true));
        check(&[&[1, 17, 3 * 6]], |xs| attention(&xs[0], 3, true));
    }

    #[test]
    fn a_causal_token_does_not_depend_on_later_ones() {
        let qkv = Tensor::from_vec(
            super::super::gradients::values(&[1, 9, 24], 1),
            (1, 9, 24),
            &Device::Cpu,
        )
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap();
        let whole = attention(&qkv, 2, true).unwrap().narrow(1, 0, 4).unwrap();
        let cut = attention(&qkv.narrow(1, 0, 4).unwrap(), 2, true).unwrap();
        let difference = (whole - cut).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn attention_refuses_heads_that_do_not_divide_the_width() {
        let qkv = Tensor::zeros((1, 2, 12), DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&qkv, 3, false).is_err());
        assert!(attention(&qkv, 0, false).is_err());
    }
}
