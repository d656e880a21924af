//! Where a walk begins, besides the graph's one entry.
//!
//! A cluster of templates unlike all others is linked to by a few hundred nodes that are hardly closer
//! to it than any: whether a walk meets one of them is chance, and in half a per cent of walks it met
//! none. So every few rows are scanned first, a bit a value: too coarse to rank what is much alike, and
//! enough to see what stands out.

use super::kernel::Kernel;

/// Rows from one pivot to the next. Rows lie in the order of enrolment, so a person's lie together, and
/// most people of some samples have a pivot.
const STRIDE: usize = 4;
/// Pivots, at most: larger graphs have a longer stride, so that the scan stays a fraction of a walk.
const MOST: usize = 32_768;
/// Pivots that a walk begins at.
const STARTS: usize = 16;

/// Every so many nodes of a graph, in bits. Derived from their codes, and not saved.
#[derive(Debug, Clone, Default)]
pub(super) struct Pivots {
    stride: usize,
    /// `[dim]`: a value's bit says whether it is over this, the mean of the pivots. Templates of one model
    /// share a large part, in which they do not differ.
    means: Vec<f32>,
    /// `[pivots, dim / 64]`, rounded up.
    bits: Vec<u64>,
}

impl Pivots {
    /// codes: `[nodes, dim]`; scales: `[nodes]`, what a code is to be multiplied by.
    pub(super) fn new(dim: usize, codes: &[i8], scales: &[f32]) -> Self {
        let stride = scales.len().div_ceil(MOST).max(STRIDE);
        let values: Vec<Vec<f32>> = codes
            .chunks_exact(dim.max(1))
            .zip(scales)
            .step_by(stride)
            .map(|(code, scale)| code.iter().map(|value| f32::from(*value) * scale).collect())
            .collect();
        let mut means = vec![0.0_f32; dim];
        for row in &values {
            means.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
        }
        means.iter_mut().for_each(|mean| *mean /= values.len().max(1) as f32);
        let bits = values.iter().flat_map(|row| packed(row, &means)).collect();
        Self { stride, means, bits }
    }

    /// The nodes to begin at when `query`, of unit length, is looked for.
    pub(super) fn starts(&self, kernel: Kernel, query: &[f32]) -> impl Iterator<Item = u32> {
        let query: Vec<u64> = packed(query, &self.means).collect();
        let closest = kernel.closest_bits(&self.bits, &query, STARTS);
        closest.into_iter().map(|pivot| (pivot * self.stride) as u32)
    }
}

fn packed<'a>(values: &'a [f32], means: &'a [f32]) -> impl Iterator<Item = u64> + 'a {
    values.chunks(64).zip(means.chunks(64)).map(|(values, means)| {
        let over = values.iter().zip(means).enumerate().filter(|(_, (value, mean))| value > mean);
        over.fold(0, |word, (at, _)| word | 1 << at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five clusters of four, each but the first with one value that no other has.
    #[test]
    fn a_walk_begins_at_what_stands_out_whatever_all_have_in_common() {
        let dim = 70;
        let row = |cluster: usize| (0..dim).map(move |at| if at % 5 == cluster { 90 } else { 80 });
        let codes: Vec<i8> = (0..20).flat_map(|node| row(node / 4)).collect();
        let pivots = Pivots::new(dim, &codes, &[0.001; 20]);
        assert_eq!(pivots.bits.len(), 10);
        for cluster in 0..5 {
            let query: Vec<f32> = row(cluster).map(|value| f32::from(value) * 0.001).collect();
            let starts: Vec<u32> = pivots.starts(Kernel::new(), &query).collect();
            assert_eq!((starts.len(), starts[0]), (5, cluster as u32 * 4));
        }
        assert_eq!(Pivots::new(0, &[], &[]).starts(Kernel::new(), &[]).count(), 0);
    }
}
