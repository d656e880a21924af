//! Resizing that equals Pillow's, bit for bit.
//!
//! CLIP's weights were trained on Pillow's antialiased filters, so a resize that is merely similar
//! moves every embedding. As Pillow does for 8-bit images: filter weights in double precision,
//! rounded to 22-bit fixed point; rows first, rounded to 8 bits, then columns.

mod weigh;

use std::f64::consts::PI;
use std::ops::Range;

use super::Picture;
use weigh::{LANES, PRECISION, Weigh, Weighing, widest};

/// A resampling filter, by Pillow's names. Downscaling widens it (antialias).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Mean of the covered pixels.
    Box,
    /// Triangle.
    Bilinear,
    /// Raised cosine times sinc, 2 pixels wide.
    Hamming,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Sinc windowed by a wider sinc, 6 pixels wide.
    Lanczos,
}

impl Filter {
    /// By Pillow's number, as preprocessor_config.json writes it. Nearest (0) is not one: it does
    /// not filter.
    pub fn from_pillow(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            4 => Some(Self::Box),
            5 => Some(Self::Hamming),
            _ => None,
        }
    }

    /// Pillow's number.
    pub fn pillow(self) -> u64 {
        match self {
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// Half the width, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            // Half open: a pixel on the border between two outputs belongs to one of them.
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Hamming if x == 0.0 => 1.0,
            Self::Hamming if distance < 1.0 => {
                let angle = distance * PI;
                angle.sin() / angle * (f64::from(0.54f32) + f64::from(0.46f32) * angle.cos())
            }
            Self::Bicubic if distance < 1.0 => {
                ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
            }
            Self::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bilinear | Self::Hamming | Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// Steepness of the cubic.
const A: f64 = -0.5;

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let angle = x * PI;
    angle.sin() / angle
}

/// Where in a resized image the wanted pixels lie, and how large that image is as a whole.
pub(super) struct Target {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Within `0..width`, not empty.
    pub(super) columns: Range<u32>,
    /// Within `0..height`, not empty.
    pub(super) rows: Range<u32>,
}

impl Target {
    /// The whole of a `width` x `height` image.
    pub(super) fn whole(width: u32, height: u32) -> Self {
        Self { width, height, columns: 0..width, rows: 0..height }
    }
}

/// Resizes `picture` to the target's size and returns the wanted part of it, `[rows, columns, 3]`.
/// Only that part is computed: an image of one pixel by thousands costs no more than others.
pub(super) fn resize(picture: &Picture, target: &Target, filter: Filter) -> Vec<u8> {
    // A side that keeps its length is not filtered at all, only cut.
    let keeps_height = picture.height() == target.height;
    let vertical = Taps::new(picture.height(), target.height, &target.rows, filter);
    let source_rows = if keeps_height {
        target.rows.start as usize..target.rows.end as usize
    } else {
        vertical.source()
    };
    let row_bytes = picture.width() as usize * 3;
    let source = &picture.rgb()[source_rows.start * row_bytes..source_rows.end * row_bytes];
    let rows = if picture.width() == target.width {
        crop_columns(source, row_bytes, &target.columns)
    } else {
        let taps = &Taps::new(picture.width(), target.width, &target.columns, filter);
        widest(Rows { source, row_bytes, taps })
    };
    if keeps_height {
        return rows;
    }
    let row_bytes = target.columns.len() * 3;
    widest(Columns { source: rows, row_bytes, first_row: source_rows.start, taps: &vertical })
}

/// For each wanted output position the source positions it reads and their weights.
struct Taps {
    /// First source position and number of them, by output position. Both ends grow.
    bounds: Vec<(usize, usize)>,
    /// Most taps that an output position can have.
    stride: usize,
    /// `[outputs, stride]`. Their sum is one, so no sum of products with samples leaves 32 bits.
    weights: Vec<i32>,
}

impl Taps {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, operation by operation.
    fn new(from: u32, to: u32, wanted: &Range<u32>, filter: Filter) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(wanted.len());
        let mut fixed = vec![0; wanted.len() * stride];
        let mut weights = Vec::with_capacity(stride);
        for (output, fixed) in wanted.clone().zip(fixed.chunks_exact_mut(stride)) {
            let centre = (f64::from(output) + 0.5) * scale;
            let inverse = 1.0 / filter_scale;
            // Casts truncate towards zero, as C's do, and saturate at 0 where Pillow clamps.
            let first = (centre - support + 0.5) as u32;
            let last = ((centre + support + 0.5) as u32).min(from);
            weights.clear();
            weights.extend(
                (first..last).map(|x| filter.weight((f64::from(x) - centre + 0.5) * inverse)),
            );
            let sum: f64 = weights.iter().sum();
            for (fixed, &weight) in fixed.iter_mut().zip(&weights) {
                let weight = if sum != 0.0 { weight / sum } else { weight };
                let scaled = weight * f64::from(1u32 << PRECISION);
                *fixed = (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            bounds.push((first as usize, weights.len()));
        }
        Self { bounds, stride, weights: fixed }
    }

    /// All source positions that any output reads.
    fn source(&self) -> Range<usize> {
        let start = self.bounds.first().map_or(0, |&(first, _)| first);
        let end = self.bounds.last().map_or(0, |&(first, count)| first + count);
        start..end
    }

    /// For each output its first source position and its weights.
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.bounds.iter().zip(weights).map(|(&(first, count), weights)| (first, &weights[..count]))
    }
}

/// Rows that are resized together: their pixels lie side by side, so that one weight meets those of all.
const BAND: usize = LANES / 3;

/// Resizes every row: `source`, `[rows, width, 3]`, becomes `[rows, outputs, 3]`.
struct Rows<'a> {
    source: &'a [u8],
    row_bytes: usize,
    taps: &'a Taps,
}

