//! Scans of bits.
//!
//! A bit a value, looked up for 32 rows at a time, costs a few nanoseconds a row, where an exact scan reads eight times as
//! much. How far such an estimate is off is known on average only (`BitProbe::deviation`): rows that would have to be further off
//! than almost any is are left out, and the others are scored as in an exact scan. So the work follows the question. Where a probe has
//! mates that stand out, a part of the bits says so, and few rows are left. Where all are about as far away, many are: a second bit is
//! read then, which halves the doubt. Where too many are left even so, an exact scan is faster.

use std::ops::Range;

use rayon::prelude::*;

use super::Snapshot;
use super::kernel::Estimates;
use super::layout::GROUP;
use super::planes::Run;
use super::probe::BitProbe;
use super::rows::{Admission, BLOCK};
use super::scan::{CodedProbe, Score};
use super::shortlist::{Shortlist, reached};

/// Rows that one thread scans before it looks for more work: about a millisecond.
const ROWS_A_TASK: usize = 8_192 * BLOCK;

/// Of so many rows one may be left: scores of more take longer than an exact scan, which reads row after row.
const ONE_IN: usize = 16;
/// The same under a filter: most of what is left does not pass it, and is not scored.
const FILTERED_ONE_IN: usize = 8;
/// Rows beside the wanted ones, and for each of them two, of which it is looked up how close they are, to know from where on a row counts.
const SPARE: usize = 64;
/// Of so many rows one may be left by their first bits: scores of more take longer than to read the second, and leave fewer.
const FIRST_ONE_IN: usize = 64;

/// Estimates of rows in a row.
struct Estimated {
    rows: Range<usize>,
    groups: Vec<[f32; GROUP]>,
    /// The highest of each group; nothing where it is known that none of its rows is among the closest.
    peaks: Vec<f32>,
}

impl Estimated {
    /// The first row of each group that has an estimate from `bar` on, its estimates and the highest of them.
    fn from(&self, bar: f32) -> impl Iterator<Item = (usize, &[f32; GROUP], f32)> {
        let bar = bar.max(f32::MIN);
        let reaching = self.peaks.iter().enumerate().filter(move |(_, peak)| **peak >= bar);
        reaching.map(|(at, peak)| (self.rows.start + at * GROUP, &self.groups[at], *peak))
    }
}

/// What was read of rows.
#[derive(Debug, Clone, Copy)]
enum Read {
    /// The first bits of their first values.
    Head,
    First,
    Both,
}

/// One question to a snapshot's bits.
struct Search<'a> {
    snapshot: &'a Snapshot,
    query: &'a [f32],
    admission: &'a Admission<'a>,
    /// Whether no row need be asked about.
    admits_all: bool,
    probe: BitProbe,
    coded: CodedProbe,
    wanted: usize,
    /// By how much a row may be estimated too low, by what was read of it.
    margins: [f32; 3],
    /// What estimates leave out, since it is the same for all rows.
    same: f32,
}

impl<'a> Search<'a> {
    fn new(
        snapshot: &'a Snapshot,
        query: &'a [f32],
        wanted: usize,
        admission: &'a Admission<'a>,
    ) -> Self {
        let Snapshot { rows, kernel, certainty, .. } = snapshot;
        let probe = BitProbe::new(*kernel, &rows.encoder, query);
        let margins = rows.usual_errors().map(|error| certainty * probe.deviation(error));
        let mean = &rows.encoder.mean;
        let same = kernel.dot(mean, query) - kernel.dot(mean, mean);
        let coded = CodedProbe::new(*kernel, query);
        let admits_all = admission.is_open() && rows.live() == rows.len();
        Self { snapshot, query, admission, admits_all, probe, coded, wanted, margins, same }
    }

    fn scores(&self, found: &[(f32, u32)]) -> Vec<Score> {
        let Snapshot { rows, kernel, .. } = self.snapshot;
        let score =
            |(_, row): &(f32, u32)| self.coded.score(*kernel, rows.template(*row), *row as usize);
        found.iter().map(score).collect()
    }

    /// Looks at `rows`, whichever runs they lie in.
    fn scan(&self, list: &mut Shortlist, rows: Range<usize>) {
        for (run, first, within) in self.snapshot.rows.planes.runs(rows) {
            let counts = |at| self.admits(first + at);
            list.scan(self.snapshot.kernel, &self.probe, &run.bits, within, first, counts);
        }
    }

    fn admits(&self, row: usize) -> bool {
        if self.admits_all {
            // Rows that fill up the last group have estimates too.
            return row < self.snapshot.rows.len();
        }
        let (block, at) = self.snapshot.rows.place(row as u32);
        self.admission.admits(block, at)
    }

