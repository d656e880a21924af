//! Links at rest.
//!
//! ```text
//! nodes u32 | width u32 | entry u32 | layers u32 | links u32 × nodes × width
//! each layer: entries u32, each entry: node u32 | count u32 | links u32 × count; all little-endian
//! ```

use std::collections::HashMap;

use super::super::reader::Reader;
use super::walk::{Layer, Links, NONE};

pub(in crate::gallery::index) fn to_bytes(links: &Links, out: &mut Vec<u8>) {
    let mut word = |value: usize| out.extend_from_slice(&(value as u32).to_le_bytes());
    let head = [links.nodes, links.width, links.entry as usize, links.upper.len()];
    head.into_iter().for_each(&mut word);
    links.base.iter().for_each(|link| word(*link as usize));
    for layer in &links.upper {
        word(layer.links.len());
        // Sorted, so that one graph has one form.
        let mut nodes: Vec<_> = layer.links.iter().collect();
        nodes.sort_unstable_by_key(|(node, _)| **node);
        for (node, links) in nodes {
            word(*node as usize);
            word(links.len());
            links.iter().for_each(|link| word(*link as usize));
        }
    }
}

/// `None` for anything that [`to_bytes`] did not write.
pub(in crate::gallery::index) fn from_bytes(reader: &mut Reader<'_>) -> Option<Links> {
    let [nodes, width, entry, layers] = [(); 4].map(|()| reader.word());
    let (nodes, width) = (nodes? as usize, width? as usize);
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
    Some(Links { nodes, width, base, upper, entry: entry? })
}
