//! How many bits differ, or are shared.

use super::Portable;
use crate::gallery::index::layout::GROUP;

/// Bits of a word.
pub(in crate::gallery::index) const WORD: usize = u32::BITS as usize;
/// Bits that a value of a probe is given.
pub(in crate::gallery::index) const PLANES: usize = 4;

/// A bit of each of a probe's values in every plane, 64 values at a time.
pub(in crate::gallery::index) type Planes = [u64; PLANES];
/// A word of each of a group's rows.
pub(in crate::gallery::index) type Words = [u32; GROUP];

/// An instruction set that bits are counted by. All give the same.
pub(in crate::gallery::index) trait Hamming: Copy {
    /// In how many bits each of a group's rows differs from the probe.
    fn distances(self, group: &[Words], probe: &[u32]) -> [u32; GROUP];

    /// Which are no more than `bar`, a bit each.
    fn within(self, distances: &[u32; GROUP], bar: u32) -> u32;

    /// How many bits row `at` of a group shares with each plane.
    fn shared(self, group: &[Words], at: usize, planes: &[Planes]) -> Planes;
}

impl Hamming for Portable {
    #[inline]
    fn distances(self, group: &[Words], probe: &[u32]) -> [u32; GROUP] {
        let mut distances = [0; GROUP];
        for (words, probe) in group.iter().zip(probe) {
            for (distance, word) in distances.iter_mut().zip(words) {
                *distance += (word ^ probe).count_ones();
            }
        }
        distances
    }

    #[inline]
    fn within(self, distances: &[u32; GROUP], bar: u32) -> u32 {
        distances.iter().rev().fold(0, |bits, distance| bits << 1 | u32::from(*distance <= bar))
    }

    #[inline]
    fn shared(self, group: &[Words], at: usize, planes: &[Planes]) -> Planes {
        let mut shared = [0; PLANES];
        for (word, planes) in long_words(group, at).zip(planes) {
            for (shared, plane) in shared.iter_mut().zip(planes) {
                *shared += u64::from((word & plane).count_ones());
            }
        }
        shared
    }
}

/// A row's words, two at a time.
#[inline(always)]
pub(super) fn long_words(group: &[Words], at: usize) -> impl Iterator<Item = u64> {
    let pairs = group.as_chunks::<2>().0.iter();
    pairs.map(move |[low, high]| u64::from(low[at]) | u64::from(high[at]) << WORD)
}

/// Work that counts bits, whatever by.
pub(in crate::gallery::index) trait Count {
    type Output;

    /// Must be inlined.
    fn by(self, hamming: impl Hamming) -> Self::Output;
}
