//! Walking through records of a log on several threads.

use std::ops::Bound;

use rayon::prelude::*;

use super::codec::Opener;
use super::commit::from_sled;
use super::manifest::Manifest;
use super::{StorageError, Store};

/// Parts that records are cut into: several a thread, since they are not equally long.
const PARTS: u64 = 64;

/// From a key, up to another that is left out.
pub(super) type Part = (Vec<u8>, Vec<u8>);

impl Store {
    /// Opens every record whose key starts with `prefix` and is `wanted`, on the threads of the pool that it is called in, and gives what
    /// `each` makes of them, in key order. In a store that is not verified yet, all of them are accounted for in passing.
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
        let parts = cut(&self.0.db, part_of(prefix)).map_err(failed)?;
        let accounting = self.is_accounting_for(prefix);
        let walk = |(from, to): Part| {
            let (mut found, mut seen) = (Vec::new(), Manifest::default());
            let mut opener = Opener::default();
            for item in self.0.db.range((Bound::Included(from), Bound::Excluded(to))) {
                let (key, sealed) = item.map_err(failed)?;
                if accounting {
                    seen.add(&key, &sealed);
                }
                if wanted(&key) {
                    found.push(each(&key, self.unseal_next(&mut opener, &key, &sealed)?)?);
                }
            }
            Ok((found, seen))
        };
        let walked = parts.into_par_iter().map(walk).collect::<Result<Vec<_>, E>>()?;
        let mut all = Vec::with_capacity(walked.iter().map(|(found, _)| found.len()).sum());
        let mut seen = Manifest::default();
        for (found, part) in walked {
            all.extend(found);
            seen.join(&part);
        }
        if accounting {
            self.account_for(prefix, &seen);
        }
        Ok(all)
    }
}

/// Every key that starts with `prefix`, which is one of a kind that there may be, so that there is room for an end.
pub(super) fn part_of(prefix: &[u8]) -> Part {
    let mut end = prefix.to_vec();
    while end.pop_if(|byte| *byte == u8::MAX).is_some() {}
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    (prefix.to_vec(), end)
}

/// Parts that hold every key of a part, in order, and about equally many each where keys count up.
pub(super) fn cut(db: &sled::Db, (start, end): Part) -> Result<Vec<Part>, sled::Error> {
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
