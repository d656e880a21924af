//! What bits are compared with.

use super::encoder::Encoder;
use super::kernel::{HIGHEST, Kernel, largest};
use super::layout::{NIBBLE, head, pairs, share};

/// A probe, ready to be compared with bits.
#[derive(Debug)]
pub(super) struct BitProbe {
    /// What is compared: the probe's way from the mean, turned.
    pub(super) turned: Vec<f32>,
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
        let (reaches, widest) = kernel.widest(
            #[inline(always)]
            || {
                let reaches = reaches(&turned);
                let widest = largest(&reaches);
                (reaches, widest)
            },
        );
        let step = (2.0 * widest / most).max(f32::MIN_POSITIVE);
        let tables = kernel.widest(
            #[inline(always)]
            || tables(&turned, step),
        );
        let (of_head, of_rest) = reaches.split_at(2 * head(dim));
        let head_offset = -of_head.iter().sum::<f32>();
        Self {
            tables,
            step,
            offset: head_offset - of_rest.iter().sum::<f32>(),
            head_offset,
            share: share(dim),
            deviation: (kernel.dot(&turned, &turned) / dim.max(1) as f32).sqrt(),
            turned,
            // Each of `dim / 4` entries is off by `step / sqrt(12)`, and a row's sum is multiplied with `sqrt(pi / 2 / dim)`.
            rounding: step * (std::f32::consts::FRAC_PI_2 / 48.0 / share(dim)).sqrt(),
        }
    }

    /// Standard deviation of an estimate from a row, of which bits leave out `error`.
    pub(super) fn deviation(&self, error: f32) -> f32 {
        (self.deviation * error).hypot(self.rounding)
    }
}

/// How much each four values add at most: their magnitudes.
#[inline(always)]
fn reaches(turned: &[f32]) -> Vec<f32> {
    let (fours, last) = turned.as_chunks::<NIBBLE>();
    let reach = |[a, b, c, d]: &[f32; NIBBLE]| (a.abs() + b.abs()) + (c.abs() + d.abs());
    let mut reaches: Vec<f32> = fours.iter().map(reach).collect();
    if !last.is_empty() {
        reaches.push(last.iter().map(|value| value.abs()).sum());
    }
    reaches
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
    let steps = 2.0 / step;
    let mut tables = vec![[0; 32]; pairs(turned.len())];
    for (four, entries) in
        turned.chunks(NIBBLE).zip(tables.as_flattened_mut().as_chunks_mut::<16>().0)
    {
        // Counted where the sign is the value's: the bit is set for a positive one.
        let mut sums = [0.0; 16];
        for (value, is_set) in four.iter().zip(&SET) {
            let more = value * steps;
            let unset = (-more).max(0.0);
            for (sum, is_set) in sums.iter_mut().zip(is_set) {
                *sum += unset + is_set * more;
            }
        }
        for (entry, sum) in entries.iter_mut().zip(sums) {
            *entry = (sum + ROUND).to_bits() as u8;
        }
    }
    tables
}
