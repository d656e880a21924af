//! The bits of a gallery's rows, as they lie in memory.
//!
//! A scan reads nothing else, so they lie apart from templates and in long runs: 100,000 rows of 512 values whose bits lay between templates,
//! 32 rows at a time, took 2.2 ms from memory, and 0.4 in runs as long as these. New rows lie in short ones that are cheap to copy, until
//! there are enough for a long one.

use std::ops::Range;
use std::sync::Arc;

use super::bits::{Bits, SecondBits};
use super::layout::GROUP;
use super::signs::Signs;

/// Groups of a long run.
const GROUPS: usize = 64;
/// Rows of a long run.
pub(super) const RUN: usize = GROUPS * GROUP;

/// Rows that lie in one piece.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) bits: Bits,
    pub(super) second: SecondBits,
}

impl Run {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        Self { bits: Bits::in_steps(dim, rows), second: SecondBits::new(dim, rows) }
    }

    pub(super) fn push(&mut self, row: &Signs) {
        self.bits.push(row);
        self.second.push(&row.second);
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        self.bits.wipe(row);
        self.second.wipe(row);
    }

    fn append(&mut self, other: &Self) {
        self.bits.append(&other.bits);
        self.second.append(&other.second);
    }

    fn bytes(&self) -> usize {
        self.bits.bytes() + self.second.bytes()
    }
}

/// Every row's bits, in the order in which they were added. Cloning copies pointers.
#[derive(Debug, Clone)]
pub(super) struct Planes {
    dim: usize,
    /// [`RUN`] rows each.
    long: Vec<Arc<Run>>,
    /// Those behind them, a group each.
    short: Vec<Arc<Run>>,
}

impl Planes {
    pub(super) fn new(dim: usize) -> Self {
        Self { dim, long: Vec::new(), short: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        let long = self.long.first().map_or(0, |run| run.bytes());
        self.long.len() * long + self.short.iter().map(|run| run.bytes()).sum::<usize>()
    }

    pub(super) fn push(&mut self, row: &Signs) {
        let full = |run: &Arc<Run>| run.bits.len() == GROUP;
        if self.short.last().is_none_or(full) {
            self.short.push(Arc::new(Run::new(self.dim, GROUP)));
        }
        if let Some(run) = self.short.last_mut() {
            Arc::make_mut(run).push(row);
        }
        if self.short.len() == GROUPS && self.short.last().is_some_and(full) {
            let mut run = Run::new(self.dim, RUN);
            self.short.drain(..).for_each(|short| run.append(&short));
            self.long.push(Arc::new(run));
        }
    }

    /// Adds [`RUN`] rows behind as many or none.
    pub(super) fn push_run(&mut self, run: Run) {
        debug_assert!(self.short.is_empty() && run.bits.len() == RUN, "rows would change places");
        self.long.push(Arc::new(run));
    }

    /// Overwrites a row with zeros.
    pub(super) fn wipe(&mut self, row: usize) {
        let (long, at) = (row / RUN, row % RUN);
        match self.long.get_mut(long) {
            Some(run) => Arc::make_mut(run).wipe(at),
            None => Arc::make_mut(&mut self.short[at / GROUP]).wipe(at % GROUP),
        }
    }

    /// Whether first bits are read in two steps.
    pub(super) fn have_steps(&self) -> bool {
        let any = self.long.first().or_else(|| self.short.first());
        any.is_some_and(|run| run.bits.have_steps())
    }

    /// The run that a group lies in, and its place there.
    #[inline]
    pub(super) fn group(&self, group: usize) -> (&Run, usize) {
        let (long, at) = (group / GROUPS, group % GROUPS);
        match self.long.get(long) {
            Some(run) => (run, at),
            None => (&self.short[at], 0),
        }
    }

    /// The runs that `rows` lie in: each with its first row, and with those of its own rows that are meant.
    pub(super) fn runs(
        &self,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (&Run, usize, Range<usize>)> {
        let mut at = rows.start;
        std::iter::from_fn(move || {
            let (run, group) = (at < rows.end).then(|| self.group(at / GROUP))?;
            let first = (at / GROUP - group) * GROUP;
            let within = at - first..(rows.end - first).min(run.bits.len());
            at = first + within.end;
            Some((run, first, within))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoder::Encoder;
    use super::super::kernel::Kernel;
    use super::super::probe::BitProbe;
    use super::*;

    /// Every row by itself.
    fn signs(count: usize) -> (Encoder, Vec<Signs>) {
        let (kernel, encoder) = (Kernel::new(), Encoder::unfitted(3));
        let row = |at: usize| [1.0 + at as f32, 0.5, -(at as f32)];
        let signs = (0..count).map(|at| Signs::new(kernel, &encoder, &row(at))).collect();
        (encoder, signs)
    }

    #[test]
    fn rows_keep_their_places_however_they_were_added() {
        let rows = RUN + 3 * GROUP + 5;
        let (encoder, signs) = signs(rows);
        let mut one_by_one = Planes::new(3);
        signs.iter().for_each(|row| one_by_one.push(row));
        let mut at_once = Planes::new(3);
        let mut run = Run::new(3, RUN);
        signs[..RUN].iter().for_each(|row| run.push(row));
        at_once.push_run(run);
        signs[RUN..].iter().for_each(|row| at_once.push(row));
        assert_eq!((one_by_one.long.len(), one_by_one.short.len()), (1, 4));
        assert_eq!(one_by_one.bytes(), at_once.bytes());

        let before = one_by_one.clone();
        let gone = [7, RUN - 1, RUN, rows - 1];
        gone.iter().for_each(|row| one_by_one.wipe(*row));
        let kernel = Kernel::new();
        let probe = BitProbe::new(kernel, &encoder, &[0.3, -0.1, 0.9]);
        for row in 0..rows {
            let estimate = |planes: &Planes| {
                let (run, group) = planes.group(row / GROUP);
                let rough = run.bits.estimates(kernel, &probe, group).values;
                let both = run.second.refine(kernel, &probe, group, (&run.bits, &rough)).values;
                (rough[row % GROUP], both[row % GROUP])
            };
            let expected = if gone.contains(&row) { (0.0, 0.0) } else { estimate(&at_once) };
            assert_eq!(estimate(&one_by_one), expected, "{row}");
            assert_eq!(estimate(&before), estimate(&at_once), "{row}: a search sees what it saw");
        }
    }

    #[test]
    fn runs_cover_a_range_once() {
        let rows = 2 * RUN + 3 * GROUP + 5;
        let (_, signs) = signs(rows);
        let mut planes = Planes::new(3);
        signs.iter().for_each(|row| planes.push(row));
        for range in [0..rows, 5..6, RUN - 1..RUN + 1, 40..2 * RUN + 70, rows - 1..rows, 9..9] {
            let mut covered = Vec::new();
            for (run, first, within) in planes.runs(range.clone()) {
                for at in within {
                    let (of, group) = planes.group((first + at) / GROUP);
                    assert!(std::ptr::eq(of, run) && group * GROUP + at % GROUP == at);
                    covered.push(first + at);
                }
            }
            assert_eq!(covered, range.collect::<Vec<_>>());
        }
    }
}