    /// Rows of which it is looked up how close they are, to know from where on a row counts.
    fn looked_up(&self) -> usize {
        self.wanted + (2 * self.wanted).min(SPARE)
    }

    /// The best of some rows by their estimates.
    fn best(&self, estimated: &Estimated) -> Vec<(f32, u32)> {
        let count = self.looked_up();
        // As many groups as rows are wanted reach this, so as many rows do: of all, if all are admitted.
        let bar =
            if self.admission.is_open() { reached(&estimated.peaks, count) } else { f32::MIN };
        let best = |bar: f32| {
            let mut best = Shortlist::new(count, 0.0);
            for (first, group, peak) in estimated.from(bar) {
                best.offer_some(self.snapshot.kernel, (group, peak), first, |row| self.admits(row));
            }
            best.close()
        };
        Some(best(bar)).filter(|best| best.len() >= count).unwrap_or_else(|| best(f32::MIN))
    }

    /// Estimates of `rows`, by the bits that are read first.
    fn begin(&self, rows: Range<usize>) -> Estimated {
        let count = rows.len().div_ceil(GROUP);
        let (mut groups, mut peaks) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (kernel, probe) = (self.snapshot.kernel, &self.probe);
        for (run, _, within) in self.snapshot.rows.planes.runs(rows.clone()) {
            let new = within.start / GROUP..within.end.div_ceil(GROUP);
            run.bits.begin(kernel, probe, new, &mut groups, &mut peaks);
        }
        Estimated { rows, groups, peaks }
    }

    /// Better estimates for rows in groups that have one from `bar` on; no others can be among the closest. `better` is asked for those of
    /// a group of a run.
    fn go_on(
        &self,
        part: Estimated,
        bar: f32,
        better: impl Fn(&Run, usize, &[f32; GROUP]) -> Estimates,
    ) -> Estimated {
        let Estimated { rows, mut groups, mut peaks } = part;
        for ((group, so_far), peak) in (rows.start / GROUP..).zip(&mut groups).zip(&mut peaks) {
            if *peak < bar {
                *peak = f32::NEG_INFINITY;
                continue;
            }
            let (run, at) = self.snapshot.rows.planes.group(group);
            Estimates { values: *so_far, peak: *peak } = better(run, at, so_far);
        }
        Estimated { rows, groups, peaks }
    }

    /// What is not too far below the wanted ones, which are at least as close as `known` are, and as the best of what was looked
    /// at: those in any case, since a better estimate may be a lower one. `None` where too much is left to be worth it.
    fn everything(&self, known: Option<Known>) -> Option<Vec<(f32, u32)>> {
        let (kernel, probe) = (self.snapshot.kernel, &self.probe);
        let rows = self.snapshot.rows.len();
        let tasks = (0..rows.div_ceil(ROWS_A_TASK)).collect();
        let mut estimated = each(tasks, |task: usize| {
            self.begin(task * ROWS_A_TASK..((task + 1) * ROWS_A_TASK).min(rows))
        });
        let mut known = Known::closer(known, self.known(&estimated));
        if self.snapshot.rows.planes.have_steps() {
            let bar = self.bar(&known, Read::Head);
            let all = |run: &Run, at, so_far: &_| run.bits.go_on(kernel, probe, at, so_far);
            estimated = each(estimated, |part| self.go_on(part, bar, all));
        }
        let bar = self.bar(&known, Read::First);
        if let Some(left) = self.left(&estimated, bar, FIRST_ONE_IN) {
            return Some(with(left, known));
        }
        let both =
            |run: &Run, at, so_far: &_| run.second.refine(kernel, probe, at, (&run.bits, so_far));
        let refined = each(estimated, |part| self.go_on(part, bar, both));
        known = Known::closer(known, self.known(&refined));
        let one_in = if self.admission.is_open() { ONE_IN } else { FILTERED_ONE_IN };
        let left = self.left(&refined, self.bar(&known, Read::Both), one_in)?;
        Some(with(left, known))
    }

    /// The best of all that was looked at.
    fn known(&self, estimated: &[Estimated]) -> Option<Known> {
        let best = each(estimated.iter().collect(), |part| self.best(part));
        self.look_up(best.iter().flatten())
    }

