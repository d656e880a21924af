//! Walking through records of a log on several threads.

use std::ops::Bound;
use std::path::Path;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::codec::LastKey;
use super::commit::from_sled;
use super::manifest::{FIRST_BULK, Manifest};
use super::{StorageError, Store};

/// Parts that records are cut into: several a thread, since they are not equally long.
const PARTS: u64 = 64;

/// From a key, up to another that is left out.
type Part = (Vec<u8>, Vec<u8>);

impl Store {
    /// Opens every record whose key starts with `prefix` and is `wanted`, on the threads of the pool that it is called in, and gives what
    /// `each` makes of them, in key order.
    ///
    /// # Errors
    /// As [`Store::get`], and those of `each`; of several, any.
    pub fn walk<T: Send, E: From<StorageError> + Send>(
        &self,
        prefix: &[u8],
        wanted: impl Fn(&[u8]) -> bool + Sync,
        each: impl Fn(&[u8], &[u8]) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let failed = |error| E::from(from_sled(self.dir(), error));
        let parts = cut(&self.0.db, prefix).map_err(failed)?;
        let walk = |(from, to): Part| {
            let mut found = Vec::new();
            let mut last = LastKey::default();
            for item in self.0.db.range((Bound::Included(from), Bound::Excluded(to))) {
                let (key, sealed) = item.map_err(failed)?;
                if wanted(&key) {
                    let plain = self.unseal_next(&mut last, &key, &sealed)?;
                    found.push(each(&key, &plain)?);
                }
            }
            Ok(found)
        };
        let found = parts.into_par_iter().map(walk).collect::<Result<Vec<Vec<T>>, E>>()?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Accounts for every record that a manifest accounts for.
pub(super) fn sum_up(dir: &Path, db: &sled::Db) -> Result<Manifest, StorageError> {
    let mut parts = Vec::new();
    for kind in 1..FIRST_BULK {
        parts.extend(cut(db, &[kind]).map_err(|error| from_sled(dir, error))?);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(parts.len());
    let parts = Mutex::new(parts);
    let next = || parts.lock().pop();
    let work = || {
        let mut found = Manifest::default();
        while let Some((from, to)) = next() {
            for item in db.range((Bound::Included(from), Bound::Excluded(to))) {
                let (key, sealed) = item.map_err(|error| from_sled(dir, error))?;
                found.add(&key, &sealed);
            }
        }
        Ok(found)
    };
    // Threads of its own: sled may never come back from a damaged file, and nobody else should wait for that.
    std::thread::scope(|scope| {
        let walking: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Manifest::default();
        for thread in walking {
            // As if it had happened here, where it is caught.
            all.join(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// Parts that hold every key that starts with `prefix`, in order, and about equally many each where keys count up. A prefix of a kind
/// that there may be, which leaves room for an end.
fn cut(db: &sled::Db, prefix: &[u8]) -> Result<Vec<Part>, sled::Error> {
    let start = prefix.to_vec();
    let mut end = start.clone();
    while end.pop_if(|byte| *byte == u8::MAX).is_some() {}
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    let ends = {
        let mut among = db.range(start.clone()..end.clone());
        (among.next().transpose()?, among.next_back().transpose()?)
    };
    let (Some((first, _)), last) = ends else { return Ok(Vec::new()) };
    let last = last.map_or_else(|| first.clone(), |(last, _)| last);
    let starts: Vec<Vec<u8>> = std::iter::once(start).chain(between(&first, &last)).collect();
    let ends = starts[1..].iter().cloned().chain([end]);
    Ok(starts.iter().cloned().zip(ends).collect())
}

/// Keys at equal steps from one to another, in order.
fn between(first: &[u8], last: &[u8]) -> Vec<Vec<u8>> {
    let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(&key[shared..]).for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(bytes)
    };
    let (low, high) = (number(first), number(last));
    let step = high.saturating_sub(low) / PARTS;
    if step == 0 {
        return Vec::new();
    }
    let at = |part: u64| [&first[..shared], &(low + part * step).to_be_bytes()].concat();
    (1..PARTS).map(at).collect()
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
                if super::super::manifest::counts(key) {
                    expected.add(key, &value.to_be_bytes());
                }
            }
            let found = sum_up(Path::new("/data"), &db).unwrap();
            prop_assert!(found.same_records(&expected), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn keys_that_count_up_are_cut_into_parts_of_about_the_same_length() {
        let key = |number: u64| [&[4, 0, 0, 0, 1][..], &number.to_be_bytes(), &[7; 8]].concat();
        let cuts = between(&key(3), &key(640_003));
        assert_eq!(cuts.len(), 63);
        for (part, cut) in (1..).zip(&cuts) {
            let number = 3 + part * 10_000;
            assert!(*cut > key(number - 1) && *cut <= key(number + 1), "{part}");
        }
        assert!(between(&key(3), &key(3)).is_empty() && between(&[4], &[4]).is_empty());
    }
}
