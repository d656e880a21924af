use std::f32::consts::TAU;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::image::Picture;

use super::{Severity, longest};

/// Standard deviation, levels of 255.
const LEVELS: [f32; 5] = [7.0, 13.0, 21.0, 32.0, 46.0];
/// Photons that white is.
const PHOTONS: [f32; 5] = [300.0, 110.0, 48.0, 22.0, 11.0];
/// Grains along the longer side: cameras of many pixels average over neighbours, and a grain of one pixel would
/// be gone once the picture is reduced for a model.
const GRAINS: f32 = 400.0;

pub(super) fn gaussian(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let deviation = severity.of(LEVELS);
    grained(picture, rng, |value, normal| value + deviation * normal)
}

/// The Poisson distribution by the normal one of the same variance.
pub(super) fn shot(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let level = 255.0 / severity.of(PHOTONS);
    grained(picture, rng, |value, normal| value + (value * level).sqrt() * normal)
}

/// `change` gets a sample and a number that is normally distributed, one for each grain and channel.
fn grained(picture: &Picture, rng: &mut ChaCha8Rng, change: impl Fn(f32, f32) -> f32) -> Picture {
    let grain = (longest(picture) / GRAINS).round().max(1.0) as usize;
    let width = picture.width() as usize;
    let mut rgb = Vec::with_capacity(picture.rgb().len());
    for band in picture.rgb().chunks(width * 3 * grain) {
        let normals: Vec<[f32; 3]> =
            (0..width.div_ceil(grain)).map(|_| [(); 3].map(|()| normal(rng))).collect();
        for line in band.chunks_exact(width * 3) {
            for (pixels, normals) in line.chunks(grain * 3).zip(&normals) {
                for pixel in pixels.chunks_exact(3) {
                    rgb.extend(pixel.iter().zip(normals).map(|(value, normal)| {
                        change(f32::from(*value), *normal).clamp(0.0, 255.0).round() as u8
                    }));
                }
            }
        }
    }
    picture.with_rgb(rgb)
}

/// Box and Muller's.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (radius, angle): (f32, f32) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn deviation(picture: &Picture) -> f64 {
        let values: Vec<f64> = picture.rgb().iter().map(|v| f64::from(*v)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn noise_has_the_stated_strength() {
        let grey = |value| Picture::from_rgb(300, 200, vec![value; 300 * 200 * 3]).unwrap();
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        for (severity, levels) in Severity::ALL.into_iter().zip(LEVELS).take(3) {
            let got = deviation(&gaussian(&grey(128), severity, rng));
            assert!((got / f64::from(levels) - 1.0).abs() < 0.02, "{severity}: {got}");
        }
        // 150 of 255 with 48 photons at white are 28.2 photons: a deviation of 5.3, 28.2 levels.
        let got = deviation(&shot(&grey(150), Severity::ALL[2], rng));
        assert!((got - 28.2).abs() < 0.7, "{got}");
        assert_eq!(deviation(&shot(&grey(0), Severity::ALL[4], rng)), 0.0, "no light, no photons");
    }

    #[test]
    fn grains_are_as_large_in_every_picture() {
        let wide = Picture::from_rgb(1600, 8, vec![128; 1600 * 8 * 3]).unwrap();
        let out = gaussian(&wide, Severity::ALL[2], &mut ChaCha8Rng::seed_from_u64(1));
        let line: Vec<u8> = out.rgb()[..1600 * 3].chunks_exact(3).map(|p| p[0]).collect();
        assert!(line.chunks_exact(4).all(|grain| grain.iter().all(|v| *v == grain[0])));
        assert_eq!(out.rgb()[..1600 * 3], out.rgb()[3 * 1600 * 3..4 * 1600 * 3]);
        assert_ne!(out.rgb()[..1600 * 3], out.rgb()[4 * 1600 * 3..5 * 1600 * 3]);
    }
}
