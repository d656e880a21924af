//! Who is closest, derived from the records: a frozen graph, the rows enrolled since, and the
//! removed ones marked. Readers take one snapshot and no lock.

mod build;
mod kernel;
mod persist;
mod pivots;
mod rows;
mod scan;
mod search;
mod segment;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use rayon::prelude::*;

use super::types::{GalleryOptions, IndexInfo, SearchParams, SelfRetrieval};
use build::BuildOptions;
use kernel::Kernel;
use persist::SavedGraph;
pub(super) use persist::from_bytes as graph_from_bytes;
pub(super) use rows::{RowInfo, Rows};
pub(super) use search::{Hit, SubjectHit};
use segment::Segment;

/// What a search sees, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) rows: Rows,
    /// A graph over the first `segment.len()` rows.
    segment: Option<Arc<Segment>>,
    kernel: Kernel,
    search_width: usize,
}

impl Snapshot {
    pub(super) fn samples(&self, query: &[f32], params: &SearchParams) -> Vec<Hit> {
        search::samples(self, query, params)
    }

    pub(super) fn subjects(&self, query: &[f32], params: &SearchParams) -> Vec<SubjectHit> {
        search::subjects(self, query, params)
    }

    pub(super) fn of_subject(&self, subject_number: u64, query: &[f32]) -> Vec<Hit> {
        search::of_subject(self, subject_number, query)
    }

    /// Asks about every live row with its own template, for as long as `go_on` says so.
    pub(super) fn audit(&self, go_on: impl FnMut(usize, usize) -> bool) -> Option<SelfRetrieval> {
        search::audit(self, go_on)
    }

    /// A row's template, `[dim]`.
    pub(super) fn template(&self, row: u32) -> &[f32] {
        self.rows.vector(row)
    }

    pub(super) fn info(&self, row: u32) -> &Arc<RowInfo> {
        self.rows.info(row)
    }

    fn numbers(&self, segment: &Segment) -> Vec<u64> {
        (0..segment.len() as u32).map(|row| self.rows.info(row).number).collect()
    }

    fn saved(&self, segment: &Segment) -> SavedGraph {
        SavedGraph {
            numbers: self.numbers(segment),
            dim: segment.dim,
            width: segment.width,
            entry: segment.entry,
            base: segment.base.clone(),
            upper: segment.upper.clone(),
        }
    }
}

/// The current snapshot, and the one writer that replaces it.
#[derive(Debug)]
pub(super) struct Index {
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
    /// Held by a merge from its first look to its swap: only merges renumber rows.
    merging: Mutex<()>,
    build: BuildOptions,
    exact_up_to: usize,
}

/// What a merge is to achieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// One graph over everything, or none where a scan is enough.
    Whole,
    /// Removed rows dropped from the graph and from memory, the tail as it is.
    DropRemoved,
}

impl Index {
    pub(super) fn new(dim: usize, options: &GalleryOptions) -> Self {
        let snapshot = Snapshot {
            rows: Rows::new(dim),
            segment: None,
            kernel: Kernel::new(),
            search_width: options.search_width,
        };
        let GalleryOptions { links, build_width, search_width, exact_up_to, .. } = *options;
        Self {
            current: ArcSwap::from_pointee(snapshot),
            writer: Mutex::new(()),
            merging: Mutex::new(()),
            build: BuildOptions { links, build_width, search_width },
            exact_up_to,
        }
    }

