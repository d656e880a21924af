//! Sums of what tables have at the nibbles of a group's rows, and what those say of each row.

use super::Portable;
use crate::gallery::index::layout::{GROUP, Nibbles};

/// Nibbles of a group, and as many tables to look them up in.
pub(in crate::gallery::index) type LookUps<'a> = (&'a [Nibbles], &'a [[u8; 32]]);

/// Highest entry of a table.
pub(in crate::gallery::index) const HIGHEST: u8 = 63;
/// Look-ups that fit a byte together.
pub(super) const TOGETHER: usize = u8::MAX as usize / HIGHEST as usize;

/// What a group's rows are estimated by: `base + alpha * (step * sum + offset)` of each, where its sum is that of tables at its nibbles.
/// No entry of a table exceeds [`HIGHEST`], and no sum 16 bits.
#[derive(Debug, Clone, Copy)]
pub(in crate::gallery::index) struct Group<'a> {
    pub(in crate::gallery::index) parts: [LookUps<'a>; 2],
    pub(in crate::gallery::index) step: f32,
    pub(in crate::gallery::index) offset: f32,
    pub(in crate::gallery::index) alphas: &'a [f32; GROUP],
    pub(in crate::gallery::index) bases: &'a [f32; GROUP],
}

/// Estimates of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::gallery::index) struct Estimates {
    pub(in crate::gallery::index) values: [f32; GROUP],
    /// The highest.
    pub(in crate::gallery::index) peak: f32,
}

/// An instruction set that look-ups are written for. All give the same bits.
pub(super) trait LookUp: Copy {
    fn estimate(self, group: &Group<'_>) -> Estimates;

    /// Which values are not below `bar`, a bit each.
    fn reaching(self, values: &[f32; GROUP], bar: f32) -> u32;
}

impl LookUp for Portable {
    #[inline]
    fn estimate(self, group: &Group<'_>) -> Estimates {
        let mut sums = [0_u16; GROUP];
        let parts = group.parts.into_iter();
        for (bits, table) in parts.flat_map(|(bits, tables)| bits.iter().zip(tables)) {
            for at in 0..GROUP / 2 {
                for (half, table) in table.as_chunks::<16>().0.iter().enumerate() {
                    let both = bits[16 * half + at];
                    sums[at] += u16::from(table[usize::from(both & 15)]);
                    sums[at + 16] += u16::from(table[usize::from(both >> 4)]);
                }
            }
        }
        let Group { step, offset, alphas, bases, .. } = group;
        let values: [f32; GROUP] = std::array::from_fn(|at| {
            bases[at] + alphas[at] * (step * f32::from(sums[at]) + offset)
        });
        Estimates { values, peak: values.into_iter().fold(f32::NEG_INFINITY, f32::max) }
    }

    #[inline]
    fn reaching(self, values: &[f32; GROUP], bar: f32) -> u32 {
        values.iter().rev().fold(0, |bits, value| bits << 1 | u32::from(*value >= bar))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kernel;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn looking_up_many_at_once_gives_what_one_by_one_gives(
            pairs in prop::collection::vec((any::<[u8; 32]>(), prop::array::uniform32(0..=HIGHEST)), 0..129),
            rows in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), GROUP),
        ) {
            let (bits, tables): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let alphas = std::array::from_fn(|at| rows[at].0);
            let bases = std::array::from_fn(|at| rows[at].1);
            let group = |parts| Group { parts, step: 0.5, offset: -9.0, alphas: &alphas, bases: &bases };
            let whole = group([(&*bits, &*tables), (&[], &[])]);
            let (head, rest) = (bits.split_at(bits.len() / 3), tables.split_at(bits.len() / 3));
            let halves = group([(head.0, rest.0), (head.1, rest.1)]);
            let slowly = Portable.estimate(&whole);
            for kernel in Kernel::every() {
                prop_assert_eq!(kernel.estimate(&whole), slowly, "{:?}", kernel);
                prop_assert_eq!(kernel.estimate(&halves), slowly, "{:?}", kernel);
                let (mut values, mut peaks) = (Vec::new(), Vec::new());
                kernel.estimate_all(0..2, |at| [whole, halves][at], &mut values, &mut peaks);
                kernel.peaks(0..2, |at| [whole, halves][at], &mut peaks);
                prop_assert_eq!((values, peaks), (vec![slowly.values; 2], vec![slowly.peak; 4]));
            }
        }
    }
}
