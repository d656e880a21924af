//! What is worth a closer look, by estimates.

use std::ops::Range;

use super::bits::Bits;
use super::kernel::{Estimates, Kernel};
use super::layout::GROUP;
use super::probe::BitProbe;

/// Groups up to which each is looked at in one go.
const FEW: usize = 4;

/// Estimates of rows that may be among the closest.
pub(super) struct Shortlist {
    wanted: usize,
    /// By how much a row may be estimated below the last of the wanted ones.
    margin: f32,
    bar: f32,
    /// Rows held before the bar is looked at again.
    room: usize,
    pub(super) found: Vec<(f32, u32)>,
}

impl Shortlist {
    pub(super) fn new(wanted: usize, margin: f32) -> Self {
        let room = (4 * wanted).max(256);
        Self { wanted, margin, bar: f32::NEG_INFINITY, room, found: Vec::with_capacity(room) }
    }

    /// Looks at those of `rows` that `counts` says yes to. They are named from `first` on.
    #[inline]
    pub(super) fn scan(
        &mut self,
        kernel: Kernel,
        probe: &BitProbe,
        bits: &Bits,
        rows: Range<usize>,
        first: usize,
        counts: impl Fn(usize) -> bool,
    ) {
        let groups = rows.start / GROUP..rows.end.div_ceil(GROUP);
        let within = |row: usize| rows.contains(&(row - first)) && counts(row - first);
        let look_at = |list: &mut Self, group: usize| {
            let Estimates { values, peak } = bits.estimates(kernel, probe, group);
            list.offer_some(kernel, (&values, peak), first + group * GROUP, within);
        };
        if groups.len() < FEW || self.bar == f32::NEG_INFINITY {
            return groups.for_each(|group| look_at(self, group));
        }
        let peaks = bits.peaks(kernel, probe, groups.clone());
        for (group, peak) in groups.zip(peaks) {
            if peak >= self.bar {
                look_at(self, group);
            }
        }
    }

    /// Takes those of a group, of which the highest is `peak`, that `counts` says yes to. They are named from `first` on.
    #[inline]
    pub(super) fn offer_some(
        &mut self,
        kernel: Kernel,
        (values, peak): (&[f32; GROUP], f32),
        first: usize,
        counts: impl Fn(usize) -> bool,
    ) {
        if peak < self.bar {
            return;
        }
        for at in kernel.reaching(values, self.bar) {
            if counts(first + at) {
                self.offer(values[at], (first + at) as u32);
            }
        }
    }

    #[inline]
    pub(super) fn offer(&mut self, estimate: f32, row: u32) {
        if estimate >= self.bar {
            self.take(estimate, row);
        }
    }

    fn take(&mut self, estimate: f32, row: u32) {
        self.found.push((estimate, row));
        if self.found.len() >= self.room {
            self.raise();
            self.room = (2 * self.found.len()).max(self.room);
        }
    }

    /// Drops what is too far below the wanted ones.
    fn raise(&mut self) {
        if self.found.len() < self.wanted {
            return;
        }
        let best_first = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0);
        let (_, last, _) = self.found.select_nth_unstable_by(self.wanted - 1, best_first);
        self.bar = self.bar.max(last.0 - self.margin);
        let bar = self.bar;
        self.found.retain(|(estimate, _)| *estimate >= bar);
    }

    /// What is left.
    pub(super) fn close(mut self) -> Vec<(f32, u32)> {
        self.raise();
        self.found
    }
}

/// The `count` rows of the highest estimates.
pub(super) fn highest(
    kernel: Kernel,
    probe: &BitProbe,
    bits: &Bits,
    count: usize,
) -> impl Iterator<Item = u32> {
    let peaks = bits.peaks(kernel, probe, 0..bits.len().div_ceil(GROUP));
    // As many groups reach this, so as many rows do, but for those that fill up the last group.
    let bar = reached(&peaks[..bits.len() / GROUP], count);
    let mut list = Shortlist { bar, ..Shortlist::new(count, 0.0) };
    for (group, _) in (0..).zip(peaks).filter(|(_, peak)| *peak >= bar) {
        let Estimates { values, peak } = bits.estimates(kernel, probe, group);
        list.offer_some(kernel, (&values, peak), group * GROUP, |row| row < bits.len());
    }
    list.close().into_iter().map(|(_, row)| row)
}

/// What `count` of `values` reach; the least that there is where there are not so many.
pub(super) fn reached(values: &[f32], count: usize) -> f32 {
    let highest_first = |a: &f32, b: &f32| b.total_cmp(a);
    let (mut held, mut bar) = (Vec::with_capacity(2 * count), f32::MIN);
    for value in values {
        if *value > bar {
            held.push(*value);
            if held.len() == 2 * count {
                bar = *held.select_nth_unstable_by(count - 1, highest_first).1;
                held.truncate(count);
            }
        }
    }
    if held.len() < count {
        return bar;
    }
    *held.select_nth_unstable_by(count - 1, highest_first).1
}

#[cfg(test)]
mod tests {
    use super::super::encoder::Encoder;
    use super::super::signs::Signs;
    use super::*;
    use proptest::prelude::*;

    fn falling(mut values: Vec<f32>) -> Vec<f32> {
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        values
    }

    proptest! {
        #[test]
        fn so_many_values_reach_what_is_said(
            values in prop::collection::vec(-3_i8..30, 0..300),
            count in 1_usize..40,
        ) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let got = reached(&values, count);
            prop_assert_eq!(got, falling(values).get(count - 1).copied().unwrap_or(f32::MIN));
        }

        #[test]
        fn the_highest_are_found_wherever_they_lie(
            rows in prop::collection::vec(prop::array::uniform16(-1.0_f32..1.0), 1..300),
            query in prop::array::uniform16(-1.0_f32..1.0),
            count in 1_usize..40,
        ) {
            let (kernel, encoder) = (Kernel::new(), Encoder::unfitted(16));
            let signs: Vec<Signs> = rows.iter().map(|row| Signs::new(kernel, &encoder, row)).collect();
            let bits = Bits::of(16, signs.iter());
            let probe = BitProbe::new(kernel, &encoder, &query);
            let estimate = |row: usize| bits.estimates(kernel, &probe, row / GROUP).values[row % GROUP];
            let mut all = falling((0..rows.len()).map(estimate).collect());
            all.truncate(count);
            let found: Vec<usize> = highest(kernel, &probe, &bits, count).map(|row| row as usize).collect();
            prop_assert!(found.iter().all(|row| *row < rows.len()));
            prop_assert_eq!(falling(found.into_iter().map(estimate).collect()), all);
        }
    }
}
