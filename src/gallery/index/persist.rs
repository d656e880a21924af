//! Lists at rest. Holds numbers and links only: templates stay in their own records, under their subjects' keys, so what is saved
//! here need not be found and destroyed when somebody is erased.
//!
//! ```text
//! `HCLISTS2` | rows u32 | lists u32 | how similar what a search misses may be f32 | sample numbers u64 × rows | rows of each list u32 × lists | links, if there is a graph
//! SHA-256 of everything before; all little-endian
//! ```

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::arrange::Arranged;
use super::graph::{self, Links};
use super::reader::Reader;

const MAGIC: &[u8; 8] = b"HCLISTS2";

/// Lists without their templates.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::gallery) struct SavedLists {
    /// The sample that each row stands for.
    pub(super) numbers: Vec<u64>,
    /// Rows of each list.
    pub(super) sizes: Vec<u32>,
    /// [`super::Snapshot::outside`].
    pub(super) outside: f32,
    /// Between them, where there is a graph.
    pub(super) links: Option<Links>,
}

impl SavedLists {
    /// The largest number of a sample that they name.
    pub(in crate::gallery) fn largest(&self) -> Option<u64> {
        self.numbers.iter().copied().max()
    }

    /// The lists as far as their rows are among `numbers`: places in these. `None` when a fifth or more is missing: a new arrangement
    /// is the better one.
    pub(super) fn among(&self, numbers: impl Iterator<Item = u64>) -> Option<Arranged> {
        let places: HashMap<u64, u32> = numbers.zip(0..).collect();
        let place = |number: &u64| places.get(number).copied();
        let mut rows = self.numbers.iter();
        let mut order = Vec::with_capacity(self.numbers.len());
        let mut sizes = Vec::with_capacity(self.sizes.len());
        for size in &self.sizes {
            let before = order.len();
            order.extend(rows.by_ref().take(*size as usize).filter_map(place));
            sizes.push((order.len() - before) as u32);
        }
        (order.len() * 5 > self.numbers.len() * 4).then_some(Arranged { order, sizes })
    }
}

pub(super) fn to_bytes(
    numbers: &[u64],
    sizes: &[u32],
    outside: f32,
    links: Option<&Links>,
) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for count in [numbers.len(), sizes.len()] {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    out.extend_from_slice(&outside.to_le_bytes());
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    sizes.iter().for_each(|size| out.extend_from_slice(&size.to_le_bytes()));
    if let Some(links) = links {
        graph::to_bytes(links, &mut out);
    }
    let digest = Sha256::digest(&out);
    out.extend_from_slice(&digest);
    out
}

/// `None` for anything that [`to_bytes`] did not write.
pub(in crate::gallery) fn from_bytes(bytes: &[u8]) -> Option<SavedLists> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(body).as_slice() != digest {
        return None;
    }
    let mut reader = Reader(body.strip_prefix(MAGIC)?);
    let (rows, lists) = (reader.word()? as usize, reader.word()? as usize);
    let outside = f32::from_bits(reader.word()?);
    let numbers = reader.long_words(rows)?;
    let sizes = reader.words(lists)?;
    let links = match reader.0 {
        [] => None,
        [..] => Some(graph::from_bytes(&mut reader)?),
    };
    let covered: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
    let linked = links.as_ref().is_none_or(|links| links.nodes() == lists);
    let fits = covered == rows as u64 && linked && reader.0.is_empty();
    fits.then_some(SavedLists { numbers, sizes, outside, links })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_go_on_without_rows_that_are_gone() {
        let saved = SavedLists {
            numbers: (0..10).collect(),
            sizes: vec![4, 1, 5],
            outside: 0.5,
            links: None,
        };
        let left = |gone: &[u64]| saved.among((0..10).rev().filter(|n| !gone.contains(n)));
        let Arranged { order, sizes } = left(&[4]).unwrap();
        assert_eq!(sizes, [4, 0, 5]);
        assert_eq!(order, [8, 7, 6, 5, 4, 3, 2, 1, 0], "places in reverse, as they were given");
        assert!(left(&[4, 5]).is_none(), "a fifth is missing");
    }

    #[test]
    fn saved_lists_read_back_and_no_altered_ones_do() {
        let numbers: Vec<u64> = (100..110).collect();
        let sizes = [3, 0, 7];
        for links in [None, Some(Links::ring(3))] {
            let bytes = to_bytes(&numbers, &sizes, 0.25, links.as_ref());
            let saved = from_bytes(&bytes).unwrap();
            assert_eq!((&saved.numbers, saved.sizes.as_slice()), (&numbers, sizes.as_slice()));
            assert_eq!((saved.links, saved.outside), (links, 0.25));
            for at in 0..bytes.len() {
                let mut altered = bytes.clone();
                altered[at] ^= 1;
                assert!(from_bytes(&altered).is_none(), "byte {at}");
                assert!(from_bytes(&bytes[..at]).is_none(), "cut to {at}");
            }
        }
        // Well sealed, but of other numbers of rows and lists.
        assert!(from_bytes(&to_bytes(&numbers[1..], &sizes, 0.25, None)).is_none());
        assert!(from_bytes(&to_bytes(&numbers, &[3, 7], 0.25, Some(&Links::ring(3)))).is_none());
    }
}
