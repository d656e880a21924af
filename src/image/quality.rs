//! How much a picture can tell: sharpness, contrast and brightness, and the gate that refuses
//! pictures that can tell nothing.

use serde::{Deserialize, Serialize};

use super::{ImageError, Picture};
use crate::simd::vectorised;

/// Measured on the luma, reduced to at most 256 pixels a side so that figures from different
/// cameras compare.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Variance of the Laplacian of the luma in 0..255: about 10 for a blurred hand, hundreds for
    /// a sharp one.
    pub sharpness: f32,
    /// Standard deviation of the luma, 0..=0.5.
    pub contrast: f32,
    /// Mean luma, 0..=1.
    pub brightness: f32,
    /// All three as one figure, 0..=1; higher is better.
    pub score: f32,
}

/// What [`gate`] asks of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QualityLimits {
    /// Least width and height, in pixels.
    pub min_side: u32,
    /// Least standard deviation of the luma, 0..=0.5.
    pub min_contrast: f32,
}

impl Default for QualityLimits {
    /// 32 pixels and 0.02, five levels of 255: sensor noise on a plain wall stays below, any
    /// picture of a thing is far above.
    fn default() -> Self {
        Self { min_side: 32, min_contrast: 0.02 }
    }
}

/// Refuses pictures that are too small or blank; otherwise says how good they are.
///
/// # Errors
/// [`ImageError::TooSmall`] and [`ImageError::Blank`].
pub fn gate(picture: &Picture, limits: &QualityLimits) -> Result<Quality, ImageError> {
    let (width, height) = (picture.width(), picture.height());
    if width < limits.min_side || height < limits.min_side {
        return Err(ImageError::TooSmall { width, height, min: limits.min_side });
    }
    let quality = assess(picture);
    if quality.contrast < limits.min_contrast {
        return Err(ImageError::Blank { contrast: quality.contrast, min: limits.min_contrast });
    }
    Ok(quality)
}

/// Sharpness, contrast and brightness of `picture`, without judging them.
pub fn assess(picture: &Picture) -> Quality {
    let (mean, variance, sharpness) = vectorised(
        #[inline(always)]
        || {
            let luma = Luma::of(picture);
            let (mean, variance) = luma.mean_and_variance();
            (mean, variance, luma.laplacian_variance())
        },
    );
    let contrast = variance.sqrt() / 255.0;
    let brightness = mean / 255.0;
    let score = score(sharpness, contrast, brightness);
    Quality {
        sharpness: sharpness as f32,
        contrast: contrast as f32,
        brightness: brightness as f32,
        score: score as f32,
    }
}

/// Geometric mean of three figures of 0..=1: one bad figure cannot be bought off by the others.
fn score(sharpness: f64, contrast: f64, brightness: f64) -> f64 {
    /// Sharpness and contrast at which their figures reach one half.
    const HALF_SHARPNESS: f64 = 60.0;
    const HALF_CONTRAST: f64 = 0.06;
    let sharp = sharpness / (sharpness + HALF_SHARPNESS);
    let contrasty = contrast / (contrast + HALF_CONTRAST);
    // Falls off only close to black or white: a white studio background is as it should be.
    let exposed = (brightness.min(1.0 - brightness) / 0.05).clamp(0.0, 1.0);
    (sharp * contrasty * exposed).cbrt()
}

/// Luma (BT.601) in 0..=255, reduced by averaging whole pixels.
struct Luma {
    width: usize,
    samples: Vec<f32>,
}

impl Luma {
    const MAX_SIDE: usize = 256;

    #[inline(always)]
    fn of(picture: &Picture) -> Self {
        let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
        let longest = from_width.max(from_height);
        let fit = |side: usize| {
            if longest <= Self::MAX_SIDE { side } else { (side * Self::MAX_SIDE / longest).max(1) }
        };
        let (width, height) = (fit(from_width), fit(from_height));
        // Cells share no pixel and leave none out.
        let edges = |from: usize, to: usize| (0..=to).map(|i| i * from / to).collect::<Vec<_>>();
        let (columns, rows) = (edges(from_width, width), edges(from_height, height));
        // A mean is a sum times these: a division for each cell would take longer than all else.
        let share = |edges: &[usize]| 1.0 / (edges[1] - edges[0]) as f64;
        let shares: Vec<f64> = columns.windows(2).map(|cell| share(cell) / 1000.0).collect();
        let mut samples = Vec::with_capacity(width * height);
        // Of a band's rows. 32 bits hold the weighted sums of 16,000 rows, far more than a band has.
        let (mut sums, mut lumas) = (vec![0_u32; from_width * 3], vec![0_u32; from_width]);
        for band in rows.windows(2) {
            let (top, bottom) = (band[0], band[1]);
            sums.fill(0);
            let pixels = &picture.rgb()[top * from_width * 3..bottom * from_width * 3];
            for row in pixels.chunks_exact(from_width * 3) {
                for (sum, sample) in sums.iter_mut().zip(row) {
                    *sum += u32::from(*sample);
                }
            }
            for (luma, [red, green, blue]) in lumas.iter_mut().zip(sums.as_chunks().0) {
                *luma = red * 299 + green * 587 + blue * 114;
            }
            let of_band = share(band);
            for (cell, of_cell) in columns.windows(2).zip(&shares) {
                let sum: u64 = lumas[cell[0]..cell[1]].iter().map(|luma| u64::from(*luma)).sum();
                samples.push((sum as f64 * of_cell * of_band) as f32);
            }
        }
        Self { width, samples }
    }

    #[inline(always)]
    fn mean_and_variance(&self) -> (f64, f64) {
        let count = self.samples.len() as f64;
        let mean = sum(&self.samples, |sample| sample) / count;
        let variance = sum(&self.samples, |sample| (sample - mean) * (sample - mean)) / count;
        (mean, variance)
    }

    /// Variance of the 4-neighbour Laplacian over the inner pixels; 0 where there are none.
    #[inline(always)]
    fn laplacian_variance(&self) -> f64 {
        let inner = self.width.saturating_sub(2);
        let rows: Vec<&[f32]> = self.samples.chunks_exact(self.width).collect();
        let mut values = vec![0.0; inner];
        let (mut total, mut squares) = (0.0, 0.0);
        for window in rows.windows(3) {
            let (above, row, below) = (window[0], window[1], window[2]);
            for (at, value) in values.iter_mut().enumerate() {
                let around = above[at + 1] + below[at + 1] + row[at] + row[at + 2];
                *value = around - 4.0 * row[at + 1];
            }
            total += sum(&values, |value| value);
            squares += sum(&values, |value| value * value);
        }
        let count = (inner * rows.len().saturating_sub(2)) as f64;
        if count == 0.0 {
            return 0.0;
        }
        let mean = total / count;
        (squares / count - mean * mean).max(0.0)
    }
}

/// The sum of what `of` makes of each, in lanes, in one order on every machine.
#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(f64::from(*value));
        }
    }
    lanes.into_iter().chain(rest.iter().map(|value| of(f64::from(*value)))).sum()
}
