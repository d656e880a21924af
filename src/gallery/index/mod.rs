//! Who is closest, derived from the records: every template in memory with its bits. Readers take one snapshot and no lock.

mod arrange;
mod bits;
mod codes;
mod encoder;
mod graph;
mod kernel;
mod layout;
mod lists;
mod merge;
mod outside;
mod persist;
mod planes;
mod probe;
mod reader;
mod rough;
mod rows;
#[cfg(test)]
mod samples;
mod scan;
mod search;
mod shelves;
mod shortlist;
mod signs;
mod simhash;
mod template;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::types::{GalleryOptions, IndexInfo, SearchParams, SelfRetrieval};
use arrange::Arranged;
use encoder::Encoder;
use kernel::Kernel;
use lists::Lists;
use merge::COPIED_AT_ONCE;
pub(super) use merge::Merge;
pub(super) use persist::{SavedLists, from_bytes as lists_from_bytes};
pub(super) use rows::{RowInfo, Rows};
pub(super) use search::{Hit, SubjectHit};
pub(super) use template::PackedTemplate;

/// What a search sees, from its beginning to its end.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) rows: Rows,
    /// Where the first of these lie, in a gallery of more than `scan_up_to`.
    lists: Option<Arc<Lists>>,
    /// How similar a row must be to lie in the lists that a search looks into, almost certainly.
    outside: f32,
    kernel: Kernel,
    /// Rows up to which every search is an exact scan.
    exact_up_to: usize,
    /// Rows up to which a search reads the bits of all.
    scan_up_to: usize,
    /// Lists that a search of more looks into.
    lists_searched: usize,
    /// Lists up to which those are found by a scan.
    graph_from: usize,
    /// Standard deviations that an estimate may be off.
    certainty: f32,
    /// How often everything was forgotten.
    era: u64,
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
    pub(super) fn template(&self, row: u32) -> Vec<f32> {
        self.rows.template(row).values(self.kernel)
    }

    pub(super) fn info(&self, row: u32) -> &Arc<RowInfo> {
        self.rows.info(row)
    }

    /// Bits are fitted by the first merge of a gallery that needs them; they say next to nothing before.
    fn reads_bits(&self) -> bool {
        self.rows.encoder.fitted_on > 0 && self.rows.len() > self.exact_up_to
    }
}

/// The current snapshot, and the one writer that replaces it.
#[derive(Debug)]
pub(super) struct Index {
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
    /// Held by a merge from its first look to its swap: only merges renumber rows.
    merging: Mutex<()>,
}

impl Index {
    pub(super) fn new(dim: usize, options: &GalleryOptions) -> Self {
        let kernel = Kernel::new();
        let rows = Rows::new(kernel, Arc::new(Encoder::unfitted(dim)));
        let snapshot = Snapshot {
            rows,
            lists: None,
            outside: f32::INFINITY,
            kernel,
            exact_up_to: options.exact_up_to,
            scan_up_to: options.scan_up_to,
            lists_searched: options.lists_searched,
            graph_from: options.graph_from,
            certainty: options.certainty,
            era: 0,
        };
        Self {
            current: ArcSwap::from_pointee(snapshot),
            writer: Mutex::new(()),
            merging: Mutex::new(()),
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

    /// Removes the rows of many samples.
    pub(super) fn remove_samples(&self, numbers: &HashSet<u64>) {
        self.update(|rows| rows.remove(|block, at| numbers.contains(&block.infos[at].number)));
    }

    /// Removes every row of a subject.
    pub(super) fn remove_subject(&self, subject_number: u64) {
        self.update(|rows| rows.remove(|block, at| block.subjects[at] == subject_number));
    }

    /// Forgets every row.
    pub(super) fn clear(&self) {
        let _writer = self.writer.lock();
        let now = self.current.load();
        // Begun anew: removed one by one, all that a search may still look at would be copied first.
        let rows = Rows::new(now.kernel, Arc::clone(&now.rows.encoder));
        let (lists, outside, era) = (None, f32::INFINITY, now.era + 1);
        self.current.store(Arc::new(Snapshot {
            rows,
            lists,
            outside,
            era,
            ..Snapshot::clone(&now)
        }));
    }

    fn update(&self, change: impl FnOnce(&mut Rows)) {
        let _writer = self.writer.lock();
        let mut next = Snapshot::clone(&self.current.load());
        change(&mut next.rows);
        self.current.store(Arc::new(next));
    }

    /// The lists to be kept on disk; `None` when there are none.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let snapshot = self.current.load();
        let lists = snapshot.lists.as_ref()?;
        let rows = 0..lists.covered() as u32;
        let numbers: Vec<u64> = rows.map(|row| snapshot.rows.info(row).number).collect();
        Some(persist::to_bytes(&numbers, &lists.sizes(), snapshot.outside, lists.links()))
    }

    /// Fills an empty index: rows in order of enrolment, and saved lists of some of them. Says whether the lists were of use.
    pub(super) fn fill(
        &self,
        loaded: &[(Arc<RowInfo>, PackedTemplate)],
        saved: Option<SavedLists>,
    ) -> bool {
        let _writer = self.writer.lock();
        let now = self.current.load();
        let dim = now.rows.dim;
        let encoder = if loaded.len() > now.exact_up_to {
            Encoder::fitted(dim, loaded.len(), |at| loaded[at].1.view().values(now.kernel))
        } else {
            Encoder::unfitted(dim)
        };
        let encoder = Arc::new(encoder);
        let template = |at: u32| loaded[at as usize].1.view();
        let found = saved.filter(|_| loaded.len() > now.scan_up_to).and_then(|saved| {
            let numbers = loaded.iter().map(|(info, _)| info.number);
            let Arranged { order, sizes } = saved.among(numbers)?;
            let row = |row: u32| template(order[row as usize]);
            let lists = Lists::with_links(now.kernel, &encoder, &sizes, row, saved.links);
            Some((order, lists, saved.outside))
        });
        let (mut order, lists, outside) = match found {
            Some((order, lists, outside)) => (order, Some(Arc::new(lists)), outside),
            None => (Vec::new(), None, f32::INFINITY),
        };
        // Behind those in lists, the others.
        let mut listed = vec![false; loaded.len()];
        order.iter().for_each(|at| listed[*at as usize] = true);
        order.extend((0..loaded.len() as u32).filter(|at| !listed[*at as usize]));
        let mut rows = Rows::new(now.kernel, encoder);
        for part in order.chunks(COPIED_AT_ONCE) {
            rows.extend(part, |at| (&loaded[at as usize].0, template(at)));
        }
        let used = lists.is_some();
        self.current.store(Arc::new(Snapshot { rows, lists, outside, ..Snapshot::clone(&now) }));
        used
    }

    /// Whether a sample has a row.
    pub(super) fn holds(&self, subject_number: u64, number: u64) -> bool {
        let snapshot = self.current.load();
        let own = snapshot.rows.of_subject(subject_number);
        own.into_iter().any(|row| snapshot.rows.info(row).number == number)
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
        let segment = snapshot.lists.as_ref().map_or(0, |lists| lists.covered());
        let linked = snapshot.lists.as_ref().map(|lists| lists.links().is_some());
        let kind = match linked {
            Some(true) => "hnsw",
            Some(false) => "lists",
            None if snapshot.reads_bits() => "binary",
            None => "exact",
        };
        IndexInfo {
            kind,
            segment,
            tail: snapshot.rows.len() - segment,
            removed: snapshot.rows.len() - snapshot.rows.live(),
            bytes: snapshot.rows.bytes() + snapshot.lists.as_ref().map_or(0, |lists| lists.bytes()),
        }
    }
}
