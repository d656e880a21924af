use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::image::{Picture, bilinear, gaussian_blur, through_jpeg};

/// Random changes to a training picture. None mirrors it: that would turn a left hand into a right one.
/// All changes are slight by default, because proportions and skin tone tell people apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augment {
    /// Side of the result, pixels.
    pub size: usize,
    /// Largest rotation, radians.
    pub rotation: f32,
    /// Largest change of scale, as a share.
    pub scale: f32,
    /// Largest narrowing or widening, as a share: photographs are squashed to a square by different ratios.
    pub stretch: f32,
    /// Largest shift, as a share of the side.
    pub shift: f32,
    /// Largest change of brightness and contrast, as a share.
    pub light: f32,
    /// Largest change of one colour channel, as a share.
    pub color: f32,
    /// Probability that a patch is erased.
    pub erase: f64,
    /// Smallest share of the picture that a random crop of ratio 3:4 to 4:3 keeps; 1 does not crop.
    pub crop: f32,
    /// Largest change of saturation, as a share.
    pub saturation: f32,
    /// Largest standard deviation of a Gaussian blur, pixels of the result.
    pub blur: f32,
    /// Lowest JPEG quality that the result is sent through; 100 leaves it out.
    pub jpeg: u8,
}

impl Augment {
    /// The settings of pre-training.
    #[must_use]
    pub fn standard(size: usize) -> Self {
        Self {
            size,
            rotation: 0.03,
            scale: 0.02,
            stretch: 0.01,
            shift: 0.02,
            light: 0.03,
            color: 0.01,
            erase: 0.05,
            ..Self::none(size)
        }
    }

    /// The picture unchanged but for its size.
    #[must_use]
    pub fn none(size: usize) -> Self {
        Self {
            size,
            rotation: 0.0,
            scale: 0.0,
            stretch: 0.0,
            shift: 0.0,
            light: 0.0,
            color: 0.0,
            erase: 0.0,
            crop: 1.0,
            saturation: 0.0,
            blur: 0.0,
            jpeg: 100,
        }
    }

    /// `pixels`: `[from, from, 3]`; gives `[size, size, 3]`. The same seed gives the same result.
    #[must_use]
    pub fn apply(&self, pixels: &[u8], from: usize, seed: u64) -> Vec<u8> {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut vary = |by: f32| if by > 0.0 { rng.random_range(-by..by) } else { 0.0 };
        let turn = vary(self.rotation);
        let zoom = 1.0 + vary(self.scale);
        let (wide, shift_x, shift_y) =
            (1.0 + vary(self.stretch), vary(self.shift), vary(self.shift));
        let (bright, contrast) = (1.0 + vary(self.light), 1.0 + vary(self.light));
        let channel: [f32; 3] = std::array::from_fn(|_| bright * (1.0 + vary(self.color)));
        let saturation = 1.0 + vary(self.saturation);
        let window = self.window(rng);
        let (sin, cos) = (turn.sin(), turn.cos());
        let (n, m) = (self.size as f32, from as f32);
        let mut out = vec![0_u8; self.size * self.size * 3];
        for y in 0..self.size {
            for x in 0..self.size {
                let u = ((x as f32 + 0.5) / n - 0.5 - shift_x) / (zoom * wide);
                let v = ((y as f32 + 0.5) / n - 0.5 - shift_y) / zoom;
                let (u, v) =
                    (u * window.size[0] + window.shift[0], v * window.size[1] + window.shift[1]);
                let sx = (cos * u + sin * v + 0.5) * m - 0.5;
                let sy = (cos * v - sin * u + 0.5) * m - 0.5;
                let sampled = bilinear(pixels, (from, from), sx, sy);
                let at = (y * self.size + x) * 3;
                let [r, g, b] = sampled;
                let grey = 0.299 * r + 0.587 * g + 0.114 * b;
                for c in 0..3 {
                    let value = grey + (sampled[c] - grey) * saturation;
                    let value = (value - 128.0) * contrast + 128.0;
                    out[at + c] = (value * channel[c]).clamp(0.0, 255.0).round() as u8;
                }
            }
        }
        let mut out = self.degrade(out, rng);
        if self.erase > 0.0 && rng.random_bool(self.erase) {
            let side = (n * rng.random_range(0.10..0.25)) as usize;
            let place = |rng: &mut ChaCha8Rng| rng.random_range(0..self.size - side);
            let (left, top) = (place(rng), place(rng));
            let color: [u8; 3] = rng.random();
            for y in top..top + side {
                for x in left..left + side {
                    let at = (y * self.size + x) * 3;
                    out[at..at + 3].copy_from_slice(&color);
                }
            }
        }
        out
    }

