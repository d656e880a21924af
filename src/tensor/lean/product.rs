//! The ways to multiply: f32 as it is, tiles or pairs of bfloat16 and fours of eight bits where the processor has them, and the same
//! widened.

use pulp::Simd;

use super::amx::{self, Amx, Shaped};
use super::dot::{Dot, DotOctets};
use super::octets::{ABOVE, OctetRow, OctetRows, Scale};
use super::pairs::{HalfRow, HalfRows};
use super::prefetch::Ahead;
use super::tile::{HIGHEST, high, multiply, tiles};
use super::{Row, WIDTH};

/// Panels of inputs taken at a time: their part of a panel of weights stays in the first-level cache.
pub(super) const DEPTH: usize = 4;

/// Some inputs of a panel of outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The first of them, counted over all panels of outputs.
    pub(super) first: usize,
    /// How many.
    pub(super) inputs: usize,
    /// Where the rows begin on the left side.
    pub(super) left: usize,
    /// How many lie there in a panel.
    pub(super) rows: usize,
    /// Where the scales of the weights lie.
    pub(super) group: usize,
    /// Where those of the rows begin on the left side.
    pub(super) left_group: usize,
}

impl Part {
    /// The weights of what comes next, asked for over `tiles` tiles. per: inputs a row of weights holds.
    #[inline(always)]
    fn ahead<T>(self, weights: &[T], per: usize, tiles: usize) -> Ahead<'_, T> {
        let next = (self.first + self.inputs) / per;
        Ahead::new(weights, next, DEPTH * WIDTH / per, tiles * self.inputs / WIDTH)
    }
}

/// A left side and weights.
pub(super) trait Product: Copy + Send + Sync {
    /// Bytes of a row's part in a panel of the left side.
    const BYTES: usize;
    /// Bytes of the left side that stay in the second-level cache while the weights pass by.
    const BLOCK_BYTES: usize = 3 << 19;
    /// Panels of inputs taken at a time.
    const DEPTH: usize = DEPTH;
    /// Rows of a tile at most.
    const HEIGHT: usize = HIGHEST;
    /// What a thread needs for it, besides.
    type Ready;

    /// Gets it, once for many parts.
    fn ready(self) -> Self::Ready;

    /// `out += left right` over some inputs; out: `[row][WIDTH]`.
    fn add<S: Simd>(self, simd: S, ready: &mut Self::Ready, part: Part, out: &mut [Row]);
}

#[derive(Clone, Copy)]
pub(super) struct Exact<'a> {
    pub(super) left: &'a [Row],
    pub(super) weights: &'a [Row],
}

impl Product for Exact<'_> {
    const BYTES: usize = size_of::<Row>();
    const BLOCK_BYTES: usize = 1 << 20;
    type Ready = ();

    fn ready(self) {}

    #[inline(always)]
    fn add<S: Simd>(self, simd: S, (): &mut (), part: Part, out: &mut [Row]) {
        let mut ahead = part.ahead(self.weights, 1, tiles(out.len(), high::<S>()).count());
        let right = &self.weights[part.first..part.first + part.inputs];
        strips(simd, &self.left[part.left..], part.rows, right, out, &mut || ahead.step());
    }
}

#[derive(Clone, Copy)]
pub(super) struct Widened<'a> {
    pub(super) left: &'a [Row],
    pub(super) weights: &'a [HalfRows],
}

impl Product for Widened<'_> {
    const BYTES: usize = size_of::<Row>();
    const BLOCK_BYTES: usize = 1 << 20;
    /// A part of the weights, widened.
    type Ready = [Row; DEPTH * WIDTH];

    fn ready(self) -> Self::Ready {
        [Row::ZERO; DEPTH * WIDTH]
    }

    #[inline(always)]
    fn add<S: Simd>(self, simd: S, widened: &mut Self::Ready, part: Part, out: &mut [Row]) {
        let mut ahead = part.ahead(self.weights, 2, tiles(out.len(), high::<S>()).count());
        let from = &self.weights[part.first / 2..(part.first + part.inputs) / 2];
        for (to, from) in widened.as_chunks_mut().0.iter_mut().zip(from) {
            both(simd, from, to);
        }
        let right = &widened[..part.inputs];
        strips(simd, &self.left[part.left..], part.rows, right, out, &mut || ahead.step());
    }
}

