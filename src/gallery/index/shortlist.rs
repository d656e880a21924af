//! What is worth a closer look, by estimates.

use std::ops::Range;

use super::bits::Bits;
use super::kernel::{Estimates, Kernel};
use super::layout::GROUP;
use super::probe::BitProbe;

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
        for group in rows.start / GROUP..rows.end.div_ceil(GROUP) {
            let Estimates { values, peak } = bits.estimates(kernel, probe, group);
            let within = |row: usize| rows.contains(&(row - first)) && counts(row - first);
            self.offer_some(kernel, (&values, peak), first + group * GROUP, within);
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

    pub(super) fn offer(&mut self, estimate: f32, row: u32) {
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
