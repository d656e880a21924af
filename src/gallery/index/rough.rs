//! Scans of bits.
//!
//! A bit a value, looked up for 32 rows at a time, costs a few nanoseconds a row, where an exact scan reads eight times as
//! much. How far such an estimate is off is known on average only (`BitProbe::deviation`): rows that would have to be further off
//! than almost any is are left out, and the others are scored as in an exact scan. So the work follows the question. Where a probe has
//! mates that stand out, few rows are left. Where all are about as far away, many are: a second bit is read then, which leaves a
//! third of the doubt. Where too many are left even so, an exact scan is faster.

use std::ops::Range;

use rayon::prelude::*;

use super::Snapshot;
use super::bits::{BitProbe, Bits, GROUP};
use super::kernel::Kernel;
use super::rows::{Admission, BLOCK};
use super::scan::{CodedProbe, Score};

/// Rows that one thread scans before it looks for more work: about a millisecond.
const ROWS_A_TASK: usize = 8_192 * BLOCK;

/// Of so many rows one may be left: scores of more take longer than an exact scan, which reads row after row.
const ONE_IN: usize = 16;
/// The same under a filter: most of what is left does not pass it, and is not scored.
const FILTERED_ONE_IN: usize = 8;
/// Of so many rows one may be left by their first bits: scores of more take longer than to read the second, and leave fewer.
const FIRST_ONE_IN: usize = 64;

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
    admission: &'a Admission<'a>,
    probe: BitProbe,
    wanted: usize,
    /// By how much a row may be estimated below the last of the wanted ones, by its first bits, and by both.
    margins: [f32; 2],
}

impl Search<'_> {
    /// Looks at `rows`, whichever runs they lie in.
    fn scan(&self, list: &mut Shortlist, rows: Range<usize>) {
        for (run, first, within) in self.snapshot.rows.planes.runs(rows) {
            let counts = |at| self.admits(first + at);
            list.scan(self.snapshot.kernel, &self.probe, &run.bits, within, first, counts);
        }
    }

    fn admits(&self, row: usize) -> bool {
        let (block, at) = self.snapshot.rows.place(row as u32);
        self.admission.admits(block, at)
    }

    /// Estimates of `rows`, and the best of them.
    fn estimate(&self, rows: Range<usize>) -> Estimated {
        let mut best = Shortlist::new(self.wanted, 0.0);
        let mut estimates = Vec::with_capacity(rows.len().next_multiple_of(GROUP));
        for group in rows.start / GROUP..rows.end.div_ceil(GROUP) {
            let (run, at) = self.snapshot.rows.planes.group(group);
            let (some, passing) =
                run.bits.estimates(self.snapshot.kernel, &self.probe, at, best.bar);
            estimates.extend_from_slice(&some);
            self.offer(&mut best, &some, passing, group);
        }
        Estimated { rows, estimates, best: best.close() }
    }

    /// The same by two bits for rows in groups that have one from `bar` on; no others can be among the closest.
    fn refine(&self, part: Estimated, bar: f32) -> Estimated {
        let Estimated { rows, mut estimates, .. } = part;
        let mut best = Shortlist::new(self.wanted, 0.0);
        for (group, rough) in (rows.start / GROUP..).zip(estimates.as_chunks_mut().0) {
            if self.snapshot.kernel.count_from(rough, bar) == 0 {
                rough.fill(f32::NEG_INFINITY);
                continue;
            }
            let (run, at) = self.snapshot.rows.planes.group(group);
            let second = (&run.second, &*rough);
            let (some, passing) =
                run.bits.refined(self.snapshot.kernel, &self.probe, at, second, best.bar);
            *rough = some;
            self.offer(&mut best, &some, passing, group);
        }
        Estimated { rows, estimates, best: best.close() }
    }

    /// Takes those of a group that pass and are admitted.
    #[inline]
    fn offer(&self, best: &mut Shortlist, estimates: &[f32; GROUP], passing: u32, group: usize) {
        best.offer_some(estimates, passing, group * GROUP, |row| self.admits(row));
    }

    /// What is not too far below the best of all. They are known only when all were looked at, so estimates are kept until then.
    /// `None` where too much is left to be worth it.
    fn everything(&self) -> Option<Vec<(f32, u32)>> {
        let rows = self.snapshot.rows.len();
        let task =
            |task: usize| self.estimate(task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(rows));
        let rough = each((0..rows.div_ceil(ROWS_A_TASK)).collect(), task);
        let bar = self.bar(&rough, self.margins[0]);
        if let Some(left) = self.left(&rough, bar, FIRST_ONE_IN) {
            return Some(left);
        }
        let refined = each(rough, |part| self.refine(part, bar));
        let one_in = if self.admission.is_open() { ONE_IN } else { FILTERED_ONE_IN };
        self.left(&refined, self.bar(&refined, self.margins[1]), one_in)
    }

    /// What estimates must reach, that of the last of the wanted ones being off by as much as `margin`.
    fn bar(&self, estimated: &[Estimated], margin: f32) -> f32 {
        let mut best = Shortlist::new(self.wanted, margin);
        best.found = estimated.iter().flat_map(|part| part.best.iter().copied()).collect();
        best.raise();
        best.bar
    }

    /// Rows from `bar` on that are admitted; `None` where there is more than one in so many, admitted or not.
    fn left(&self, estimated: &[Estimated], bar: f32, one_in: usize) -> Option<Vec<(f32, u32)>> {
        let most = self.snapshot.rows.len() / one_in + 4 * self.wanted;
        let count = |part: &Estimated| self.snapshot.kernel.count_from(&part.estimates, bar);
        if estimated.iter().map(count).sum::<usize>() > most {
            return None;
        }
        let mut left = Vec::new();
        estimated.iter().for_each(|part| self.pick(part, bar, &mut left));
        Some(left)
    }

    /// Adds those of `part` that are not below `bar`.
    fn pick(&self, part: &Estimated, bar: f32, left: &mut Vec<(f32, u32)>) {
        for (first, group) in part.rows.clone().step_by(GROUP).zip(part.estimates.chunks(GROUP)) {
            if self.snapshot.kernel.count_from(group, bar) == 0 {
                continue;
            }
            for (row, estimate) in (first..part.rows.end).zip(group) {
                if *estimate >= bar && self.admits(row) {
                    left.push((*estimate, row as u32));
                }
            }
        }
    }

    /// `None` where there are no lists, or too little in those that are close, as there may be under a filter.
    fn nearest_lists(&self, query: &[f32]) -> Option<Vec<(f32, u32)>> {
        let Snapshot { rows, lists, kernel, .. } = self.snapshot;
        let lists = lists.as_ref().filter(|_| self.admission.is_open())?;
        let mut list = Shortlist::new(self.wanted, self.margins[0]);
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

/// What `work` makes of each, on the threads of the pool where there are several.
fn each<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    if parts.len() > 1 {
        parts.into_par_iter().map(work).collect()
    } else {
        parts.into_iter().map(work).collect()
    }
}