/// Both of each pair, the second first. Left to the compiler, this gathered value by value, and a product of 50 rows took 1.7 times as long.
#[inline(always)]
fn both<S: Simd>(simd: S, pairs: &HalfRows, [first, then]: &mut [Row; 2]) {
    let (upper, lower) = (simd.splat_u32s(0xffff_0000), simd.splat_u32s(16));
    let (first, then) = (S::as_mut_simd_f32s(&mut first.0).0, S::as_mut_simd_f32s(&mut then.0).0);
    for ((pairs, first), then) in S::as_simd_u32s(&pairs.0).0.iter().zip(first).zip(then) {
        *first = simd.transmute_f32s_u32s(simd.and_u32s(*pairs, upper));
        *then = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(*pairs, lower));
    }
}

#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub(super) left: &'a [HalfRow],
    pub(super) weights: &'a [HalfRows],
    pub(super) dot: Dot,
}

impl Product for Pairs<'_> {
    const BYTES: usize = size_of::<HalfRow>();
    type Ready = ();

    fn ready(self) {}

    #[inline(always)]
    fn add<S: Simd>(self, _: S, (): &mut (), part: Part, out: &mut [Row]) {
        let mut ahead = part.ahead(self.weights, 2, tiles(out.len(), HIGHEST).count());
        let right = &self.weights[part.first / 2..(part.first + part.inputs) / 2];
        self.dot.strips(&self.left[part.left..], part.rows, right, out, &mut || ahead.step());
    }
}

#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    /// `[panel][row]`, and behind the last so many rows more as fill up a block of tiles.
    pub(super) left: &'a [HalfRow],
    pub(super) weights: &'a [HalfRows],
    pub(super) amx: Amx,
}

impl Product for Tiles<'_> {
    const BYTES: usize = size_of::<HalfRow>();
    const DEPTH: usize = amx::DEPTH;
    const HEIGHT: usize = amx::BLOCK;
    type Ready = Shaped;

    fn ready(self) -> Shaped {
        self.amx.shape()
    }

    #[inline(always)]
    fn add<S: Simd>(self, _: S, shaped: &mut Shaped, part: Part, out: &mut [Row]) {
        let right = &self.weights[part.first / 2..(part.first + part.inputs) / 2];
        shaped.strips(&self.left[part.left..], part.rows, right, out);
    }
}

/// Eight bits on both sides; a part is a group that shares a scale.
#[derive(Clone, Copy)]
pub(super) struct Octets<'a> {
    /// `[panel][row]`
    pub(super) left: &'a [OctetRow],
    /// `[group][row]`
    pub(super) scales: &'a [Scale],
    /// `[panel of outputs][input / 4][WIDTH]`
    pub(super) weights: &'a [OctetRows],
    /// `[panel of outputs][group][WIDTH]`
    pub(super) by: &'a [Row],
}

impl<'a> Octets<'a> {
    fn rows(&self, part: Part) -> &'a [OctetRows] {
        &self.weights[part.first / 4..(part.first + part.inputs) / 4]
    }

    fn scales(&self, part: Part, rows: usize) -> &'a [Scale] {
        &self.scales[part.left_group..part.left_group + rows]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Quads<'a> {
    pub(super) octets: Octets<'a>,
    pub(super) dot: DotOctets,
}

