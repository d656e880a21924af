//! Products of many rows with many rows.

use pulp::{Simd, WithSimd};

use super::simd::dispatch;

/// Rows of one panel: two registers of AVX-512, four of AVX2.
const WIDTH: usize = 32;
/// Dimensions taken at a time, so that a panel's part stays in the first-level cache.
const DEPTH: usize = 128;

/// Rows laid out for products with other rows.
#[derive(Debug, Clone)]
pub struct Panels {
    dim: usize,
    rows: usize,
    /// `[panel][dim][WIDTH]`, the last panel filled up with zeros.
    packed: Vec<f32>,
}

impl Panels {
    /// rows: each `[dim]`. Panics where one is shorter.
    #[must_use]
    pub fn pack<'a>(dim: usize, rows: impl ExactSizeIterator<Item = &'a [f32]>) -> Self {
        let count = rows.len();
        let mut packed = vec![0.0; count.div_ceil(WIDTH) * WIDTH * dim];
        for (at, row) in rows.enumerate() {
            let panel = &mut packed[at / WIDTH * WIDTH * dim..];
            for (d, value) in row[..dim].iter().enumerate() {
                panel[d * WIDTH + at % WIDTH] = *value;
            }
        }
        Self { dim, rows: count, packed }
    }

    /// Inner products of every row of `left`, each `[dim]`, with every packed row, into `out`,
    /// `[left, rows]`. Each is summed over the dimensions in order, whatever stands beside it: equal rows
    /// give equal products, to the last bit. On the caller's thread. Panics where sizes do not fit.
    pub fn products(&self, left: &[&[f32]], out: &mut [f32]) {
        assert_eq!(out.len(), left.len() * self.rows, "products need one place for each pair");
        if !out.is_empty() {
            dispatch(Products { panels: self, left, out });
        }
    }
}

struct Products<'a> {
    panels: &'a Panels,
    left: &'a [&'a [f32]],
    out: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Rows of `left` at a time: as many as leave registers for the panel's and one for the row's.
        match S::F32_LANES {
            16 => self.run::<S, 2, 12>(simd),
            8 => self.run::<S, 4, 3>(simd),
            4 => self.run::<S, 8, 1>(simd),
            _ => self.run::<S, WIDTH, 1>(simd),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize, const ROWS: usize>(self, simd: S) {
        let Self { panels: Panels { dim, rows, packed }, left, out } = self;
        let (dim, rows) = (*dim, *rows);
        // `[strip][dim][ROWS]`
        let mut strips = vec![0.0_f32; left.len().div_ceil(ROWS) * ROWS * dim];
        for (at, row) in left.iter().enumerate() {
            let strip = &mut strips[at / ROWS * ROWS * dim..];
            for (d, value) in row[..dim].iter().enumerate() {
                strip[d * ROWS + at % ROWS] = *value;
            }
        }
        for (p, panel) in packed.chunks_exact((WIDTH * dim).max(1)).enumerate() {
            let wide = (rows - p * WIDTH).min(WIDTH);
            for start in (0..dim).step_by(DEPTH) {
                let end = (start + DEPTH).min(dim);
                let panel = &panel[start * WIDTH..end * WIDTH];
                for (s, strip) in strips.chunks_exact((ROWS * dim).max(1)).enumerate() {
                    let strip = &strip[start * ROWS..end * ROWS];
                    let high = (left.len() - s * ROWS).min(ROWS);
                    let place = |row: usize| (s * ROWS + row) * rows + p * WIDTH;
                    let mut tile = [[0.0_f32; WIDTH]; ROWS];
                    if start > 0 {
                        for row in 0..high {
                            tile[row][..wide].copy_from_slice(&out[place(row)..][..wide]);
                        }
                    }
                    accumulate::<S, VECTORS, ROWS>(simd, panel, strip, &mut tile);
                    for row in 0..high {
                        out[place(row)..][..wide].copy_from_slice(&tile[row][..wide]);
                    }
                }
            }
        }
    }
}

/// tile += strip^T panel, dimension after dimension.
#[inline(always)]
fn accumulate<S: Simd, const VECTORS: usize, const ROWS: usize>(
    simd: S,
    panel: &[f32],
    strip: &[f32],
    tile: &mut [[f32; WIDTH]; ROWS],
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (sums, row) in sums.iter_mut().zip(tile.iter()) {
        for (sum, values) in sums.iter_mut().zip(S::as_simd_f32s(row).0) {
            *sum = *values;
        }
    }
    for (right, left) in panel.chunks_exact(WIDTH).zip(strip.chunks_exact(ROWS)) {
        let (vectors, _) = S::as_simd_f32s(right);
        let mut panel = [simd.splat_f32s(0.0); VECTORS];
        for (to, from) in panel.iter_mut().zip(vectors) {
            *to = *from;
        }
        for row in 0..ROWS {
            let value = simd.splat_f32s(left[row]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(value, panel[vector], sums[row][vector]);
            }
        }
    }
    for (sums, row) in sums.iter().zip(tile.iter_mut()) {
        for (sum, values) in sums.iter().zip(S::as_mut_simd_f32s(row).0) {
            *values = *sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_multiplied_whatever_the_sizes() {
        // Small whole numbers: exact in any order.
        let value =
            |row: usize, d: usize, salt: usize| ((row * 7 + d * 3 + salt) % 11) as f32 - 5.0;
        for (left, right, dim) in [(1, 1, 1), (3, 33, 5), (13, 64, 130), (25, 95, 300), (4, 0, 8)] {
            let make = |rows: usize, salt: usize| -> Vec<Vec<f32>> {
                (0..rows).map(|r| (0..dim).map(|d| value(r, d, salt)).collect()).collect()
            };
            let (a, b) = (make(left, 1), make(right, 4));
            let panels = Panels::pack(dim, b.iter().map(Vec::as_slice));
            let mut out = vec![f32::NAN; left * right];
            panels.products(&a.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
            for (i, x) in a.iter().enumerate() {
                for (j, y) in b.iter().enumerate() {
                    let want: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                    assert_eq!(out[i * right + j], want, "{left}x{right}x{dim}: {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn equal_rows_give_equal_products_wherever_they_stand() {
        let row: Vec<f32> = (0..515).map(|d| (d as f32 * 0.37).sin()).collect();
        let other: Vec<f32> = (0..515).map(|d| (d as f32 * 0.11).cos()).collect();
        let panels = Panels::pack(row.len(), std::iter::repeat_n(row.as_slice(), 71));
        let left = vec![other.as_slice(); 29];
        let mut out = vec![0.0; 29 * 71];
        panels.products(&left, &mut out);
        assert!(out.iter().all(|product| product.to_bits() == out[0].to_bits()));
        let mut one = [0.0];
        Panels::pack(row.len(), std::iter::once(other.as_slice())).products(&[&row], &mut one);
        assert_eq!(one[0].to_bits(), out[0].to_bits(), "alone, and the other way round");
    }
}