    pub(super) fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Adds rows; every search that begins after this returns finds them.
    pub(super) fn push<'a>(&self, added: impl IntoIterator<Item = (Arc<RowInfo>, &'a [f32])>) {
        self.update(|rows| added.into_iter().for_each(|(info, vector)| rows.push(info, vector)));
    }

    /// Removes a sample's row; no search that begins after this returns finds it.
    pub(super) fn remove_sample(&self, subject_number: u64, number: u64) {
        self.update(|rows| {
            rows.remove(|block, at| {
                block.subjects[at] == subject_number && block.infos[at].number == number
            });
        });
    }

    /// Removes every row of a subject.
    pub(super) fn remove_subject(&self, subject_number: u64) {
        self.update(|rows| rows.remove(|block, at| block.subjects[at] == subject_number));
    }

    /// Forgets every row.
    pub(super) fn clear(&self) {
        self.update(|rows| rows.remove(|_, _| true));
    }

    fn update(&self, change: impl FnOnce(&mut Rows)) {
        let _writer = self.writer.lock();
        let current = self.current.load();
        let mut rows = current.rows.clone();
        change(&mut rows);
        self.current.store(Arc::new(Snapshot {
            rows,
            segment: current.segment.clone(),
            kernel: current.kernel,
            search_width: current.search_width,
        }));
    }

    /// Whether a merge is worth its while, and which.
    pub(super) fn wants(&self) -> Option<Merge> {
        let snapshot = self.current.load();
        let segment = snapshot.segment.as_ref().map_or(0, |segment| segment.len());
        let tail = snapshot.rows.len() - segment;
        let removed = snapshot.rows.len() - snapshot.rows.live();
        let grown = snapshot.rows.live() > self.exact_up_to && tail > self.tail_limit(segment);
        if grown || removed > self.tail_limit(segment) {
            return Some(Merge::Whole);
        }
        (removed > 0).then_some(Merge::DropRemoved)
    }

    /// A quarter of the graph, so that building stays a constant share of all work.
    fn tail_limit(&self, segment: usize) -> usize {
        (segment / 4).max(self.exact_up_to / 4)
    }

    /// Drops removed rows and, for [`Merge::Whole`], builds a graph over all that are left. Searches and
    /// changes go on meanwhile.
    ///
    /// # Errors
    /// Why no graph could be built; the index is as it was then.
    pub(super) fn merge(&self, merge: Merge, stop: &AtomicBool) -> Result<(), String> {
        let _merging = self.merging.lock();
        let before = self.current.load_full();
        let old = &before.rows;
        let keep: Vec<u32> = (0..old.len() as u32).filter(|row| old.is_live(*row)).collect();
        let mut rows = Rows::new(old.dim);
        keep.iter().for_each(|row| rows.push(Arc::clone(old.info(*row)), old.vector(*row)));
        let segment = match merge {
            Merge::Whole if rows.len() > self.exact_up_to => {
                Some(build::build(&rows, before.kernel, self.build, stop)?)
            }
            Merge::Whole => None,
            Merge::DropRemoved => match &before.segment {
                None => None,
                Some(segment) => {
                    let keep: Vec<bool> =
                        (0..segment.len() as u32).map(|row| old.is_live(row)).collect();
                    match before.saved(segment).retain(&keep) {
                        Some(saved) => Some(with_codes(saved, &rows)),
                        None => Some(build::build(&rows, before.kernel, self.build, stop)?),
                    }
                }
            },
        };
        let _writer = self.writer.lock();
        let now = self.current.load();
        // What changed since: rows removed, and rows added behind.
        let gone: Vec<u32> = (0_u32..)
            .zip(&keep)
            .filter(|(_, row)| !now.rows.is_live(**row))
            .map(|(new, _)| new)
            .collect();
        rows.remove_rows(&gone);
        for row in (old.len() as u32..now.rows.len() as u32).filter(|row| now.rows.is_live(*row)) {
            rows.push(Arc::clone(now.rows.info(row)), now.rows.vector(row));
        }
        self.current.store(Arc::new(Snapshot {
            rows,
            segment: segment.map(Arc::new),
            kernel: now.kernel,
            search_width: now.search_width,
        }));
        Ok(())
    }

    /// The graph to be kept on disk; `None` when there is none.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let snapshot = self.current.load();
        let segment = snapshot.segment.as_ref()?;
        Some(persist::to_bytes(segment, &snapshot.numbers(segment)))
    }

    /// Fills an empty index: rows in order of enrolment, and a saved graph over some of them. Says
    /// whether the graph was of use.
    pub(super) fn fill(
        &self,
        mut loaded: Vec<(Arc<RowInfo>, Vec<f32>)>,
        saved: Option<SavedGraph>,
    ) -> bool {
        let dim = self.current.load().rows.dim;
        let by_number: std::collections::HashMap<u64, usize> =
            (0..loaded.len()).map(|at| (loaded[at].0.number, at)).collect();
        let saved = saved.filter(|saved| saved.dim == dim && loaded.len() > self.exact_up_to);
        let saved = saved.and_then(|saved| {
            let keep: Vec<bool> =
                saved.numbers.iter().map(|number| by_number.contains_key(number)).collect();
            saved.retain(&keep)
        });
        let mut rows = Rows::new(dim);
        let mut segment = None;
        if let Some(saved) = saved {
            for at in saved.numbers.iter().filter_map(|number| by_number.get(number)) {
                let (info, vector) = &mut loaded[*at];
                rows.push(Arc::clone(info), vector);
                vector.clear();
            }
            segment = Some(Arc::new(with_codes(saved, &rows)));
        }
        // What is left of them is what the graph does not hold.
        for (info, vector) in loaded.iter().filter(|(_, vector)| !vector.is_empty()) {
            rows.push(Arc::clone(info), vector);
        }
        let used = segment.is_some();
        let _writer = self.writer.lock();
        let now = self.current.load();
        let (kernel, search_width) = (now.kernel, now.search_width);
        self.current.store(Arc::new(Snapshot { rows, segment, kernel, search_width }));
        used
    }

    /// Rows that are not removed.
    pub(super) fn live(&self) -> usize {
        self.current.load().rows.live()
    }

    /// What they stand for, in the order that they lie in.
    pub(super) fn rows(&self) -> Vec<Arc<RowInfo>> {
        let snapshot = self.current.load();
        let rows = &snapshot.rows;
        let live = (0..rows.len() as u32).filter(|row| rows.is_live(*row));
        live.map(|row| Arc::clone(rows.info(row))).collect()
    }

    pub(super) fn info(&self) -> IndexInfo {
        let snapshot = self.current.load();
        let segment = snapshot.segment.as_ref().map_or(0, |segment| segment.len());
        IndexInfo {
            kind: if snapshot.segment.is_some() { "hnsw" } else { "exact" },
            segment,
            tail: snapshot.rows.len() - segment,
            removed: snapshot.rows.len() - snapshot.rows.live(),
        }
    }
}

/// A graph whose nodes are the first of `rows`, with their codes.
fn with_codes(saved: SavedGraph, rows: &Rows) -> Segment {
    let nodes = 0..saved.numbers.len() as u32;
    let coded: Vec<(Vec<i8>, f32)> =
        nodes.into_par_iter().map(|row| segment::encode(rows.vector(row))).collect();
    Segment {
        base: saved.base,
        upper: saved.upper,
        entry: saved.entry,
        ..Segment::new(saved.dim, &coded, saved.width)
    }
}
