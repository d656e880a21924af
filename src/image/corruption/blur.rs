use std::f32::consts::PI;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::image::resample::{Filter, Target, resize};
use crate::image::{Picture, gaussian_blur};

use super::{Severity, longest};

/// Standard deviation, share of the longer side.
const SIGMA: [f32; 5] = [0.004, 0.007, 0.0105, 0.015, 0.021];
/// Length of the way, share of the longer side.
const WAY: [f32; 5] = [0.015, 0.027, 0.042, 0.06, 0.085];
/// Radius of the disk, share of the longer side.
const RADIUS: [f32; 5] = [0.006, 0.0105, 0.016, 0.023, 0.032];

pub(super) fn gaussian(picture: &Picture, severity: Severity) -> Picture {
    softened(picture, severity.of(SIGMA) * longest(picture))
}

/// A bell of standard deviation `sigma`, in pixels.
pub(super) fn softened(picture: &Picture, sigma: f32) -> Picture {
    // A picture that is blurred much loses nothing by being reduced first. Reducing and enlarging blur too, with
    // the variances of a box and of a triangle.
    let reduce = (sigma / 2.0).floor().max(1.0);
    let variance = sigma * sigma - (reduce * reduce - 1.0) / 12.0 - reduce * reduce / 6.0;
    if reduce < 2.0 {
        return gaussian_blur(picture, sigma);
    }
    reduced(picture, reduce, |small| gaussian_blur(small, variance.sqrt() / reduce))
}

pub(super) fn defocus(picture: &Picture, severity: Severity) -> Picture {
    let radius = severity.of(RADIUS) * longest(picture);
    let reduce = (radius / 1.5).floor().max(1.0);
    if reduce < 2.0 {
        return disk(picture, radius);
    }
    reduced(picture, reduce, |small| disk(small, radius / reduce))
}

/// Moves along a straight line while the shutter is open.
pub(super) fn motion(picture: &Picture, severity: Severity, rng: &mut ChaCha8Rng) -> Picture {
    let way = severity.of(WAY) * longest(picture);
    let (sin, cos) = rng.random_range(0.0..PI).sin_cos();
    // Steps go along the axis that is closer to the line, one pixel each.
    if cos.abs() >= sin.abs() {
        along_rows(picture, sin / cos, way * cos.abs())
    } else {
        transposed(&along_rows(&transposed(picture), cos / sin, way * sin.abs()))
    }
}

/// Runs `blur` on the picture reduced by a factor.
fn reduced(picture: &Picture, factor: f32, blur: impl Fn(&Picture) -> Picture) -> Picture {
    let side = |side: u32| ((side as f32 / factor).round() as u32).max(1);
    let (width, height) = (side(picture.width()), side(picture.height()));
    let rgb = resize(picture, &Target::whole(width, height), Filter::Box);
    let small = blur(&Picture { width, height, rgb });
    let back = Target::whole(picture.width(), picture.height());
    picture.with_rgb(resize(&small, &back, Filter::Bilinear))
}

/// Mean over a disk, whose edge is soft over one pixel. Beyond the border the border repeats.
fn disk(picture: &Picture, radius: f32) -> Picture {
    let reach = (radius + 0.5).ceil() as isize;
    let mut taps = Vec::new();
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let distance = ((dx * dx + dy * dy) as f32).sqrt();
            let weight = (radius + 0.5 - distance).clamp(0.0, 1.0);
            if weight > 0.0 {
                taps.push((dx, dy, weight));
            }
        }
    }
    let sum: f32 = taps.iter().map(|(_, _, weight)| weight).sum();
    let (width, height) = (picture.width() as isize, picture.height() as isize);
    let source = picture.rgb();
    let mut rgb = Vec::with_capacity(source.len());
    for y in 0..height {
        for x in 0..width {
            let mut light = [0.5_f32; 3];
            for (dx, dy, weight) in &taps {
                let (x, y) = ((x + dx).clamp(0, width - 1), (y + dy).clamp(0, height - 1));
                let at = (y * width + x) as usize * 3;
                for (light, value) in light.iter_mut().zip(&source[at..at + 3]) {
                    *light += weight / sum * f32::from(*value);
                }
            }
            rgb.extend(light.map(|light| light as u8));
        }
    }
    picture.with_rgb(rgb)
}

