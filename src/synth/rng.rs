use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A stream of random numbers named by a key path, so that any part of any picture can be drawn
/// alone, in any order, on any thread, with the same result.
pub(super) struct Stream(ChaCha8Rng);

impl Stream {
    pub(super) fn new(path: &[u64]) -> Self {
        let mut state = 0x5eed_4a2d_0f1a_9c37_u64;
        for &part in path {
            state = mix(state ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        let mut seed = [0_u8; 32];
        for chunk in seed.chunks_exact_mut(8) {
            state = mix(state);
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// Uniform in `[low, high)`.
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        // 24 bits of a u32, the same on every platform.
        let unit = (self.0.next_u32() >> 8) as f32 / 16_777_216.0;
        low + unit * (high - low)
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.range(0.0, 1.0) < p
    }

    /// About normal: mean 0, SD 1, never beyond 3 (sum of four uniforms).
    pub(super) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.range(-1.0, 1.0)).sum();
        (sum * 0.866_025_4).clamp(-3.0, 3.0)
    }

    /// `0..n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.range(0.0, 1.0) * n as f32) as usize).min(n.saturating_sub(1))
    }
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Smooth noise in [-1, 1] on an integer lattice, hashed from `seed`.
pub(super) fn noise(seed: u64, x: f32, y: f32) -> f32 {
    let (xf, yf) = (x.floor(), y.floor());
    let (ix, iy) = (xf as i64, yf as i64);
    let (tx, ty) = (smooth(x - xf), smooth(y - yf));
    let at = |dx: i64, dy: i64| {
        let key = seed
            ^ (ix.wrapping_add(dx) as u64).wrapping_mul(0x8da6_b343)
            ^ (iy.wrapping_add(dy) as u64).wrapping_mul(0xd816_3841_0000_0001);
        (mix(key) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let top = at(0, 0) * (1.0 - tx) + at(1, 0) * tx;
    let bottom = at(0, 1) * (1.0 - tx) + at(1, 1) * tx;
    top * (1.0 - ty) + bottom * ty
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}
