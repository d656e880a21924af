//! How much a picture can tell: sharpness, contrast and brightness, and the gate that refuses
//! pictures that can tell nothing.

use serde::{Deserialize, Serialize};

use super::{ImageError, Picture};

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
    let luma = Luma::of(picture);
    let count = luma.samples.len() as f64;
    let mean = luma.samples.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
    let variance = luma.samples.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / count;
    let sharpness = luma.laplacian_variance();
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
        let mut samples = Vec::with_capacity(width * height);
        let mut sums = vec![0u64; width];
        for band in rows.windows(2) {
            let (top, bottom) = (band[0], band[1]);
            sums.fill(0);
            let pixels = &picture.rgb()[top * from_width * 3..bottom * from_width * 3];
            for row in pixels.chunks_exact(from_width * 3) {
                for (sum, cell) in sums.iter_mut().zip(columns.windows(2)) {
                    // 32 bits hold the sums of 16 million pixels, far more than a cell of a row has.
                    let mut channels = [0u32; 3];
                    for pixel in row[cell[0] * 3..cell[1] * 3].chunks_exact(3) {
                        for (channel, &sample) in channels.iter_mut().zip(pixel) {
                            *channel += u32::from(sample);
                        }
                    }
                    let [red, green, blue] = channels.map(u64::from);
                    *sum += red * 299 + green * 587 + blue * 114;
                }
            }
            for (&sum, cell) in sums.iter().zip(columns.windows(2)) {
                let pixels = ((cell[1] - cell[0]) * (bottom - top)) as f64;
                samples.push((sum as f64 / pixels / 1000.0) as f32);
            }
        }
        Self { width, samples }
    }

    /// Variance of the 4-neighbour Laplacian over the inner pixels; 0 where there are none.
    fn laplacian_variance(&self) -> f64 {
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        let rows: Vec<&[f32]> = self.samples.chunks_exact(self.width).collect();
        for window in rows.windows(3) {
            for x in 1..self.width.saturating_sub(1) {
                let around = window[0][x] + window[2][x] + window[1][x - 1] + window[1][x + 1];
                let value = f64::from(around - 4.0 * window[1][x]);
                sum += value;
                squares += value * value;
                count += 1.0;
            }
        }
        if count == 0.0 {
            return 0.0;
        }
        let mean = sum / count;
        (squares / count - mean * mean).max(0.0)
    }
}
