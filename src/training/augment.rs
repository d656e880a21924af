use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Random changes to a training picture. There is no horizontal flip: it would turn a left hand into
/// a right one. All changes are slight, because proportions and skin tone tell people apart.
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
        let (sin, cos) = (turn.sin(), turn.cos());
        let (n, m) = (self.size as f32, from as f32);
        let mut out = vec![0_u8; self.size * self.size * 3];
        for y in 0..self.size {
            for x in 0..self.size {
                let u = ((x as f32 + 0.5) / n - 0.5 - shift_x) / (zoom * wide);
                let v = ((y as f32 + 0.5) / n - 0.5 - shift_y) / zoom;
                let sx = (cos * u + sin * v + 0.5) * m - 0.5;
                let sy = (cos * v - sin * u + 0.5) * m - 0.5;
                let sampled = bilinear(pixels, from, sx, sy);
                let at = (y * self.size + x) * 3;
                for c in 0..3 {
                    let value = (sampled[c] - 128.0) * contrast + 128.0;
                    out[at + c] = (value * channel[c]).clamp(0.0, 255.0).round() as u8;
                }
            }
        }
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
}

/// Beyond the border the border repeats.
fn bilinear(pixels: &[u8], n: usize, x: f32, y: f32) -> [f32; 3] {
    let top = (n - 1) as f32;
    let (x, y) = (x.clamp(0.0, top), y.clamp(0.0, top));
    let (x0, y0) = (x as usize, y as usize);
    let (x1, y1) = ((x0 + 1).min(n - 1), (y0 + 1).min(n - 1));
    let (tx, ty) = (x - x0 as f32, y - y0 as f32);
    let at = |x: usize, y: usize, c: usize| f32::from(pixels[(y * n + x) * 3 + c]);
    std::array::from_fn(|c| {
        let upper = at(x0, y0, c) * (1.0 - tx) + at(x1, y0, c) * tx;
        let lower = at(x0, y1, c) * (1.0 - tx) + at(x1, y1, c) * tx;
        upper * (1.0 - ty) + lower * ty
    })
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
}
