//! What bits are compared with.

use super::encoder::Encoder;
use super::kernel::{HIGHEST, Kernel};
use super::layout::{NIBBLE, head, pairs, share};

/// A probe, ready to be compared with bits.
#[derive(Debug)]
pub(super) struct BitProbe {
    /// For two nibbles each: what every nibble adds, in steps, from the least that any can.
    pub(super) tables: Vec<[u8; 32]>,
    pub(super) step: f32,
    pub(super) offset: f32,
    /// The part of it that the first values have.
    pub(super) head_offset: f32,
    /// [`share`] of its values.
    pub(super) share: f32,
    /// Standard deviation of an estimate from a row whose bits leave out 1.
    deviation: f32,
    /// What rounding the tables' entries adds to it at most, with rows of length 1.
    rounding: f32,
}

impl BitProbe {
    /// query: `[dim]`.
    pub(super) fn new(kernel: Kernel, encoder: &Encoder, query: &[f32]) -> Self {
        let turned = encoder.turned(kernel, query);
        let dim = turned.len();
        // The sum of all look-ups fits 16 bits.
        let fits = usize::from(u16::MAX) / dim.div_ceil(NIBBLE).max(1);
        let most = fits.min(usize::from(HIGHEST)) as f32;
        let reach = |four: &[f32]| four.iter().map(|value| value.abs()).sum::<f32>();
        let widest = turned.chunks(NIBBLE).map(reach).fold(0.0_f32, f32::max);
        let step = (2.0 * widest / most).max(f32::MIN_POSITIVE);
        let tables = kernel.widest(
            #[inline(always)]
            || tables(&turned, step),
        );
        let offset = |of: &[f32]| -of.chunks(NIBBLE).map(reach).sum::<f32>();
        let length = turned.iter().map(|value| value * value).sum::<f32>().sqrt();
        Self {
            tables,
            step,
            offset: offset(&turned),
            head_offset: offset(&turned[..2 * NIBBLE * head(dim)]),
            share: share(dim),
            deviation: length / (dim.max(1) as f32).sqrt(),
            // Each of `dim / 4` entries is off by `step / sqrt(12)`, and a row's sum is multiplied with `sqrt(pi / 2 / dim)`.
            rounding: step * (std::f32::consts::FRAC_PI_2 / 48.0 / share(dim)).sqrt(),
        }
    }

    /// Standard deviation of an estimate from a row, of which bits leave out `error`.
    pub(super) fn deviation(&self, error: f32) -> f32 {
        (self.deviation * error).hypot(self.rounding)
    }
}

/// What every nibble of signs adds for each four values, in steps, from the least that any can.
#[inline(always)]
fn tables(turned: &[f32], step: f32) -> Vec<[u8; 32]> {
    /// Added to a small number, it leaves the nearest whole one in the lowest bits.
    const ROUND: f32 = 8_388_608.0;
    /// For each bit of a nibble, which of all nibbles have it.
    const SET: [[f32; 16]; NIBBLE] = {
        let mut set = [[0.0; 16]; NIBBLE];
        let mut at = 0;
        while at < 16 * NIBBLE {
            set[at / 16][at % 16] = (((at % 16) >> (at / 16)) & 1) as f32;
            at += 1;
        }
        set
    };
    let mut tables = vec![[0; 32]; pairs(turned.len())];
    for (eight, table) in turned.chunks(2 * NIBBLE).zip(&mut tables) {
        for (four, entries) in eight.chunks(NIBBLE).zip(table.as_chunks_mut::<16>().0) {
            let mut sums = [0.0; 16];
            for (at, value) in four.iter().enumerate() {
                // Counted where the sign is the value's: the bit is set for a positive one.
                let steps = 2.0 * value / step;
                let (set, unset) = (steps.max(0.0), (-steps).max(0.0));
                for (sum, is_set) in sums.iter_mut().zip(&SET[at]) {
                    *sum += is_set * set + (1.0 - is_set) * unset;
                }
            }
            for (entry, sum) in entries.iter_mut().zip(sums) {
                *entry = (sum + ROUND).to_bits() as u8;
            }
        }
    }
    tables
}