/// Mean over `width` pixels along lines that fall by `slope` (at most 1) a pixel, by running sums: the cost does
/// not depend on the width. A pixel lies on exactly one line.
fn along_rows(picture: &Picture, slope: f32, width: f32) -> Picture {
    let (columns, rows) = (picture.width() as isize, picture.height() as isize);
    let source = picture.rgb();
    let falls: Vec<isize> = (0..columns).map(|x| (x as f32 * slope).round() as isize).collect();
    // Fractions of a pixel at both ends let severities differ in small pictures.
    let half = ((width - 1.0) / 2.0).max(0.0);
    let (whole, part) = (half.floor() as isize, half.fract());
    let total = 2.0 * half + 1.0;
    let last = falls.last().copied().unwrap_or(0);
    let mut rgb = vec![0; source.len()];
    for start in -last.max(0)..rows - last.min(0) {
        let pixel = |x: isize| {
            let x = x.clamp(0, columns - 1);
            let y = (start + falls[x as usize]).clamp(0, rows - 1);
            let at = (y * columns + x) as usize * 3;
            [source[at], source[at + 1], source[at + 2]].map(f32::from)
        };
        let mut sum = [0.0_f32; 3];
        for x in -whole..=whole {
            let value = pixel(x);
            (0..3).for_each(|c| sum[c] += value[c]);
        }
        for x in 0..columns {
            let y = start + falls[x as usize];
            let (before, after) = (pixel(x - whole - 1), pixel(x + whole + 1));
            if (0..rows).contains(&y) {
                let at = (y * columns + x) as usize * 3;
                for c in 0..3 {
                    let light = sum[c] + part * (before[c] + after[c]);
                    rgb[at + c] = (light / total + 0.5) as u8;
                }
            }
            let leaving = pixel(x - whole);
            (0..3).for_each(|c| sum[c] += after[c] - leaving[c]);
        }
    }
    picture.with_rgb(rgb)
}

fn transposed(picture: &Picture) -> Picture {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let source = picture.rgb();
    let mut rgb = Vec::with_capacity(source.len());
    for x in 0..width {
        for y in 0..height {
            let at = (y * width + x) * 3;
            rgb.extend_from_slice(&source[at..at + 3]);
        }
    }
    Picture { width: picture.height(), height: picture.width(), rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 101;

    /// A white point in the middle of black.
    fn point() -> Picture {
        let mut rgb = vec![0; SIDE * SIDE * 3];
        rgb[(SIDE / 2 * SIDE + SIDE / 2) * 3..][..3].fill(255);
        Picture::from_rgb(SIDE as u32, SIDE as u32, rgb).unwrap()
    }

    /// Where there is light, from the middle.
    fn lit(picture: &Picture) -> Vec<(isize, isize)> {
        let middle = (SIDE / 2) as isize;
        let pixels = picture.rgb().chunks_exact(3).enumerate().filter(|(_, p)| p[0] > 0);
        pixels.map(|(i, _)| ((i % SIDE) as isize - middle, (i / SIDE) as isize - middle)).collect()
    }

    #[test]
    fn a_point_becomes_a_line_of_the_way_s_length() {
        assert_eq!(lit(&along_rows(&point(), 0.0, 5.0)), [-2, -1, 0, 1, 2].map(|x| (x, 0)));
        let slanted = lit(&along_rows(&point(), 1.0, 5.0));
        assert_eq!(slanted, [-2, -1, 0, 1, 2].map(|x| (x, x)));
        let rising = lit(&along_rows(&point(), -0.5, 9.0));
        assert_eq!(rising.len(), 9);
        assert!(rising.iter().all(|(x, y)| (*x as f32 * -0.5 - *y as f32).abs() <= 1.0));
        assert_eq!(transposed(&transposed(&point())), point());
    }

    #[test]
    fn a_point_becomes_a_disk() {
        let places = lit(&disk(&point(), 4.0));
        assert!(places.contains(&(4, 0)) && places.contains(&(0, -4)));
        assert!(!places.contains(&(4, 4)) && !places.contains(&(5, 0)));
        assert_eq!(disk(&point(), 0.0), point());
    }

    #[test]
    fn reducing_first_makes_the_same_bell() {
        let side = 400;
        let halves =
            (0..side * side).flat_map(|i| [if i % side < side / 2 { 0 } else { 255 }; 3]).collect();
        let picture = Picture::from_rgb(side, side, halves).unwrap();
        // Severity 5 is a sigma of 8.4 pixels here: reduced by 4.
        let quick = gaussian(&picture, Severity::ALL[4]);
        let plain = gaussian_blur(&picture, 0.021 * 400.0);
        let differences = quick.rgb().iter().zip(plain.rgb()).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.max().unwrap() <= 8);
    }
}
