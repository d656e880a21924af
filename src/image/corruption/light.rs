use std::f32::consts::TAU;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::image::Picture;

use super::hand::Hand;
use super::{Severity, either, longest};

/// Stops of exposure too many: more would leave nothing but white of fair skin.
const OVER: [f32; 5] = [0.2, 0.4, 0.6, 0.8, 1.0];
/// Stops of exposure too few.
const UNDER: [f32; 5] = [0.3, 0.6, 0.95, 1.35, 1.8];
/// What is left of the contrast.
const CONTRAST: [f32; 5] = [0.75, 0.58, 0.43, 0.31, 0.22];
/// Exponent, or its inverse.
const GAMMA: [f32; 5] = [1.2, 1.45, 1.75, 2.1, 2.6];
/// Natural logarithm of what is changed in the ratio of red to blue, in linear light: 1 is about from daylight
/// (6500 K) to a light bulb (3200 K).
const WARMTH: [f32; 5] = [0.18, 0.36, 0.58, 0.85, 1.2];
/// Share of the light that the shadow takes.
const SHADOW: [f32; 5] = [0.25, 0.4, 0.55, 0.69, 0.82];
/// Width of the shadow's edge, share of the longer side.
const PENUMBRA: f32 = 0.06;
/// Steps between no shadow and full shadow that are told apart.
const STEPS: usize = 64;

pub(super) fn brightness(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let over = either(rng) > 0.0;
    let stops = if over { severity.of(OVER) } else { -severity.of(UNDER) };
    let gain = stops.exp2();
    by_tables(picture, &[(); 3].map(|()| table(|value| encoded(linear(value) * gain))))
}

pub(super) fn contrast(picture: &Picture, severity: Severity) -> Picture {
    let pixels = picture.rgb().chunks_exact(3);
    let sum: u64 =
        pixels.map(|p| u64::from(p[0]) * 299 + u64::from(p[1]) * 587 + u64::from(p[2]) * 114).sum();
    let mean = (sum as f64 / (picture.rgb().len() / 3) as f64 / 255_000.0) as f32;
    let left = severity.of(CONTRAST);
    by_tables(picture, &[(); 3].map(|()| table(|value| mean + (value - mean) * left)))
}

pub(super) fn gamma(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let exponent = severity.of(GAMMA).powf(either(rng));
    by_tables(picture, &[(); 3].map(|()| table(|value| value.powf(exponent))))
}

pub(super) fn colour_temperature(
    picture: &Picture,
    severity: Severity,
    rng: &mut ChaCha8Rng,
) -> Picture {
    let warmth = either(rng) * severity.of(WARMTH);
    let gains = [(warmth / 2.0).exp(), 1.0, (-warmth / 2.0).exp()];
    // The luma of white stays (BT.709, linear).
    let luma = 0.2126 * gains[0] + 0.7152 * gains[1] + 0.0722 * gains[2];
    by_tables(picture, &gains.map(|gain| table(|value| encoded(linear(value) * gain / luma))))
}

/// Half of the picture lies in the shadow; its edge runs through the hand.
pub(super) fn cast_shadow(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let depth = severity.of(SHADOW);
    let shadows: Vec<[u8; 256]> = (0..=STEPS)
        .map(|step| {
            let left = 1.0 - depth * step as f32 / STEPS as f32;
            table(|value| encoded(linear(value) * left))
        })
        .collect();
    let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
    let aside = rng.random_range(-0.1..0.1) * longest(picture);
    let [x0, y0] = Hand::find(picture).middle();
    let soft = (PENUMBRA * longest(picture)).max(1.0);
    let row = picture.width() as usize * 3;
    let mut rgb = picture.rgb().to_vec();
    for (y, line) in rgb.chunks_exact_mut(row).enumerate() {
        for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
            let beyond = (x as f32 - x0) * cos + (y as f32 - y0) * sin + aside;
            let t = (beyond / soft + 0.5).clamp(0.0, 1.0);
            let shadow = &shadows[(t * t * (3.0 - 2.0 * t) * STEPS as f32 + 0.5) as usize];
            pixel.iter_mut().for_each(|value| *value = shadow[usize::from(*value)]);
        }
    }
    picture.with_rgb(rgb)
}

/// A value of 0..=1 for each sample.
fn table(of: impl Fn(f32) -> f32) -> [u8; 256] {
    std::array::from_fn(|sample| {
        (of(sample as f32 / 255.0) * 255.0).round().clamp(0.0, 255.0) as u8
    })
}

fn by_tables(picture: &Picture, tables: &[[u8; 256]; 3]) -> Picture {
    let pixels = picture.rgb().chunks_exact(3);
    let rgb =
        pixels.flat_map(|p| [0, 1, 2].map(|channel| tables[channel][usize::from(p[channel])]));
    picture.with_rgb(rgb.collect())
}

/// From sRGB's curve to linear light, 0..=1.
fn linear(value: f32) -> f32 {
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

/// From linear light to sRGB's curve.
fn encoded(light: f32) -> f32 {
    if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_doubles_with_every_stop() {
        // Middle grey of 18 % is 118 of 255; twice the light is 36 %, 162 of 255.
        assert_eq!(table(|value| encoded(linear(value)))[118], 118);
        assert_eq!(table(|value| encoded(linear(value) * 2.0))[118], 162);
    }
}
