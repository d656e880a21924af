//! How a template is turned before it becomes bits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::kernel::Kernel;

/// Rounds of mixing: two spread any one value over all, two more do so where the length is no power of two.
const ROUNDS: u64 = 4;
/// Rows that a mean is of at most, at equal steps: the mean of all lies about a two-hundredth of a template's spread away.
const SUMMED: usize = 1 << 15;
/// Rows that one thread sums up before it looks for more work.
const SUMMED_AT_ONCE: usize = 2_048;

/// Turns templates about their mean, so that signs say as much as they can: templates of one model share a large
/// part, in which they do not differ, and a few of their values are larger than all others. A turn of a random kind
/// makes the values alike and keeps every product (Gao and Long, "RaBitQ", SIGMOD 2024).
#[derive(Debug)]
pub(super) struct Encoder {
    /// `[dim]`.
    pub(super) mean: Vec<f32>,
    /// `[ROUNDS, dim]` of 1 and -1; the same for every gallery of templates this long.
    signs: Vec<Vec<f32>>,
    /// Templates that the mean is of.
    pub(super) fitted_on: usize,
}

impl Encoder {
    /// About the origin, for a gallery that is still too small to need bits.
    pub(super) fn unfitted(dim: usize) -> Self {
        Self::about(vec![0.0; dim], 0)
    }

    /// About the mean of `count` rows, of which `row` gives the values, `[dim]` each, or of so many of them that more would not move it.
    /// The same however many threads the pool has.
    pub(super) fn fitted(dim: usize, count: usize, row: impl Fn(usize) -> Vec<f32> + Sync) -> Self {
        let each = count.div_ceil(SUMMED).max(1);
        let summed = count.div_ceil(each);
        let sum = |first: usize| {
            let mut sums = vec![0.0_f64; dim];
            for at in first..(first + SUMMED_AT_ONCE).min(summed) {
                let values = row(at * each);
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
            }
            sums
        };
        let parts: Vec<Vec<f64>> =
            (0..summed).into_par_iter().step_by(SUMMED_AT_ONCE).map(sum).collect();
        let mean = |at: usize| {
            let sum: f64 = parts.iter().map(|part| part[at]).sum();
            (sum / f64::max(1.0, summed as f64)) as f32
        };
        Self::about((0..dim).map(mean).collect(), count)
    }

    fn about(mean: Vec<f32>, fitted_on: usize) -> Self {
        let dim = mean.len();
        let signs = (0..ROUNDS).map(|round| signs(round, dim)).collect();
        Self { mean, signs, fitted_on }
    }

    /// What `values` are more than the mean.
    pub(super) fn centred(&self, values: &[f32]) -> Vec<f32> {
        values.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect()
    }

    /// The same, turned. Any two keep their product and their lengths.
    pub(super) fn turned(&self, kernel: Kernel, values: &[f32]) -> Vec<f32> {
        self.turn(kernel, self.centred(values))
    }

    /// The same of a way from the mean.
    pub(super) fn turn(&self, kernel: Kernel, mut way: Vec<f32>) -> Vec<f32> {
        // The whole where its length is a power of two, its beginning and its end in turn elsewhere.
        let dim = way.len();
        let part = (dim + 1).next_power_of_two() / 2;
        for (round, signs) in self.signs.iter().enumerate() {
            let first = if round.is_multiple_of(2) { 0 } else { dim - part };
            kernel.mix(&mut way, signs, first..first + part);
        }
        way
    }
}

/// The same 1s and -1s on every machine.
fn signs(round: u64, dim: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(round);
    (0..dim).map(|_| if rng.random() { 1.0 } else { -1.0 }).collect()
}
