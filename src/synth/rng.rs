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

/// Smooth noise in [-1, 1] on an integer lattice, hashed from a seed. Keeps the cell asked last,
/// which neighbouring pixels mostly share.
pub(super) struct Noise {
    seed: u64,
    cell: (i32, i32),
    corners: [f32; 4],
}

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        let mut noise = Self { seed, cell: (0, 0), corners: [0.0; 4] };
        noise.enter((0, 0));
        noise
    }

    pub(super) fn at(&mut self, x: f32, y: f32) -> f32 {
        let cell = (floor(x), floor(y));
        if cell != self.cell {
            self.enter(cell);
        }
        let (tx, ty) = (smooth(x - cell.0 as f32), smooth(y - cell.1 as f32));
        let [a, b, c, d] = self.corners;
        let (low, high) = (a * (1.0 - tx) + b * tx, c * (1.0 - tx) + d * tx);
        low * (1.0 - ty) + high * ty
    }

    fn enter(&mut self, cell: (i32, i32)) {
        let (x, y) = cell;
        let (right, above) = (x.wrapping_add(1), y.wrapping_add(1));
        self.cell = cell;
        self.corners = [(x, y), (right, y), (x, above), (right, above)]
            .map(|(x, y)| unit(lattice(self.seed, x, y)));
    }
}

/// 32 well mixed bits for a cell of a lattice.
pub(super) fn lattice(seed: u64, x: i32, y: i32) -> u32 {
    let mut h = (seed as u32)
        ^ ((seed >> 32) as u32).rotate_left(9)
        ^ (x as u32).wrapping_mul(0x9e37_79b1)
        ^ (y as u32).wrapping_mul(0x85eb_ca77);
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// The greatest whole number not above `x`, without a call into the platform.
pub(super) fn floor(x: f32) -> i32 {
    let whole = x as i32;
    whole - i32::from(whole as f32 > x)
}

/// Bits to [-1, 1).
fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 / 8_388_608.0 - 1.0
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}