    /// The part of the picture that a random resized crop shows.
    fn window(&self, rng: &mut ChaCha8Rng) -> Window {
        if self.crop >= 1.0 {
            return Window { size: [1.0; 2], shift: [0.0; 2] };
        }
        let area: f32 = rng.random_range(self.crop..=1.0);
        let ratio = rng.random_range((0.75_f32).ln()..=(4.0_f32 / 3.0).ln()).exp();
        let size = [(area * ratio).sqrt().min(1.0), (area / ratio).sqrt().min(1.0)];
        let shift = size.map(|side| rng.random_range(-0.5..=0.5) * (1.0 - side));
        Window { size, shift }
    }

    /// Blur and JPEG.
    fn degrade(&self, pixels: Vec<u8>, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let blur = (self.blur > 0.0).then(|| rng.random_range(0.0..self.blur));
        let quality = (self.jpeg < 100).then(|| rng.random_range(self.jpeg.max(1)..=100));
        if blur.is_none() && quality.is_none() {
            return pixels;
        }
        let side = self.size as u32;
        let Ok(mut picture) = Picture::from_rgb(side, side, pixels.clone()) else { return pixels };
        if let Some(sigma) = blur {
            picture = gaussian_blur(&picture, sigma);
        }
        if let Some(quality) = quality {
            picture = through_jpeg(&picture, quality).unwrap_or(picture);
        }
        picture.rgb().to_vec()
    }
}

/// A part of the picture: width and height as shares of it, and how far its middle lies from the picture's.
struct Window {
    size: [f32; 2],
    shift: [f32; 2],
}

/// A mirror image, as chosen for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flip {
    /// From left to right.
    pub horizontal: bool,
    /// From top to bottom.
    pub vertical: bool,
}

impl Flip {
    /// Whether a hand turns into one of the other side. Both flips together only turn the picture.
    #[must_use]
    pub fn mirrors(self) -> bool {
        self.horizontal != self.vertical
    }