    /// As many rows as are wanted, and how similar they are: the best of `found`, of which a few more are looked up. `None` where
    /// there are fewer.
    fn look_up<'f>(&self, found: impl IntoIterator<Item = &'f (f32, u32)>) -> Option<Known> {
        let mut best = Shortlist::new(self.looked_up(), 0.0);
        found.into_iter().for_each(|(estimate, row)| best.offer(*estimate, *row));
        let best = best.close();
        if best.len() < self.wanted {
            return None;
        }
        let mut scores = self.scores(&best);
        scores.select_nth_unstable_by(self.wanted - 1, |a, b| b.about.total_cmp(&a.about));
        scores.truncate(self.wanted);
        let Snapshot { rows, kernel, .. } = self.snapshot;
        let exact = |score: &Score| rows.template(score.row).dot(*kernel, self.query);
        let least = scores.iter().map(exact).fold(f32::INFINITY, f32::min);
        Some(Known { rows: scores.iter().map(|score| score.row).collect(), least })
    }

    /// What estimates must reach, by what was read, of rows that are at least as similar as those that are known.
    fn bar(&self, known: &Option<Known>, read: Read) -> f32 {
        let bound = known.as_ref().map_or(f32::NEG_INFINITY, |known| known.least - self.same);
        bound - self.margins[read as usize]
    }

    /// Rows from `bar` on that are admitted; `None` where there is more than one in so many, admitted or not.
    fn left(&self, estimated: &[Estimated], bar: f32, one_in: usize) -> Option<Vec<(f32, u32)>> {
        let most = self.snapshot.rows.len() / one_in + 4 * self.wanted;
        let (mut reached, mut left) = (0, Vec::new());
        for (first, group, _) in estimated.iter().flat_map(|part| part.from(bar)) {
            let reaching = self.snapshot.kernel.reaching(group, bar);
            reached += reaching.many();
            if reached > most {
                return None;
            }
            let admitted = reaching.filter(|at| self.admits(first + at));
            left.extend(admitted.map(|at| (group[at], (first + at) as u32)));
        }
        Some(left)
    }

    /// What may be among the closest of the lists that are close, and the best of it.
    /// `None` where there are no lists, or too little in those, as there may be under a filter.
    fn nearest_lists(&self) -> Option<(Vec<(f32, u32)>, Known)> {
        let Snapshot { rows, lists, kernel, .. } = self.snapshot;
        let lists = lists.as_ref().filter(|_| self.admission.is_open())?;
        let mut list = Shortlist::new(self.wanted, self.margins[Read::First as usize]);
        let probe = (self.query, &self.probe);
        let mut seen = 0;
        for near in lists.near(*kernel, &rows.encoder, probe, self.snapshot.lists_searched) {
            seen += near.len();
            self.scan(&mut list, near);
        }
        self.scan(&mut list, lists.covered()..rows.len());
        if seen < 2 * self.wanted || list.found.len() < self.wanted {
            return None;
        }
        let found = list.close();
        let known = self.look_up(&found)?;
        Some((found, known))
    }

    /// What may be among the closest. `None` where an exact scan is faster.
    fn closest(&self) -> Option<Vec<(f32, u32)>> {
        let Some((found, known)) = self.nearest_lists() else {
            return self.everything(None);
        };
        if known.least > self.snapshot.outside { Some(found) } else { self.everything(Some(known)) }
    }
}

/// As many rows as are wanted.
struct Known {
    rows: Vec<u32>,
    /// How similar the last of them is.
    least: f32,
}

impl Known {
    /// Those that are closer.
    fn closer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if one.least >= other.least { one } else { other }),
            (one, other) => one.or(other),
        }
    }
}

