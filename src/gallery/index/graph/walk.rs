use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use rayon::prelude::*;

use super::super::codes::eight_bits;
use super::super::kernel::Kernel;

/// Fills a list of links that is not full.
pub(super) const NONE: u32 = u32::MAX;

/// A frozen graph in contiguous arrays, with int8 codes to walk on.
#[derive(Debug, Clone)]
pub(in crate::gallery::index) struct Graph {
    pub(super) dim: usize,
    /// `[nodes, dim]`, each row scaled so that its largest value is 127.
    pub(super) codes: Vec<i8>,
    /// `[nodes]`: what a code is to be multiplied by.
    pub(super) scales: Vec<f32>,
    pub(super) links: Links,
}

/// Who is linked to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::gallery::index) struct Links {
    pub(super) nodes: usize,
    /// Links a node has on the lowest layer.
    pub(super) width: usize,
    /// `[nodes, width]`, filled up with [`NONE`].
    pub(super) base: Vec<u32>,
    /// Layer 1 first.
    pub(super) upper: Vec<Layer>,
    /// Where every walk begins: a node of the highest layer.
    pub(super) entry: u32,
}

/// A layer above the lowest: a few nodes with far links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) links: HashMap<u32, Vec<u32>>,
}

/// Max-heap order by similarity; equal ones by number, so that a walk is deterministic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Near {
    pub(super) similarity: f32,
    pub(super) node: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.similarity.total_cmp(&other.similarity).then_with(|| other.node.cmp(&self.node))
    }
}

/// What a walk needs besides the graph, kept by each thread: one bit a node and two heaps.
#[derive(Debug, Default)]
struct Scratch {
    visited: Vec<u64>,
    open: BinaryHeap<Near>,
    closest: BinaryHeap<std::cmp::Reverse<Near>>,
}

impl Scratch {
    fn clear(&mut self, nodes: usize) {
        self.visited.clear();
        self.visited.resize(nodes.div_ceil(64), 0);
        self.open.clear();
        self.closest.clear();
    }

    /// Remembers a node just met, unless `width` closer ones are known.
    fn offer(&mut self, candidate: Near, width: usize) {
        let full = self.closest.len() >= width;
        if full && self.closest.peek().is_some_and(|worst| candidate < worst.0) {
            return;
        }
        self.open.push(candidate);
        self.closest.push(std::cmp::Reverse(candidate));
        if full {
            self.closest.pop();
        }
    }

    /// Whether the node is met for the first time.
    fn visit(&mut self, node: u32) -> bool {
        let (word, bit) = (&mut self.visited[node as usize / 64], 1_u64 << (node % 64));
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Links {
    /// Nodes without a link.
    pub(super) fn none(nodes: usize, width: usize) -> Self {
        Self { nodes, width, base: vec![NONE; nodes * width], upper: Vec::new(), entry: 0 }
    }

    pub(in crate::gallery::index) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Each node linked to the next, and one far link above.
    #[cfg(test)]
    pub(in crate::gallery::index) fn ring(nodes: u32) -> Self {
        let layer = Layer { links: HashMap::from([(0, vec![nodes / 2]), (nodes / 2, vec![0])]) };
        let mut links = Self { upper: vec![layer], ..Self::none(nodes as usize, 2) };
        (0..nodes).for_each(|node| links.set(node, std::iter::once((node + 1) % nodes)));
        links
    }

    pub(super) fn of(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.width;
        self.base[start..start + self.width].iter().copied().take_while(|link| *link != NONE)
    }

    /// Replaces a node's links on the lowest layer; what goes over the width is dropped.
    pub(super) fn set(&mut self, node: u32, links: impl Iterator<Item = u32>) {
        let start = node as usize * self.width;
        let list = &mut self.base[start..start + self.width];
        list.fill(NONE);
        list.iter_mut().zip(links).for_each(|(place, link)| *place = link);
    }

    /// Makes `node` link to `other`, in place of its last link when it has as many as fit.
    pub(super) fn link_back(&mut self, node: u32, other: u32) {
        let start = node as usize * self.width;
        let list = &mut self.base[start..start + self.width];
        if !list.contains(&other) {
            let free = list.iter().position(|link| *link == NONE).unwrap_or(list.len() - 1);
            list[free] = other;
        }
    }
}

impl Graph {
    /// vectors: `[dim]` each, one for each node of `links`.
    pub(in crate::gallery::index) fn new(
        kernel: Kernel,
        vectors: &[Vec<f32>],
        links: Links,
    ) -> Self {
        let coded: Vec<(Vec<i8>, f32)> =
            vectors.par_iter().map(|vector| eight_bits(kernel, vector)).collect();
        let codes: Vec<i8> = coded.iter().flat_map(|(code, _)| code).copied().collect();
        let scales: Vec<f32> = coded.iter().map(|(_, scale)| *scale).collect();
        Self { dim: vectors.first().map_or(0, Vec::len), codes, scales, links }
    }

    /// Bytes that codes and the lowest layer take; what is above is a sixteenth of it.
    pub(in crate::gallery::index) fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(&*self.scales) + size_of_val(&*self.links.base)
    }

    pub(in crate::gallery::index) fn links(&self) -> &Links {
        &self.links
    }

    pub(super) fn len(&self) -> usize {
        self.scales.len()
    }

    pub(super) fn code(&self, node: u32) -> &[i8] {
        &self.codes[node as usize * self.dim..(node as usize + 1) * self.dim]
    }

    /// Similarity to a probe in code, up to the probe's scale.
    pub(super) fn similarity(&self, kernel: Kernel, query: &[i8], node: u32) -> f32 {
        kernel.dot_codes(query, self.code(node)) as f32 * self.scales[node as usize]
    }

    /// The `width` nodes closest to `query` by their codes, best first; fewer when the walk found no more.
    pub(in crate::gallery::index) fn walk(
        &self,
        kernel: Kernel,
        query: &[f32],
        width: usize,
    ) -> Vec<u32> {
        if self.len() == 0 {
            return Vec::new();
        }
        let (code, _) = eight_bits(kernel, query);
        let near = |node: u32| Near { similarity: self.similarity(kernel, &code, node), node };
        let mut best = near(self.links.entry);
        for layer in self.links.upper.iter().rev() {
            loop {
                let links = layer.links.get(&best.node).into_iter().flatten();
                match links.map(|node| near(*node)).max() {
                    Some(next) if next > best => best = next,
                    Some(_) | None => break,
                }
            }
        }
        SCRATCH.with_borrow_mut(|scratch| self.walk_base(scratch, best.node, width, near))
    }

    fn walk_base(
        &self,
        scratch: &mut Scratch,
        start: u32,
        width: usize,
        near: impl Fn(u32) -> Near,
    ) -> Vec<u32> {
        scratch.clear(self.len());
        scratch.visit(start);
        scratch.offer(near(start), width);
        while let Some(nearest) = scratch.open.pop() {
            let full = scratch.closest.len() >= width;
            if full && scratch.closest.peek().is_some_and(|worst| nearest < worst.0) {
                break;
            }
            for node in self.links.of(nearest.node) {
                if scratch.visit(node) {
                    scratch.offer(near(node), width);
                }
            }
        }
        let mut found: Vec<Near> = scratch.closest.drain().map(|near| near.0).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().map(|near| near.node).collect()
    }
}
