use crate::image::resample::{Filter, Target, resize};
use crate::image::{ImageError, Picture, through_jpeg};

use super::Severity;

/// libjpeg's quality.
const QUALITY: [u8; 5] = [40, 22, 13, 8, 5];
/// Squares along the longer side.
const SQUARES: [f32; 5] = [90.0, 64.0, 47.0, 35.0, 26.0];
/// Pictures shorter than this have as many fewer squares: else nothing would happen to them.
const FULL: f32 = 100.0;

pub(super) fn jpeg(picture: &Picture, severity: Severity) -> Result<Picture, ImageError> {
    through_jpeg(picture, severity.of(QUALITY))
}

pub(super) fn pixelate(picture: &Picture, severity: Severity) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let longest = super::longest(picture);
    let share = severity.of(SQUARES) * (longest / FULL).min(1.0) / longest;
    let squares = |side: u32| ((side as f32 * share).round() as u32).clamp(1, side);
    let (across, down) = (squares(width), squares(height));
    let small = resize(picture, &Target::whole(across, down), Filter::Box);
    let mut rgb = Vec::with_capacity(picture.rgb().len());
    for y in 0..height {
        let row = u64::from(y) * u64::from(down) / u64::from(height);
        for x in 0..width {
            let column = u64::from(x) * u64::from(across) / u64::from(width);
            let at = (row * u64::from(across) + column) as usize * 3;
            rgb.extend_from_slice(&small[at..at + 3]);
        }
    }
    picture.with_rgb(rgb)
}