/// `left`, which is in order of rows, and what is known and not among it.
fn with(mut left: Vec<(f32, u32)>, known: Option<Known>) -> Vec<(f32, u32)> {
    let by_row = |row: &u32| left.binary_search_by_key(row, |(_, row)| *row).is_err();
    let others: Vec<u32> = known.into_iter().flat_map(|known| known.rows).filter(by_row).collect();
    left.extend(others.into_iter().map(|row| (0.0, row)));
    left
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
    let search = Search::new(snapshot, query, wanted, admission);
    search.closest().map(|found| search.scores(&found))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::samples::{loaded, near, unit};
    use super::super::{Index, Merge};
    use super::*;
    use crate::domain::{Aspect, AttributeFilter, HandAttributes};
    use crate::gallery::types::{Aggregate, GalleryOptions, SearchParams};
    use rand::SeedableRng;

    /// Where nobody has a mate, one bit leaves too much to look at, and two leave little, the closest among it.
    #[test]
    fn strangers_are_told_apart_by_two_bits() {
        const DIM: usize = 256;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let rows: Vec<Vec<f32>> = (0..12_000).map(|_| unit(&mut rng, DIM)).collect();
        let dorsal = |number: u64| HandAttributes {
            aspect: number.is_multiple_of(3).then_some(Aspect::Dorsal),
            ..HandAttributes::default()
        };
        let index = Index::new(DIM, &GalleryOptions::default());
        index.fill(&loaded(&rows, dorsal), None);
        let snapshot = index.load();
        let everybody = AttributeFilter::default();
        let dorsal = AttributeFilter { aspect: Some(Aspect::Dorsal), ..everybody.clone() };
        let wanted = 10;
        let (mut found, mut asked) = (0, 0);
        for at in 0..20 {
            let (query, filtered) = (unit(&mut rng, DIM), at % 2 == 0);
            let admission = Admission::new(if filtered { &dorsal } else { &everybody });
            let search = Search::new(&snapshot, &query, wanted, &admission);
            let rough = [search.begin(0..snapshot.rows.len())];
            let bar = search.bar(&search.known(&rough), Read::First);
            assert!(search.left(&rough, bar, ONE_IN).is_none(), "one bit tells them apart as well");

            let left = search.everything(None).expect("two bits leave too much");
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

    /// Better estimates of rows that were compared exactly may be lower.
    #[test]
    fn what_was_looked_up_is_left_whatever_is_estimated_of_it() {
        const DIM: usize = 64;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(13);
        let rows: Vec<Vec<f32>> = (0..9_000).map(|_| unit(&mut rng, DIM)).collect();
        let index = Index::new(DIM, &GalleryOptions::default());
        index.fill(&loaded(&rows, |_| HandAttributes::default()), None);
        let (snapshot, everybody) = (index.load(), AttributeFilter::default());
        let query = near(&mut rng, &rows[7], 0.1);
        let admission = Admission::new(&everybody);
        let search = Search::new(&snapshot, &query, 1, &admission);
        let alone = search.everything(None).expect("one stands out");
        let other = (0..9_000).find(|row| alone.iter().all(|(_, left)| left != row)).unwrap();
        let known = Known { rows: vec![other], least: f32::INFINITY };
        let left = search.everything(Some(known)).expect("nothing reaches that");
        assert_eq!(left.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [other]);
    }

    /// What it copied is of those who are gone.
    #[test]
    fn a_merge_that_everything_was_forgotten_under_changes_nothing() {
        const DIM: usize = 32;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(14);
        let rows: Vec<Vec<f32>> = (0..4_000).map(|_| unit(&mut rng, DIM)).collect();
        for round in 0..20_u64 {
            let index = Index::new(DIM, &GalleryOptions::default());
            index.fill(&loaded(&rows, |_| HandAttributes::default()), None);
            std::thread::scope(|scope| {
                let merge = scope.spawn(|| index.merge(Merge::Whole, &AtomicBool::new(false)));
                std::thread::sleep(std::time::Duration::from_micros(200 * round));
                index.clear();
                let infos = loaded(&rows[..5], |_| HandAttributes::default()).into_iter();
                index.push(infos.zip(&rows).map(|((info, _), row)| (info, &**row)));
                merge.join().unwrap().unwrap();
            });
            let snapshot = index.load();
            assert_eq!((snapshot.rows.live(), snapshot.rows.len()), (5, 5), "round {round}");
        }
    }

    /// Those who are left are less like the probe than what fills up the last group is, whose estimates are zero.
    #[test]
    fn only_rows_that_are_there_are_found() {
        const DIM: usize = 64;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(12);
        let centre = unit(&mut rng, DIM);
        let opposite: Vec<f32> = centre.iter().map(|value| -value).collect();
        let mut near = |centre: &[f32]| near(&mut rng, centre, 0.5);
        let first: Vec<Vec<f32>> = (0..8_001).map(|_| near(&centre)).collect();
        let others: Vec<Vec<f32>> = (0..8_001).map(|_| near(&opposite)).collect();
        let probe = near(&centre);
        let index = Index::new(DIM, &GalleryOptions::default());
        let go_on = AtomicBool::new(false);
        index.fill(&loaded(&first, |_| HandAttributes::default()), None);
        index.merge(Merge::Whole, &go_on).unwrap();
        // Bits are still about the mean of those who are gone.
        index.clear();
        let infos = loaded(&others, |_| HandAttributes::default()).into_iter();
        index.push(infos.zip(&others).map(|((info, _), row)| (info, &**row)));
        index.merge(Merge::DropRemoved, &go_on).unwrap();
        let snapshot = index.load();
        assert!(snapshot.reads_bits() && snapshot.rows.len() == 8_001);

        let params = |exact| SearchParams {
            limit: 20,
            filter: AttributeFilter::default(),
            aggregate: Aggregate::Best,
            exact,
        };
        let found = snapshot.samples(&probe, &params(false));
        assert_eq!(found, snapshot.samples(&probe, &params(true)));
        assert!(found.len() == 20 && found.iter().all(|hit| hit.similarity.get() < 0.0));
    }
}