impl Weighing for Rows<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn by(self, weigh: impl Weigh) -> Vec<u8> {
        let Self { source, row_bytes, taps } = self;
        let out_bytes = taps.bounds.len() * 3;
        let len = source.len() / row_bytes * out_bytes;
        // What `Columns` adds to it needs no other place then.
        let mut out = vec![0; len + LANES];
        out.truncate(len);
        let columns = taps.source();
        let mut side_by_side = vec![[0; LANES]; columns.len()];
        for (band, out) in source.chunks(BAND * row_bytes).zip(out.chunks_mut(BAND * out_bytes)) {
            lay_out(&band[3 * columns.start..], row_bytes, &mut side_by_side);
            let side_by_side = side_by_side.as_flattened();
            for (output, (first, weights)) in taps.iter().enumerate() {
                let from = &side_by_side[(first - columns.start) * LANES..];
                let samples = weigh.weigh(from, LANES, weights);
                for (row, pixel) in out.chunks_exact_mut(out_bytes).zip(samples.as_chunks::<3>().0)
                {
                    row[3 * output..][..3].copy_from_slice(pixel);
                }
            }
        }
        out
    }
}

/// Puts pixels of each row side by side, column by column.
#[inline(always)]
fn lay_out(rows: &[u8], row_bytes: usize, columns: &mut [[u8; LANES]]) {
    /// Columns that are laid out together.
    const TOGETHER: usize = 8;
    // A pixel is copied with the byte after it, which the next row's overwrites: quicker than three bytes are. The last one has none.
    let (all, last) = columns.split_at_mut(columns.len().saturating_sub(1));
    let (blocks, others) = all.as_chunks_mut::<TOGETHER>();
    let mut at = 0;
    for block in blocks {
        lay_out_some::<TOGETHER, 4>(&rows[at..], row_bytes, block);
        at += 3 * TOGETHER;
    }
    for column in others {
        lay_out_some::<1, 4>(&rows[at..], row_bytes, std::array::from_mut(column));
        at += 3;
    }
    for column in last {
        lay_out_some::<1, 3>(&rows[at..], row_bytes, std::array::from_mut(column));
    }
}

/// The same of some columns, of `BYTES` bytes for each pixel.
#[inline(always)]
fn lay_out_some<const COLUMNS: usize, const BYTES: usize>(
    rows: &[u8],
    row_bytes: usize,
    columns: &mut [[u8; LANES]; COLUMNS],
) {
    for (row, at) in rows.chunks(row_bytes).take(BAND).zip((0..).step_by(3)) {
        let row = &row[..3 * (COLUMNS - 1) + BYTES];
        for (column, pixel) in columns.iter_mut().zip(row.windows(BYTES).step_by(3)) {
            column[at..at + BYTES].copy_from_slice(pixel);
        }
    }
}

/// Resizes every column: `source`, `[rows, row_bytes]`, the first of which is row `first_row` of the image, becomes `[outputs, row_bytes]`.
struct Columns<'a> {
    source: Vec<u8>,
    row_bytes: usize,
    first_row: usize,
    taps: &'a Taps,
}

impl Weighing for Columns<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn by(self, weigh: impl Weigh) -> Vec<u8> {
        let Self { mut source, row_bytes, first_row, taps } = self;
        let mut out = vec![0; taps.bounds.len() * row_bytes];
        // What is read behind a row's end is not written.
        source.resize(source.len() + LANES, 0);
        for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(row_bytes.max(1))) {
            let rows = &source[(first - first_row) * row_bytes..];
            for (out, at) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
                let samples = weigh.weigh(&rows[at..], row_bytes, weights);
                out.copy_from_slice(&samples[..out.len()]);
            }
        }
        out
    }
}

fn crop_columns(source: &[u8], row_bytes: usize, columns: &Range<u32>) -> Vec<u8> {
    let bytes = columns.start as usize * 3..columns.end as usize * 3;
    let rows = source.chunks_exact(row_bytes);
    let mut out = Vec::with_capacity(rows.len() * bytes.len());
    rows.for_each(|row| out.extend_from_slice(&row[bytes.clone()]));
    out
}