impl Product for Quads<'_> {
    const BYTES: usize = size_of::<OctetRow>();
    type Ready = ();

    fn ready(self) {}

    #[inline(always)]
    fn add<S: Simd>(self, _: S, (): &mut (), part: Part, out: &mut [Row]) {
        let Self { octets, dot } = self;
        let mut ahead = part.ahead(octets.weights, 4, tiles(out.len(), HIGHEST).count());
        let left = (&octets.left[part.left..], part.rows, octets.scales(part, out.len()));
        let right = (octets.rows(part), &octets.by[part.group]);
        dot.strips(left, right, out, &mut || ahead.step());
    }
}

/// The same whole numbers in f32, which holds them all: at most 128 products of 127 by 127.
#[derive(Clone, Copy)]
pub(super) struct WidenedOctets<'a> {
    pub(super) octets: Octets<'a>,
    /// The left side's codes, `[panel][row]`.
    pub(super) left: &'a [Row],
}

impl Product for WidenedOctets<'_> {
    const BYTES: usize = size_of::<Row>();
    /// A part of the weights, widened.
    type Ready = [Row; DEPTH * WIDTH];

    fn ready(self) -> Self::Ready {
        [Row::ZERO; DEPTH * WIDTH]
    }

    #[inline(always)]
    fn add<S: Simd>(self, simd: S, widened: &mut Self::Ready, part: Part, out: &mut [Row]) {
        /// Rows that wait for their scale.
        const WAITING: usize = 2 * HIGHEST;
        let octets = self.octets;
        let parts = out.len().div_ceil(WAITING) * (WAITING / high::<S>());
        let mut ahead = part.ahead(octets.weights, 4, parts);
        for (to, from) in widened.as_chunks_mut().0.iter_mut().zip(octets.rows(part)) {
            four(simd, from, to);
        }
        let (right, by) = (&widened[..part.inputs], &octets.by[part.group]);
        let scales = octets.scales(part, out.len()).chunks(WAITING);
        for ((at, out), scales) in out.chunks_mut(WAITING).enumerate().zip(scales) {
            let mut sums = [Row::ZERO; WAITING];
            let left = &self.left[part.left + at * WAITING..];
            let sums = &mut sums[..out.len()];
            strips(simd, left, part.rows, right, sums, &mut || ahead.step());
            for ((out, sums), scale) in out.iter_mut().zip(sums).zip(scales) {
                for lane in 0..WIDTH {
                    out.0[lane] += sums.0[lane] * (scale.step * by.0[lane]);
                }
            }
        }
    }
}

/// The four values of each, as whole numbers.
#[inline(always)]
fn four<S: Simd>(simd: S, octets: &OctetRows, to: &mut [Row; 4]) {
    /// With a code in its lowest bits, it is larger than [`POWER`] by that.
    const WITH_CODE: u32 = POWER.to_bits();
    const POWER: f32 = 8_388_608.0;
    let (mask, with_code) = (simd.splat_u32s(0xff), simd.splat_u32s(WITH_CODE));
    let above = simd.splat_f32s(POWER + ABOVE as f32);
    let octets = S::as_simd_u32s(&octets.0).0;
    for (to, shift) in to.iter_mut().zip([0, 8, 16, 24]) {
        let shift = simd.splat_u32s(shift);
        for (to, octets) in S::as_mut_simd_f32s(&mut to.0).0.iter_mut().zip(octets) {
            let code = simd.and_u32s(simd.wrapping_dyn_shr_u32s(*octets, shift), mask);
            let more = simd.transmute_f32s_u32s(simd.or_u32s(code, with_code));
            *to = simd.sub_f32s(more, above);
        }
    }
}

/// `out += left right`, tile after tile.
#[inline(always)]
fn strips<S: Simd>(
    simd: S,
    left: &[Row],
    rows: usize,
    right: &[Row],
    out: &mut [Row],
    ahead: &mut impl FnMut(),
) {
    for (start, height) in tiles(out.len(), high::<S>()) {
        multiply(simd, &left[start..], rows, right, &mut out[start..start + height], ahead);
    }
}
