//! Holding a log against what it must hold.
//!
//! That takes reading all of it. Who opens a store reads most of it anyway, so what is read in the meantime is accounted for in passing, and
//! only the rest is read for the check's sake. Nothing is written before the whole is accounted for.

use std::ops::Bound;
use std::path::Path;

use rayon::prelude::*;

use super::commit::from_sled;
use super::manifest::{FIRST_BULK, Manifest, counts};
use super::walk::{Part, cut, part_of};
use super::{StorageError, Store};

/// What must be there, and what was found so far.
#[derive(Clone)]
pub(super) struct Unverified {
    expected: Manifest,
    /// What lies under prefixes that were read; none of them begins with another.
    seen: Vec<(Vec<u8>, Manifest)>,
}

impl Unverified {
    pub(super) fn new(expected: Manifest) -> Self {
        Self { expected, seen: Vec::new() }
    }

    /// Whether a prefix counts, and nothing of it was read.
    fn lacks(&self, prefix: &[u8]) -> bool {
        let apart = |(seen, _): &(Vec<u8>, Manifest)| {
            !seen.starts_with(prefix) && !prefix.starts_with(seen)
        };
        counts(prefix) && self.seen.iter().all(apart)
    }

    /// Reads what was not read, and gives what there is in all.
    fn sum_up(&self, dir: &Path, db: &sled::Db) -> Result<Manifest, StorageError> {
        let failed = |error| from_sled(dir, error);
        let mut parts = Vec::new();
        for part in self.unseen() {
            parts.extend(cut(db, part).map_err(failed)?);
        }
        let sum = |(from, to): Part| {
            let mut found = Manifest::default();
            for item in db.range((Bound::Included(from), Bound::Excluded(to))) {
                let (key, sealed) = item.map_err(failed)?;
                found.add(&key, &sealed);
            }
            Ok(found)
        };
        let summed = parts.into_par_iter().map(sum).collect::<Result<Vec<_>, StorageError>>()?;
        let mut all = Manifest::default();
        let seen = self.seen.iter().map(|(_, seen)| seen);
        seen.chain(&summed).for_each(|part| all.join(part));
        Ok(all)
    }

    /// What lies before, between and behind the prefixes that were read.
    fn unseen(&self) -> Vec<Part> {
        let mut seen: Vec<Part> = self.seen.iter().map(|(prefix, _)| part_of(prefix)).collect();
        seen.sort_unstable();
        let mut unseen = Vec::new();
        for kind in 1..FIRST_BULK {
            let (mut from, end) = part_of(&[kind]);
            for (start, behind) in seen.iter().filter(|(start, _)| start.first() == Some(&kind)) {
                unseen.push((from, start.clone()));
                from = behind.clone();
            }
            unseen.push((from, end));
        }
        unseen.retain(|(from, to)| from < to);
        unseen
    }
}

impl Store {
    /// Makes sure that the log holds what its manifest says, where that was not done before; every write does so first.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it does not.
    pub fn verify(&self) -> Result<(), StorageError> {
        // Not held while reading: on a pool, whoever waits there may be given a walk to do, which asks for it too.
        let Some(pending) = self.0.unverified.lock().clone() else { return Ok(()) };
        let found = pending.sum_up(&self.0.dir, &self.0.db)?;
        let mut unverified = self.0.unverified.lock();
        // After somebody else came to the end, there may have been writes.
        if unverified.is_none() || pending.expected.same_records(&found) {
            *unverified = None;
            return Ok(());
        }
        let detail = format!(
            "the log holds {} records, its manifest says {}, and their sums differ",
            found.records, pending.expected.records
        );
        Err(StorageError::damaged(&self.0.dir, detail))
    }

    /// Whether what lies under a prefix is still to be accounted for.
    pub(super) fn is_accounting_for(&self, prefix: &[u8]) -> bool {
        self.0.unverified.lock().as_ref().is_some_and(|pending| pending.lacks(prefix))
    }

    /// Takes note of everything that lies under a prefix.
    pub(super) fn account_for(&self, prefix: &[u8], found: &Manifest) {
        if let Some(pending) = &mut *self.0.unverified.lock()
            && pending.lacks(prefix)
        {
            pending.seen.push((prefix.to_vec(), *found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_every_record_once(
            records in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..14), any::<u64>(), 0..60,
            ),
            counted in prop::collection::btree_map(any::<u16>(), any::<u64>(), 0..200),
            // Some of which overlap.
            read in prop::sample::subsequence(
                vec![vec![4, 0, 0, 0, 1], vec![4], vec![4, 0, 0, 0, 2], vec![0x7f], vec![3, 255], vec![1]], 0..=6,
            ).prop_shuffle(),
        ) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let counted = counted.into_iter().map(|(at, value)| {
                ([&[4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &at.to_be_bytes()].concat(), value)
            });
            let records: std::collections::BTreeMap<Vec<u8>, u64> =
                records.into_iter().chain(counted).collect();
            let mut expected = Manifest::default();
            for (key, value) in &records {
                db.insert(key, &value.to_be_bytes()).unwrap();
                if counts(key) {
                    expected.add(key, &value.to_be_bytes());
                }
            }
            let mut pending = Unverified::new(expected);
            for prefix in read {
                if pending.lacks(&prefix) {
                    let mut seen = Manifest::default();
                    let under = records.iter().filter(|(key, _)| key.starts_with(&prefix));
                    under.for_each(|(key, value)| seen.add(key, &value.to_be_bytes()));
                    pending.seen.push((prefix, seen));
                }
            }
            let found = pending.sum_up(Path::new("/data"), &db).unwrap();
            prop_assert!(found.same_records(&expected), "{found:?} {expected:?}");
        }
    }
}
