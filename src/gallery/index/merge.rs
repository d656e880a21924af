//! Bits, lists and memory made anew beside an index that is searched and changed meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPool;

use super::arrange::{Arranged, arrange};
use super::encoder::Encoder;
use super::kernel::Kernel;
use super::lists::Lists;
use super::outside::outside;
use super::rows::Rows;
use super::template::Packed;
use super::{Index, Snapshot};
use crate::urgency::{BEHIND, give_way};

/// What a merge is to achieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gallery) enum Merge {
    /// Bits about the mean of what there is now, lists where there is so much that they pay, removed rows dropped.
    Whole,
    /// Removed rows dropped from memory.
    DropRemoved,
}

/// Rows copied between two looks at whether to stop.
pub(super) const COPIED_AT_ONCE: usize = 8_192;
/// Rows up to which removed ones are dropped at once; of more, when a sixteenth is removed, since dropping copies all.
const DROPPED_AT_ONCE: usize = 65_536;
/// Rows that whoever adds or removes waits for at the end of a merge: a millisecond.
const LEFT_FOR_THE_END: usize = 256;
/// Looks at what came meanwhile, lest a merge go on for as long as somebody adds faster than it copies.
const LOOKS: usize = 16;

impl Index {
    /// Whether a merge is worth its while, and which.
    pub(in crate::gallery) fn wants(&self) -> Option<Merge> {
        let snapshot = self.current.load();
        let rows = &snapshot.rows;
        let (live, removed) = (rows.live(), rows.len() - rows.live());
        // A mean of half of them is near enough.
        let unfitted = live > snapshot.exact_up_to && live > 2 * rows.encoder.fitted_on;
        let covered = snapshot.lists.as_ref().map_or(0, |lists| lists.covered());
        // A quarter of what lies in lists, so that arranging stays a constant share of all work.
        let unlisted = live > snapshot.scan_up_to && rows.len() - covered > covered / 4;
        if unfitted || unlisted {
            return Some(Merge::Whole);
        }
        let bearable = if live > DROPPED_AT_ONCE { live / 16 } else { 0 };
        (removed > bearable).then_some(Merge::DropRemoved)
    }

    /// Drops removed rows and, for [`Merge::Whole`], makes bits and lists anew. Searches and changes go on meanwhile.
    ///
    /// # Errors
    /// That it was told to stop, or why there are no lists; the index is as it was then.
    pub(in crate::gallery) fn merge(&self, merge: Merge, stop: &AtomicBool) -> Result<(), String> {
        let _merging = self.merging.lock();
        let mut seen = self.current.load_full();
        // A pool of its own: on the shared one, a scan would wait behind what is built.
        let pool = rayon::ThreadPoolBuilder::new()
            .thread_name(|at| format!("index-build-{at}"))
            .start_handler(|_| give_way(BEHIND))
            .build()
            .map_err(|error| error.to_string())?;
        let mut merged = pool.install(|| match merge {
            Merge::Whole => whole(&seen, stop),
            Merge::DropRemoved => drop_removed(&seen, stop),
        })?;
        for _ in 0..LOOKS {
            let now = self.current.load_full();
            if now.era != seen.era {
                return Ok(());
            }
            let came = now.rows.len() - seen.rows.len();
            merged.catch_up(&seen.rows, &now.rows, &pool);
            seen = now;
            if came <= LEFT_FOR_THE_END {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
        }
        let _writer = self.writer.lock();
        let now = self.current.load();
        if now.era != seen.era {
            return Ok(());
        }
        merged.catch_up(&seen.rows, &now.rows, &pool);
        let Merged { rows, lists, outside, .. } = merged;
        self.current.store(Arc::new(Snapshot { rows, lists, outside, ..Snapshot::clone(&now) }));
        Ok(())
    }
}

/// What a merge makes.
struct Merged {
    /// Where rows of the index went that it is made of, by their old numbers; [`DROPPED`] where they went nowhere.
    places: Vec<u32>,
    rows: Rows,
    lists: Option<Arc<Lists>>,
    /// [`Snapshot::outside`].
    outside: f32,
}

const DROPPED: u32 = u32::MAX;

impl Merged {
    /// `keep`: old numbers of `of` rows, in the new order.
    fn new(of: usize, keep: &[u32], rows: Rows, lists: Option<Arc<Lists>>, outside: f32) -> Self {
        let mut places = vec![DROPPED; of];
        (0..).zip(keep).for_each(|(new, old)| places[*old as usize] = new);
        Self { places, rows, lists, outside }
    }