/// Scores of the rows that may be among the `wanted` closest of those admitted, which are at least one. `None` where an exact scan is faster.
pub(super) fn scores(
    snapshot: &Snapshot,
    query: &[f32],
    wanted: usize,
    admission: &Admission<'_>,
) -> Option<Vec<Score>> {
    if wanted == 0 || wanted > snapshot.rows.live() / ONE_IN {
        return None;
    }
    let Snapshot { rows, kernel, certainty, .. } = snapshot;
    let probe = BitProbe::new(*kernel, &rows.encoder, query);
    let margins = rows.usual_errors().map(|error| certainty * probe.deviation * error);
    let search = Search { snapshot, admission, probe, wanted, margins };
    let found = search.nearest_lists(query).or_else(|| search.everything())?;
    let coded = CodedProbe::new(*kernel, query);
    let score = |(_, row): (f32, u32)| {
        let (block, at) = rows.place(row);
        coded.score(snapshot, block, (row as usize - at, at))
    };
    Some(found.into_iter().map(score).collect())
}

#[cfg(test)]
mod tests {
    use super::super::template::PackedTemplate;
    use super::super::{Index, RowInfo};
    use super::*;
    use crate::domain::{Aspect, AttributeFilter, HandAttributes, SampleId, SubjectId};
    use crate::gallery::types::GalleryOptions;
    use rand::{Rng, SeedableRng};
    use std::sync::Arc;

    /// Where nobody has a mate, one bit leaves too much to look at, and two leave little, the closest among it.
    #[test]
    fn strangers_are_told_apart_by_two_bits() {
        const DIM: usize = 256;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let mut unit = || -> Vec<f32> {
            let row: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter().map(|value| value / length).collect()
        };
        let subject = Arc::new(SubjectId::new("p").unwrap());
        let loaded: Vec<(Arc<RowInfo>, PackedTemplate)> = (0..12_000)
            .map(|number| {
                let info = RowInfo {
                    number,
                    subject_number: number,
                    subject: Arc::clone(&subject),
                    sample: SampleId::new(format!("s{number}")).unwrap(),
                    attributes: HandAttributes {
                        aspect: number.is_multiple_of(3).then_some(Aspect::Dorsal),
                        ..HandAttributes::default()
                    },
                };
                (Arc::new(info), PackedTemplate::new(&unit()))
            })
            .collect();
        let index = Index::new(DIM, &GalleryOptions::default());
        index.fill(&loaded, None);
        let snapshot = index.load();
        let everybody = AttributeFilter::default();
        let dorsal = AttributeFilter { aspect: Some(Aspect::Dorsal), ..everybody.clone() };
        let wanted = 10;
        let (mut found, mut asked) = (0, 0);
        for at in 0..20 {
            let (query, filtered) = (unit(), at % 2 == 0);
            let admission = Admission::new(if filtered { &dorsal } else { &everybody });
            let probe = BitProbe::new(snapshot.kernel, &snapshot.rows.encoder, &query);
            let margins = snapshot.rows.usual_errors().map(|error| 4.0 * probe.deviation * error);
            let search =
                Search { snapshot: &snapshot, admission: &admission, probe, wanted, margins };
            let rough = [search.estimate(0..snapshot.rows.len())];
            let bar = search.bar(&rough, margins[0]);
            assert!(search.left(&rough, bar, ONE_IN).is_none(), "one bit tells them apart as well");

            let left = search.everything().expect("two bits leave too much");
            let similarity = |row: u32| snapshot.rows.template(row).dot(snapshot.kernel, &query);
            let admitted = |row: &u32| !filtered || row.is_multiple_of(3);
            assert!(left.iter().all(|(_, row)| admitted(row)));
            let mut closest: Vec<u32> = (0..snapshot.rows.len() as u32).filter(admitted).collect();
            closest.sort_unstable_by(|a, b| similarity(*b).total_cmp(&similarity(*a)));
            asked += wanted;
            found += closest[..wanted]
                .iter()
                .filter(|row| left.iter().any(|(_, left)| left == *row))
                .count();
        }
        assert!(found >= asked - 1, "{found} of {asked}");
    }
}