    /// Flips `pixels`, `[side, side, 3]`.
    pub(super) fn apply(self, pixels: &mut [u8], side: usize) {
        let row = side * 3;
        if self.vertical {
            let (upper, lower) = pixels.split_at_mut(side / 2 * row);
            let below = lower.chunks_exact_mut(row).rev();
            upper.chunks_exact_mut(row).zip(below).for_each(|(a, b)| a.swap_with_slice(b));
        }
        if self.horizontal {
            for line in pixels.chunks_exact_mut(row) {
                for x in 0..side / 2 {
                    let (left, right) = (x * 3, (side - 1 - x) * 3);
                    (0..3).for_each(|c| line.swap(left + c, right + c));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(n: usize) -> Vec<u8> {
        (0..n * n * 3).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn no_change_at_the_same_size_is_the_identity() {
        assert_eq!(Augment::none(16).apply(&picture(16), 16, 5), picture(16));
    }

    #[test]
    fn changes_follow_from_the_seed_and_fill_the_size() {
        let augment = Augment::standard(24);
        let a = augment.apply(&picture(32), 32, 1);
        assert_eq!(a.len(), 24 * 24 * 3);
        assert_eq!(a, augment.apply(&picture(32), 32, 1));
        assert_ne!(a, augment.apply(&picture(32), 32, 2));
    }

    #[test]
    fn a_hand_is_never_mirrored() {
        // Dark left half, bright right half: it stays that way whatever the seed.
        let n = 32;
        let halves: Vec<u8> =
            (0..n * n * 3).map(|i| if (i / 3) % n < n / 2 { 20 } else { 230 }).collect();
        let augment = Augment { erase: 0.0, ..Augment::standard(n) };
        for seed in 0..200 {
            let out = augment.apply(&halves, n, seed);
            let mean = |range: std::ops::Range<usize>| {
                range.clone().map(|x| u32::from(out[(16 * n + x) * 3])).sum::<u32>()
                    / range.len() as u32
            };
            assert!(mean(0..8) < mean(24..32), "seed {seed}");
        }
    }

    #[test]
    fn crops_show_a_part_and_enlarge_it() {
        // A ramp from left to right: a crop spans less of it, never more.
        let n = 64;
        let ramp: Vec<u8> = (0..n * n * 3).map(|i| ((i / 3) % n * 4) as u8).collect();
        let augment = Augment { crop: 0.3, ..Augment::none(n) };
        let mut spans = Vec::new();
        for seed in 0..60 {
            let out = augment.apply(&ramp, n, seed);
            let (first, last) = (out[n / 2 * n * 3], out[(n / 2 * n + n - 1) * 3]);
            spans.push(i32::from(last) - i32::from(first));
        }
        let (least, most) = (spans.iter().min().unwrap(), spans.iter().max().unwrap());
        // Widths of 0.3 of the area at 3:4 up to the whole.
        assert!(*least >= 252 * 45 / 100 && *least < 160 && *most > 220, "{least} to {most}");
    }

    #[test]
    fn blur_jpeg_and_saturation_change_what_they_should() {
        let n = 32;
        let noise = picture(n);
        let sharpness = |pixels: &[u8]| -> u64 {
            pixels
                .chunks(3)
                .collect::<Vec<_>>()
                .windows(2)
                .map(|w| u64::from(w[0][1].abs_diff(w[1][1])))
                .sum()
        };
        let blurred = Augment { blur: 3.0, ..Augment::none(n) }.apply(&noise, n, 4);
        assert!(sharpness(&blurred) < sharpness(&noise) / 2);
        let sent = Augment { jpeg: 5, ..Augment::none(n) }.apply(&noise, n, 4);
        assert!(sent != noise && sent.len() == noise.len());
        let grey = vec![90; n * n * 3];
        let augment = Augment { saturation: 0.9, ..Augment::none(n) };
        assert_eq!(augment.apply(&grey, n, 4), grey, "grey has no saturation to change");
        let red: Vec<u8> = (0..n * n).flat_map(|_| [200, 60, 60]).collect();
        assert_ne!(augment.apply(&red, n, 4), red);
    }

    #[test]
    fn flips_mirror_and_two_of_them_turn() {
        let of = |horizontal, vertical| {
            let mut pixels: Vec<u8> = (0..3 * 3).flat_map(|i| [i, i, i]).collect();
            Flip { horizontal, vertical }.apply(&mut pixels, 3);
            pixels.chunks(3).map(|p| p[0]).collect::<Vec<_>>()
        };
        assert_eq!(of(true, false), [2, 1, 0, 5, 4, 3, 8, 7, 6]);
        assert_eq!(of(false, true), [6, 7, 8, 3, 4, 5, 0, 1, 2]);
        assert_eq!(of(true, true), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        let mirrors = |horizontal, vertical| Flip { horizontal, vertical }.mirrors();
        assert_eq!(
            [mirrors(true, false), mirrors(false, true), mirrors(true, true)],
            [true, true, false]
        );
    }
}