    /// What changed from one look at the index to another: rows removed, and rows added behind.
    fn catch_up(&mut self, seen: &Rows, now: &Rows, pool: &ThreadPool) {
        let gone: Vec<u32> =
            now.removed_since(seen).iter().map(|old| self.places[*old as usize]).collect();
        self.rows.remove_rows(&gone);
        let mut came = Vec::new();
        for old in seen.len() as u32..now.len() as u32 {
            let live = now.is_live(old);
            self.places.push(if live { (self.rows.len() + came.len()) as u32 } else { DROPPED });
            if live {
                came.push(old);
            }
        }
        pool.install(|| self.rows.extend(&came, |old| (now.info(old), now.template(old))));
    }
}

fn whole(before: &Snapshot, stop: &AtomicBool) -> Result<Merged, String> {
    let old = &before.rows;
    let mut keep: Vec<u32> = (0..old.len() as u32).filter(|row| old.is_live(*row)).collect();
    // In order of enrolment, whatever the order was before.
    keep.sort_unstable_by_key(|row| old.info(*row).number);
    let row = |at: usize| old.template(keep[at]).values(before.kernel);
    let encoder = Arc::new(Encoder::fitted(old.dim, keep.len(), row));
    let mut lists = None;
    if keep.len() > before.scan_up_to {
        let templates: Vec<Packed<'_>> = keep.iter().map(|row| old.template(*row)).collect();
        let Arranged { order, sizes } =
            arrange(before.kernel, &encoder, &templates, stop).ok_or_else(stopped)?;
        keep = order.into_iter().map(|at| keep[at as usize]).collect();
        let row = |row: u32| old.template(keep[row as usize]);
        let made = Lists::build(before.kernel, &encoder, &sizes, row, (before.graph_from, stop))?;
        lists = Some(Arc::new(made));
    }
    let rows = copied(old, &keep, encoder, before.kernel, stop)?;
    let merged = Snapshot { rows, lists, ..before.clone() };
    let outside = outside(&merged, stop).ok_or_else(stopped)?;
    let Snapshot { rows, lists, .. } = merged;
    Ok(Merged::new(old.len(), &keep, rows, lists, outside))
}

fn drop_removed(before: &Snapshot, stop: &AtomicBool) -> Result<Merged, String> {
    let old = &before.rows;
    let keep: Vec<u32> = (0..old.len() as u32).filter(|row| old.is_live(*row)).collect();
    let encoder = Arc::clone(&old.encoder);
    let lists = before.lists.as_ref().map(|lists| {
        let sizes = lists.sizes_of(|row| old.is_live(row));
        let row = |row: u32| old.template(keep[row as usize]);
        let links = lists.links().cloned();
        Arc::new(Lists::with_links(before.kernel, &encoder, &sizes, row, links))
    });
    let rows = copied(old, &keep, encoder, before.kernel, stop)?;
    Ok(Merged::new(old.len(), &keep, rows, lists, before.outside))
}

fn copied(
    old: &Rows,
    keep: &[u32],
    encoder: Arc<Encoder>,
    kernel: Kernel,
    stop: &AtomicBool,
) -> Result<Rows, String> {
    let mut rows = Rows::new(kernel, encoder);
    for part in keep.chunks(COPIED_AT_ONCE) {
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        rows.extend(part, |row| (old.info(row), old.template(row)));
    }
    Ok(rows)
}

pub(super) fn stopped() -> String {
    "it was told to stop".to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng};

    use super::super::samples::{loaded, unit};
    use super::*;
    use crate::domain::HandAttributes;
    use crate::gallery::types::GalleryOptions;

    /// Whoever came or went while it was made, early or at the very end.
    #[test]
    fn what_changes_during_merges_is_there_once_and_under_its_own_template() {
        const DIM: usize = 16;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(15);
        let vectors: Vec<Vec<f32>> = (0..9_000).map(|_| unit(&mut rng, DIM)).collect();
        let all = loaded(&vectors, |_| HandAttributes::default());
        let index =
            Index::new(DIM, &GalleryOptions { scan_up_to: 2_000, ..GalleryOptions::default() });
        index.fill(&all[..3_000], None);
        let mut there: BTreeMap<u64, usize> = (0..3_000).map(|at| (all[at].0.number, at)).collect();
        let done = AtomicBool::new(false);
        let merges = std::thread::scope(|scope| {
            let merging = scope.spawn(|| {
                let mut merges = 0;
                while !done.load(Ordering::Relaxed) {
                    let kind = if merges % 2 == 0 { Merge::Whole } else { Merge::DropRemoved };
                    index.merge(kind, &AtomicBool::new(false)).unwrap();
                    merges += 1;
                }
                merges
            });
            let mut next = 3_000;
            while next < all.len() {
                // At times more than is left for the end of a merge.
                let until = (next + rng.random_range(1..600)).min(all.len());
                index.push((next..until).map(|at| (Arc::clone(&all[at].0), &*vectors[at])));
                there.extend((next..until).map(|at| (all[at].0.number, at)));
                next = until;
                for _ in 0..rng.random_range(0..40) {
                    let at = rng.random_range(0..next);
                    let info = &all[at].0;
                    index.remove_sample(info.subject_number, info.number);
                    there.remove(&info.number);
                }
            }
            done.store(true, Ordering::Relaxed);
            merging.join().unwrap()
        });
        assert!(merges > 0);
        let snapshot = index.load();
        let mut found = BTreeMap::new();
        for row in (0..snapshot.rows.len() as u32).filter(|row| snapshot.rows.is_live(*row)) {
            let number = snapshot.info(row).number;
            assert!(found.insert(number, ()).is_none(), "twice: {number}");
            let at = *there.get(&number).unwrap_or_else(|| panic!("removed: {number}"));
            let similarity = snapshot.rows.template(row).dot(snapshot.kernel, &vectors[at]);
            assert!(similarity > 0.99, "{number} lies under another's template: {similarity}");
        }
        assert_eq!(found.len(), there.len());
        assert_eq!(snapshot.rows.live(), there.len());
    }
}
