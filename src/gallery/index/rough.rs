//! Scans of bits.
//!
//! A bit a value, looked up for 32 rows at a time, costs a few nanoseconds a row, where an exact scan reads eight times as
//! much. How far such an estimate is off is known on average only (`BitProbe::deviation`): rows that would have to be further off
//! than almost any is are left out, and the others are scored as in an exact scan. So the work follows the question. Where a probe has
//! mates that stand out, few rows are left; where all are about as far away, many; and where too many are, an exact scan is faster.

use std::ops::Range;

use rayon::prelude::*;

use super::Snapshot;
use super::codes::{BitProbe, Bits, GROUP};
use super::kernel::Kernel;
use super::rows::BLOCK;
use super::scan::{CodedProbe, Score};

/// Rows that one thread scans before it looks for more work: about a millisecond.
const ROWS_A_TASK: usize = 8_192 * BLOCK;

/// Of so many rows one may be left: scores of more take longer than an exact scan, which reads row after row.
const ONE_IN: usize = 16;

/// Estimates of rows that may be among the closest.
pub(super) struct Shortlist {
    wanted: usize,
    /// By how much a row may be estimated below the last of the wanted ones.
    margin: f32,
    bar: f32,
    /// Rows held before the bar is looked at again.
    room: usize,
    found: Vec<(f32, u32)>,
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
            let (estimates, passing) = bits.estimates(kernel, probe, group, self.bar);
            let within = |row: usize| rows.contains(&(row - first)) && counts(row - first);
            self.offer_some(&estimates, passing, first + group * GROUP, within);
        }
    }

    /// Takes those of a group whose bit is set and that `counts` says yes to. They are named from `first` on.
    #[inline]
    fn offer_some(
        &mut self,
        estimates: &[f32; GROUP],
        mut passing: u32,
        first: usize,
        counts: impl Fn(usize) -> bool,
    ) {
        while passing != 0 {
            let at = passing.trailing_zeros() as usize;
            passing &= passing - 1;
            if counts(first + at) {
                self.offer(estimates[at], (first + at) as u32);
            }
        }
    }

    fn offer(&mut self, estimate: f32, row: u32) {
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

/// Estimates of rows in a row.
struct Estimated {
    rows: Range<usize>,
    estimates: Vec<f32>,
    best: Vec<(f32, u32)>,
}

/// One question to a snapshot's bits.
struct Search<'a> {
    snapshot: &'a Snapshot,
    probe: BitProbe,
    wanted: usize,
    margin: f32,
}

impl Search<'_> {
    /// Looks at `rows`, whichever blocks they lie in.
    fn scan(&self, list: &mut Shortlist, rows: Range<usize>) {
        let blocks = &self.snapshot.rows.blocks;
        let mut first = rows.start / BLOCK * BLOCK;
        while first < rows.end {
            let block = &blocks[first / BLOCK];
            let within = rows.start.saturating_sub(first)..(rows.end - first).min(block.len());
            let counts = |at| block.is_live(at);
            list.scan(self.snapshot.kernel, &self.probe, &block.codes.bits, within, first, counts);
            first += BLOCK;
        }
    }

    fn list(&self) -> Shortlist {
        Shortlist::new(self.wanted, self.margin)
    }

    /// Estimates of `rows`, and the best of them.
    fn estimate(&self, rows: Range<usize>) -> Estimated {
        let snapshot = self.snapshot;
        let mut best = Shortlist::new(self.wanted, 0.0);
        let mut estimates = Vec::with_capacity(rows.len().next_multiple_of(GROUP));
        for (first, block) in
            rows.clone().step_by(BLOCK).zip(&snapshot.rows.blocks[rows.start / BLOCK..])
        {
            let (some, passing) =
                block.codes.bits.estimates(snapshot.kernel, &self.probe, 0, best.bar);
            estimates.extend_from_slice(&some);
            best.offer_some(&some, passing, first, |row| block.is_live(row - first));
        }
        Estimated { rows, estimates, best: best.close() }
    }

    /// What is not too far below the best of all. They are known only when all were looked at, so estimates are kept until then.
    /// `None` where too much is left to be worth it.
    fn everything(&self) -> Option<Vec<(f32, u32)>> {
        let rows = self.snapshot.rows.len();
        let task =
            |task: usize| self.estimate(task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(rows));
        let tasks = rows.div_ceil(ROWS_A_TASK);
        let estimated: Vec<Estimated> = if tasks > 1 {
            (0..tasks).into_par_iter().map(task).collect()
        } else {
            (0..tasks).map(task).collect()
        };
        let mut best = self.list();
        best.found = estimated.iter().flat_map(|part| part.best.iter().copied()).collect();
        best.raise();
        let mut left = Vec::new();
        for part in &estimated {
            self.pick(part, best.bar, &mut left);
            if left.len() > rows / ONE_IN + 4 * self.wanted {
                return None;
            }
        }
        Some(left)
    }

    /// Adds those of `part` that are not below `bar`.
    fn pick(&self, part: &Estimated, bar: f32, left: &mut Vec<(f32, u32)>) {
        for (first, group) in part.rows.clone().step_by(GROUP).zip(part.estimates.chunks(GROUP)) {
            // Looking for any first lets the compiler compare many at once.
            if !group.iter().fold(false, |any, estimate| any | (*estimate >= bar)) {
                continue;
            }
            for (row, estimate) in (first..part.rows.end).zip(group) {
                let (block, at) = self.snapshot.rows.place(row as u32);
                if *estimate >= bar && block.is_live(at) {
                    left.push((*estimate, row as u32));
                }
            }
        }
    }

    /// `None` where there are no lists, or too little in those that are close.
    fn nearest_lists(&self, query: &[f32]) -> Option<Vec<(f32, u32)>> {
        let Snapshot { rows, lists, kernel, .. } = self.snapshot;
        let lists = lists.as_ref()?;
        let mut list = self.list();
        let probe = (query, &self.probe);
        let mut seen = 0;
        for near in lists.near(*kernel, &rows.encoder, probe, self.snapshot.lists_searched) {
            seen += near.len();
            self.scan(&mut list, near);
        }
        self.scan(&mut list, lists.covered()..rows.len());
        (seen >= 2 * self.wanted && list.found.len() >= self.wanted).then(|| list.close())
    }
}

/// Scores of the rows that may be among the `wanted` closest, which are at least one. `None` where an exact scan is faster.
pub(super) fn scores(snapshot: &Snapshot, query: &[f32], wanted: usize) -> Option<Vec<Score>> {
    if wanted == 0 || wanted > snapshot.rows.live() / ONE_IN {
        return None;
    }
    let Snapshot { rows, kernel, certainty, .. } = snapshot;
    let probe = BitProbe::new(*kernel, &rows.encoder, query);
    let margin = certainty * probe.deviation * rows.usual_error();
    let search = Search { snapshot, probe, wanted, margin };
    let found = search.nearest_lists(query).or_else(|| search.everything())?;
    let coded = CodedProbe::new(*kernel, query);
    let score = |(_, row): (f32, u32)| {
        let (block, at) = rows.place(row);
        coded.score(snapshot, block, (row as usize - at, at))
    };
    Some(found.into_iter().map(score).collect())
}
