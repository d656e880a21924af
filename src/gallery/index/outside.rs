//! What a search of lists misses.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::domain::AttributeFilter;
use crate::gallery::types::{Aggregate, SearchParams};

use super::Snapshot;

/// Rows that are asked about, at equal steps.
const ASKED: usize = 512;
/// Rows that are looked for around each.
const WANTED: usize = 32;
/// Of so many of those asked about, one may miss something closer than what is trusted.
const ONE_IN: usize = 256;

/// How similar a row must be to lie in the lists that a search looks into, almost certainly: what searches of some of the rows themselves
/// missed was further away. Nobody is asked who is not enrolled, but what is missed around those who are is as far from them as strangers
/// are. `f32::INFINITY` where there are no lists, `None` when told to stop.
pub(super) fn outside(snapshot: &Snapshot, stop: &AtomicBool) -> Option<f32> {
    if snapshot.lists.is_none() {
        return Some(f32::INFINITY);
    }
    let params = SearchParams {
        limit: WANTED,
        filter: AttributeFilter::default(),
        aggregate: Aggregate::Best,
        exact: false,
    };
    let trusting = Snapshot { outside: f32::NEG_INFINITY, ..snapshot.clone() };
    let whole = Snapshot { lists: None, ..snapshot.clone() };
    let live: Vec<u32> =
        (0..snapshot.rows.len() as u32).filter(|row| snapshot.rows.is_live(*row)).collect();
    let missed = |row: &u32| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let probe = snapshot.template(*row);
        let found = trusting.samples(&probe, &params);
        let all = whole.samples(&probe, &params);
        // Where nothing is missed of these, what is lies further away than they do.
        let missed = all.iter().find(|hit| found.iter().all(|other| other.row != hit.row));
        Some(missed.or(all.last()).map_or(f32::INFINITY, |hit| hit.similarity.get()))
    };
    let step = live.len().div_ceil(ASKED).max(1);
    let asked: Vec<&u32> = live.iter().step_by(step).collect();
    let missed: Option<Vec<f32>> = asked.into_par_iter().map(missed).collect();
    let mut missed = missed?;
    missed.sort_unstable_by(|a, b| b.total_cmp(a));
    let ignored = missed.len() / ONE_IN;
    Some(missed.get(ignored).copied().unwrap_or(f32::INFINITY))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{loaded, near, unit};
    use super::super::{Index, Merge};
    use super::*;
    use crate::domain::HandAttributes;
    use crate::gallery::types::GalleryOptions;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const DIM: usize = 128;

    /// Rows of the ten closest to a probe that a search does not find, of `probes`.
    fn missed(snapshot: &Snapshot, probes: &[Vec<f32>]) -> usize {
        let params = SearchParams {
            limit: 10,
            filter: AttributeFilter::default(),
            aggregate: Aggregate::Best,
            exact: false,
        };
        let exact = SearchParams { exact: true, ..params.clone() };
        let missed = |probe: &Vec<f32>| {
            let found = snapshot.samples(probe, &params);
            let all = snapshot.samples(probe, &exact);
            all.iter().filter(|hit| !found.contains(hit)).count()
        };
        probes.iter().map(missed).sum()
    }

    /// Who is enrolled is found in the lists; for who is not, they are known not to tell.
    #[test]
    fn lists_are_trusted_about_those_who_are_enrolled_only() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let centres: Vec<Vec<f32>> = (0..400).map(|_| unit(&mut rng, DIM)).collect();
        let rows: Vec<Vec<f32>> =
            (0..8_000).map(|at| near(&mut rng, &centres[at % 400], 0.6)).collect();
        let options =
            GalleryOptions { scan_up_to: 500, lists_searched: 16, ..GalleryOptions::default() };
        let index = Index::new(DIM, &options);
        index.fill(&loaded(&rows, |_| HandAttributes::default()), None);
        index.merge(Merge::Whole, &AtomicBool::new(false)).unwrap();
        let snapshot = index.load();
        assert!((0.2..0.6).contains(&snapshot.outside), "{}", snapshot.outside);

        let enrolled: Vec<Vec<f32>> =
            centres.iter().take(100).map(|centre| near(&mut rng, centre, 0.6)).collect();
        let strangers: Vec<Vec<f32>> = (0..100).map(|_| unit(&mut rng, DIM)).collect();
        let blind = Snapshot { outside: f32::NEG_INFINITY, ..Snapshot::clone(&snapshot) };
        let [of_enrolled, of_strangers] = [&enrolled, &strangers]
            .map(|probes| (missed(&snapshot, probes), missed(&blind, probes)));
        assert!(of_enrolled.0 <= 2 && of_enrolled.1 <= 2, "{of_enrolled:?} of 1,000");
        assert!(of_strangers.0 <= 2 && of_strangers.1 > 300, "{of_strangers:?} of 1,000");
        let stop = AtomicBool::new(true);
        assert!(outside(&snapshot, &stop).is_none());
    }
}
