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
        // Cell of each source column: every source pixel is read once.
        let edge = |i: usize, from: usize, to: usize| i * from / to;
        let mut samples = Vec::with_capacity(width * height);
        let mut sums = vec![0u64; width];
        for y in 0..height {
            let (top, bottom) = (edge(y, from_height, height), edge(y + 1, from_height, height));
            sums.fill(0);
            for row in picture.rgb()[top * from_width * 3..bottom * from_width * 3]
                .chunks_exact(from_width * 3)
            {
                for (x, sum) in sums.iter_mut().enumerate() {
                    let (left, right) =
                        (edge(x, from_width, width), edge(x + 1, from_width, width));
                    let cell = row[left * 3..right * 3].chunks_exact(3);
                    *sum += cell
                        .map(|p| {
                            u32::from(p[0]) * 299 + u32::from(p[1]) * 587 + u32::from(p[2]) * 114
                        })
                        .map(u64::from)
                        .sum::<u64>();
                }
            }
            for (x, &sum) in sums.iter().enumerate() {
                let columns = edge(x + 1, from_width, width) - edge(x, from_width, width);
                let pixels = (columns * (bottom - top)) as f64;
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
