use pulp::Simd;

use super::prefetch::prefetch;
use super::{Row, WIDTH};

/// Rows of a tile at most, with sixteen and with eight values a register.
pub(super) const HIGHEST: usize = 12;

/// Rows that leave registers for a panel's row and one value of the left side.
#[inline(always)]
pub(super) fn high<S: Simd>() -> usize {
    if S::F32_LANES == 16 { HIGHEST } else { 6 }
}

/// `out += left right` for up to [`high`] rows of one panel.
///
/// left: `[panel][row][WIDTH]` with `rows` rows a panel, from the tile's first row on; right: `[inputs][WIDTH]`, the inputs a
/// multiple of [`WIDTH`]; out: `[row][WIDTH]`. `ahead` is called now and then.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    left: &[Row],
    rows: usize,
    right: &[Row],
    out: &mut [Row],
    ahead: &mut impl FnMut(),
) {
    macro_rules! by_height {
        ($($height:literal)*) => {
            match out.len() {
                $($height => tile::<S, _, $height>(simd, left, rows, right, out, ahead),)*
                _ => {}
            }
        };
    }
    if S::F32_LANES == 16 {
        by_height!(1 2 3 4 5 6 7 8 9 10 11 12);
    } else {
        by_height!(1 2 3 4 5 6);
    }
}

#[inline(always)]
fn tile<S: Simd, F: FnMut(), const HEIGHT: usize>(
    simd: S,
    left: &[Row],
    rows: usize,
    right: &[Row],
    out: &mut [Row],
    ahead: &mut F,
) {
    /// Registers of a row of the panel that are worked on at a time.
    const VECTORS: usize = 2;
    let Some(out) = out.first_chunk_mut::<HEIGHT>() else { return };
    // Fewer values a register than half a panel: the panel is gone through in parts.
    let columns = VECTORS * S::F32_LANES;
    for part in (0..WIDTH).step_by(columns) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; HEIGHT];
        for (sums, row) in sums.iter_mut().zip(out.iter()) {
            for (sum, values) in
                sums.iter_mut().zip(S::as_simd_f32s(&row.0[part..part + columns]).0)
            {
                *sum = *values;
            }
        }
        for (panel, right) in right.as_chunks::<WIDTH>().0.iter().enumerate() {
            // Asked for, since a panel's rows lie far from another's, which no processor foresees.
            if let Some(next) = left.get(panel * rows + HEIGHT..panel * rows + 2 * HEIGHT) {
                next.iter().for_each(prefetch);
            }
            let Some(left) = left[panel * rows..].first_chunk::<HEIGHT>() else { return };
            ahead();
            for (k, right) in right.iter().enumerate() {
                let mut vectors = [simd.splat_f32s(0.0); VECTORS];
                let from = S::as_simd_f32s(&right.0[part..part + columns]).0;
                for (to, from) in vectors.iter_mut().zip(from) {
                    *to = *from;
                }
                for row in 0..HEIGHT {
                    let value = simd.splat_f32s(left[row].0[k]);
                    for vector in 0..VECTORS {
                        sums[row][vector] =
                            simd.mul_add_e_f32s(value, vectors[vector], sums[row][vector]);
                    }
                }
            }
        }
        for (sums, row) in sums.iter().zip(out.iter_mut()) {
            let to = S::as_mut_simd_f32s(&mut row.0[part..part + columns]).0;
            for (sum, values) in sums.iter().zip(to) {
                *values = *sum;
            }
        }
    }
}

/// Cuts rows into as few tiles as there may be, as equal as they can be: none is left with a row or two.
#[inline(always)]
pub(super) fn tiles(rows: usize, high: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(high.max(1)).max(1);
    let (each, more) = (rows / count, rows % count);
    (0..count).map(move |tile| (tile * each + tile.min(more), each + usize::from(tile < more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_differ_by_one_at_most() {
        for rows in 1..200 {
            for high in [6, 12] {
                let cut: Vec<_> = tiles(rows, high).collect();
                let mut next = 0;
                for (start, height) in &cut {
                    assert_eq!(*start, next);
                    assert!((1..=high).contains(height), "{rows} in tiles of {high}: {cut:?}");
                    next += height;
                }
                assert_eq!(next, rows);
                let heights = cut.iter().map(|(_, height)| height);
                assert!(heights.clone().max().unwrap() - heights.min().unwrap() <= 1);
            }
        }
    }
}
