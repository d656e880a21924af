use rand_chacha::ChaCha8Rng;

use crate::image::{Picture, bilinear};

use super::blur::softened;
use super::hand::{Edge, Hand};
use super::{Severity, either, longest};

/// Degrees, either way.
const DEGREES: [f32; 5] = [5.0, 10.0, 16.0, 24.0, 34.0];
/// Factor, or its inverse.
const FACTOR: [f32; 5] = [1.07, 1.15, 1.25, 1.37, 1.5];
/// Share of the hand's length, from wrist to finger tips, that is out of the picture.
const CUT: [f32; 5] = [0.06, 0.13, 0.21, 0.3, 0.4];
/// Standard deviation of the blur that an arm goes on with, share of the longer side.
const SOFT: f32 = 0.02;

pub(super) fn rotation(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let (sin, cos) = (either(rng) * severity.of(DEGREES)).to_radians().sin_cos();
    warp(picture, |x, y| (cos * x + sin * y, cos * y - sin * x))
}

pub(super) fn scale(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let factor = severity.of(FACTOR).powf(either(rng));
    warp(picture, |x, y| (x / factor, y / factor))
}

/// Moves the picture away from the wrist's side, which goes on as its border is, softened: lines as in a bar code
/// are on no arm.
pub(super) fn finger_crop(picture: &Picture, severity: Severity) -> Picture {
    let hand = Hand::find(picture);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let [tip_x, tip_y] = hand.tips();
    // How far the tips are from the side that they leave through.
    let free = match hand.wrist() {
        Edge::Bottom => tip_y,
        Edge::Top => height as f32 - tip_y,
        Edge::Right => tip_x,
        Edge::Left => width as f32 - tip_x,
    };
    let by = (free.max(0.0) + severity.of(CUT) * hand.length()).round() as usize;
    let soft = softened(picture, SOFT * longest(picture));
    let mut rgb = Vec::with_capacity(picture.rgb().len());
    for y in 0..height {
        for x in 0..width {
            let (x, y, shown) = match hand.wrist() {
                Edge::Bottom => (x, (y + by).min(height - 1), y + by < height),
                Edge::Top => (x, y.saturating_sub(by), y >= by),
                Edge::Right => ((x + by).min(width - 1), y, x + by < width),
                Edge::Left => (x.saturating_sub(by), y, x >= by),
            };
            let at = (y * width + x) * 3;
            let from = if shown { picture } else { &soft };
            rgb.extend_from_slice(&from.rgb()[at..at + 3]);
        }
    }
    picture.with_rgb(rgb)
}

/// `source`: where in the picture a place of the result comes from, both in pixels from the middle. Beyond the
/// border the border repeats: an arm goes on, and so does a plain background.
fn warp(picture: &Picture, source: impl Fn(f32, f32) -> (f32, f32)) -> Picture {
    let size = (picture.width() as usize, picture.height() as usize);
    let (middle_x, middle_y) = ((size.0 as f32 - 1.0) / 2.0, (size.1 as f32 - 1.0) / 2.0);
    let mut rgb = Vec::with_capacity(picture.rgb().len());
    for y in 0..size.1 {
        for x in 0..size.0 {
            let (sx, sy) = source(x as f32 - middle_x, y as f32 - middle_y);
            let sampled = bilinear(picture.rgb(), size, sx + middle_x, sy + middle_y);
            // Rounds: samples are not negative.
            rgb.extend(sampled.map(|value| (value + 0.5) as u8));
        }
    }
    picture.with_rgb(rgb)
}
