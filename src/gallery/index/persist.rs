//! A graph at rest. Holds numbers and links only: templates stay in their own records, under their
//! subjects' keys, so a saved graph need not be found and destroyed when somebody is erased.
//!
//! ```text
//! `HCGRAPH1` | dim u32 | nodes u32 | width u32 | entry u32 | layers u32
//! sample numbers u64 × nodes | links u32 × nodes × width
//! each layer: entries u32, each entry: node u32 | count u32 | links u32 × count
//! SHA-256 of everything before; all little-endian
//! ```

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::segment::{Layer, NONE, Segment};

const MAGIC: &[u8; 8] = b"HCGRAPH1";

/// A graph without its templates.
#[derive(Debug, Clone)]
pub(in crate::gallery) struct SavedGraph {
    /// The sample each node stands for.
    pub(in crate::gallery) numbers: Vec<u64>,
    pub(super) dim: usize,
    pub(super) width: usize,
    pub(super) entry: u32,
    pub(super) base: Vec<u32>,
    pub(super) upper: Vec<Layer>,
}

pub(super) fn to_bytes(segment: &Segment, numbers: &[u64]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let word = |out: &mut Vec<u8>, value: usize| {
        out.extend_from_slice(&(value as u32).to_le_bytes());
    };
    word(&mut out, segment.dim);
    word(&mut out, segment.len());
    word(&mut out, segment.width);
    word(&mut out, segment.entry as usize);
    word(&mut out, segment.upper.len());
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    segment.base.iter().for_each(|link| out.extend_from_slice(&link.to_le_bytes()));
    for layer in &segment.upper {
        word(&mut out, layer.links.len());
        // Sorted, so that one graph has one form.
        let mut nodes: Vec<_> = layer.links.iter().collect();
        nodes.sort_unstable_by_key(|(node, _)| **node);
        for (node, links) in nodes {
            word(&mut out, *node as usize);
            word(&mut out, links.len());
            links.iter().for_each(|link| out.extend_from_slice(&link.to_le_bytes()));
        }
    }
    let digest = Sha256::digest(&out);
    out.extend_from_slice(&digest);
    out
}

