//! Who is closest, derived from the records: a frozen graph, the rows enrolled since, and the
//! removed ones marked. Readers take one snapshot and no lock.

mod kernel;
mod rows;
mod search;
mod segment;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::types::{GalleryOptions, IndexInfo, SearchParams, SelfRetrieval};
use kernel::Kernel;
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

    /// Asks about every live row with its own template.
    pub(super) fn audit(&self) -> SelfRetrieval {
        search::audit(self)
    }

    pub(super) fn info(&self, row: u32) -> &Arc<RowInfo> {
        self.rows.info(row)
    }
}

/// The current snapshot, and the one writer that replaces it.
#[derive(Debug)]
pub(super) struct Index {
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
}

impl Index {
    pub(super) fn new(dim: usize, options: &GalleryOptions) -> Self {
        let snapshot = Snapshot {
            rows: Rows::new(dim),
            segment: None,
            kernel: Kernel::new(),
            search_width: options.search_width,
        };
        Self { current: ArcSwap::from_pointee(snapshot), writer: Mutex::new(()) }
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