/// `None` for anything that [`to_bytes`] did not write.
pub(in crate::gallery) fn from_bytes(bytes: &[u8]) -> Option<SavedGraph> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(body).as_slice() != digest {
        return None;
    }
    let mut reader = Reader(body.strip_prefix(MAGIC)?);
    let [dim, nodes, width, entry, layers] = [(); 5].map(|()| reader.word());
    let (nodes, width) = (nodes? as usize, width? as usize);
    let numbers = reader.many(nodes, 8)?.as_chunks::<8>().0;
    let numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let node = |link: u32| (link as usize) < nodes;
    let base = reader.words(nodes.checked_mul(width)?)?;
    if !base.iter().all(|link| *link == NONE || node(*link)) || !node(entry?) {
        return None;
    }
    let mut upper = Vec::new();
    for _ in 0..layers? {
        let mut links = HashMap::new();
        for _ in 0..reader.word()? {
            let from = reader.word().filter(|from| node(*from))?;
            let count = reader.word()? as usize;
            let to = reader.words(count)?;
            if !to.iter().all(|link| node(*link)) {
                return None;
            }
            links.insert(from, to);
        }
        upper.push(Layer { links });
    }
    let dim = dim? as usize;
    reader.0.is_empty().then_some(SavedGraph { numbers, dim, width, entry: entry?, base, upper })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn many(&mut self, count: usize, size: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count.checked_mul(size)?)?;
        self.0 = rest;
        Some(head)
    }

    fn words(&mut self, count: usize) -> Option<Vec<u32>> {
        let words = self.many(count, 4)?.as_chunks::<4>().0;
        Some(words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn word(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }
}

impl SavedGraph {
    /// Drops the nodes that `keep` does not name. A link to a dropped node is replaced by that
    /// node's own links, so that what was reached through it stays within reach. `None` when too little is left
    /// for that to work.
    pub(super) fn retain(self, keep: &[bool]) -> Option<Self> {
        let kept = keep.iter().filter(|keep| **keep).count();
        // Beyond a fifth dropped, a new graph is the better one.
        if kept == 0 || kept * 5 < keep.len() * 4 {
            return None;
        }
        if kept == keep.len() {
            return Some(self);
        }
        let mut renumbered = vec![NONE; keep.len()];
        let kept_nodes = (0..keep.len()).filter(|node| keep[*node]);
        (0_u32..).zip(kept_nodes).for_each(|(new, old)| renumbered[old] = new);
        let is_kept = |node: u32| keep[node as usize];
        let old_links = |node: u32| {
            let start = node as usize * self.width;
            self.base[start..start + self.width].iter().copied().filter(|link| *link != NONE)
        };
        let mut base = Vec::with_capacity(kept * self.width);
        for node in (0..keep.len() as u32).filter(|node| is_kept(*node)) {
            let direct = old_links(node).filter(|link| is_kept(*link));
            let through = old_links(node).filter(|link| !is_kept(*link)).flat_map(old_links);
            let mut links: Vec<u32> = Vec::with_capacity(self.width);
            for link in direct.chain(through.filter(|link| is_kept(*link) && *link != node)) {
                let link = renumbered[link as usize];
                if links.len() < self.width && !links.contains(&link) {
                    links.push(link);
                }
            }
            links.resize(self.width, NONE);
            base.append(&mut links);
        }
        let upper: Vec<Layer> = self
            .upper
            .iter()
            .map(|layer| {
                let through = |link: u32| -> Vec<u32> {
                    if is_kept(link) {
                        return vec![link];
                    }
                    let onward = layer.links.get(&link).into_iter().flatten().copied();
                    onward.filter(|link| is_kept(*link)).collect()
                };
                let entries = layer.links.iter().filter(|(node, _)| is_kept(**node));
                let entries = entries.map(|(node, links)| {
                    let mut links: Vec<u32> = links
                        .iter()
                        .flat_map(|link| through(*link))
                        .filter(|link| link != node)
                        .map(|link| renumbered[link as usize])
                        .collect();
                    links.sort_unstable();
                    links.dedup();
                    (renumbered[*node as usize], links)
                });
                Layer { links: entries.collect() }
            })
            .collect();
        let entry = if is_kept(self.entry) {
            renumbered[self.entry as usize]
        } else {
            // The smallest of the highest layer that has any, to be the same every time.
            let highest = upper.iter().rev().find(|layer| !layer.links.is_empty());
            highest.and_then(|layer| layer.links.keys().min().copied()).unwrap_or(0)
        };
        let numbers = self.numbers.iter().zip(keep).filter(|(_, keep)| **keep);
        let numbers = numbers.map(|(number, _)| *number).collect();
        Some(Self { numbers, dim: self.dim, width: self.width, entry, base, upper })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph(nodes: u32) -> Segment {
        let ring = |node: u32| vec![(node + 1) % nodes, (node + nodes - 1) % nodes];
        Segment {
            base: (0..nodes).flat_map(|n| [ring(n), vec![NONE; 2]].concat()).collect(),
            upper: vec![Layer { links: HashMap::from([(2, vec![5]), (5, vec![2])]) }],
            entry: 5,
            ..Segment::new(3, &vec![(vec![0; 3], 1.0); nodes as usize], 4)
        }
    }

    #[test]
    fn a_saved_graph_reads_back_and_no_altered_one_does() {
        let numbers: Vec<u64> = (100..110).collect();
        let bytes = to_bytes(&graph(10), &numbers);
        let saved = from_bytes(&bytes).unwrap();
        assert_eq!((saved.numbers, saved.entry, saved.base), (numbers, 5, graph(10).base));
        assert_eq!(saved.upper[0].links, graph(10).upper[0].links);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(from_bytes(&altered).is_none(), "byte {at}");
            assert!(from_bytes(&bytes[..at]).is_none(), "cut to {at}");
        }
    }

    proptest! {
        #[test]
        fn dropping_nodes_keeps_a_ring_whole(dropped in prop::collection::btree_set(0_u32..40, 0..8)) {
            // No two neighbours dropped: their links lead one step onward only.
            prop_assume!(dropped.iter().all(|n| !dropped.contains(&((n + 1) % 40))));
            let numbers: Vec<u64> = (0..40).collect();
            let saved = from_bytes(&to_bytes(&graph(40), &numbers)).unwrap();
            let keep: Vec<bool> = (0..40).map(|node| !dropped.contains(&node)).collect();
            let left = saved.retain(&keep).unwrap();
            let nodes = 40 - dropped.len();
            prop_assert_eq!(left.numbers.len(), nodes);
            prop_assert!(left.numbers.iter().all(|n| !dropped.contains(&(*n as u32))));
            let (mut reached, mut open) = (vec![false; nodes], vec![left.entry]);
            while let Some(node) = open.pop() {
                if !std::mem::replace(&mut reached[node as usize], true) {
                    let links = &left.base[node as usize * 4..node as usize * 4 + 4];
                    open.extend(links.iter().filter(|link| **link != NONE));
                }
            }
            prop_assert!(reached.iter().all(|reached| *reached));
        }
    }
}
