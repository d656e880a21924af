use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::kernel::Kernel;
use super::pivots::Pivots;

/// Fills a list of links that is not full.
pub(super) const NONE: u32 = u32::MAX;

/// A graph over the first rows of a gallery, in contiguous arrays, with int8 codes to walk on.
/// Node numbers are row numbers. Frozen: removals are filtered by the caller, additions go to the tail.
#[derive(Debug, Clone)]
pub(in crate::gallery) struct Segment {
    pub(super) dim: usize,
    /// `[nodes, dim]`, each row scaled so that its largest value is 127.
    pub(super) codes: Vec<i8>,
    /// `[nodes]`: what a code is to be multiplied by.
    pub(super) scales: Vec<f32>,
    /// Links a node has on the lowest layer.
    pub(super) width: usize,
    /// `[nodes, width]`, filled up with [`NONE`].
    pub(super) base: Vec<u32>,
    /// Layer 1 first.
    pub(super) upper: Vec<Layer>,
    /// Where every walk begins: a node of the highest layer.
    pub(super) entry: u32,
    /// Where walks of the lowest layer begin besides.
    pub(super) pivots: Pivots,
}

/// A layer above the lowest: a few nodes with far links.
#[derive(Debug, Clone, Default)]
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

    /// Remembers a node just met, unless `width` closer ones that count are known.
    fn offer(&mut self, candidate: Near, width: usize, counts: bool) {
        let full = self.closest.len() >= width;
        if full && self.closest.peek().is_some_and(|worst| candidate < worst.0) {
            return;
        }
        self.open.push(candidate);
        if counts {
            self.closest.push(std::cmp::Reverse(candidate));
            if full {
                self.closest.pop();
            }
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

impl Segment {
    /// Nodes without a link. coded: a code and its scale for each node.
    pub(super) fn new(dim: usize, coded: &[(Vec<i8>, f32)], width: usize) -> Self {
        let codes: Vec<i8> = coded.iter().flat_map(|(code, _)| code).copied().collect();
        let scales: Vec<f32> = coded.iter().map(|(_, scale)| *scale).collect();
        let pivots = Pivots::new(dim, &codes, &scales);
        let base = vec![NONE; scales.len() * width];
        Self { dim, codes, scales, width, base, upper: Vec::new(), entry: 0, pivots }
    }

    pub(in crate::gallery) fn len(&self) -> usize {
        self.scales.len()
    }

    pub(super) fn links(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.width;
        self.base[start..start + self.width].iter().copied().take_while(|link| *link != NONE)
    }

    /// Replaces a node's links on the lowest layer; what goes over the width is dropped.
    pub(super) fn set_links(&mut self, node: u32, links: impl Iterator<Item = u32>) {
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

    pub(super) fn code(&self, node: u32) -> &[i8] {
        &self.codes[node as usize * self.dim..(node as usize + 1) * self.dim]
    }

    /// Similarity to a probe in code, up to the probe's scale.
    pub(super) fn similarity(&self, kernel: Kernel, query: &[i8], node: u32) -> f32 {
        kernel.dot_codes(query, self.code(node)) as f32 * self.scales[node as usize]
    }

    /// The `width` admitted nodes closest to `query` by their codes, in no order; fewer when the walk
    /// found no more. `None` when it met too many nodes that do not count to be worth going on.
    pub(super) fn walk(
        &self,
        kernel: Kernel,
        query: &[f32],
        width: usize,
        admits: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        if self.len() == 0 {
            return Some(Vec::new());
        }
        let (code, _) = encode(query);
        let near = |node: u32| Near { similarity: self.similarity(kernel, &code, node), node };
        let mut best = near(self.entry);
        for layer in self.upper.iter().rev() {
            loop {
                let links = layer.links.get(&best.node).into_iter().flatten();
                match links.map(|node| near(*node)).max() {
                    Some(next) if next > best => best = next,
                    Some(_) | None => break,
                }
            }
        }
        let starts = std::iter::once(best.node).chain(self.pivots.starts(kernel, query));
        SCRATCH.with_borrow_mut(|scratch| self.walk_base(scratch, starts, width, near, admits))
    }

    fn walk_base(
        &self,
        scratch: &mut Scratch,
        starts: impl Iterator<Item = u32>,
        width: usize,
        near: impl Fn(u32) -> Near,
        admits: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        // A walk that saw this many nodes costs as much as the scan it was to save.
        let most = self.len() / 2 + width;
        let mut seen = 0;
        scratch.clear(self.len());
        for node in starts {
            if scratch.visit(node) {
                seen += 1;
                scratch.offer(near(node), width, admits(node));
            }
        }
        while let Some(nearest) = scratch.open.pop() {
            let full = scratch.closest.len() >= width;
            if full && scratch.closest.peek().is_some_and(|worst| nearest < worst.0) {
                break;
            }
            for node in self.links(nearest.node) {
                if scratch.visit(node) {
                    seen += 1;
                    scratch.offer(near(node), width, admits(node));
                }
            }
            if seen > most {
                return None;
            }
        }
        Some(scratch.closest.drain().map(|near| near.0.node).collect())
    }
}

/// Values scaled to -127..127, and what to multiply them by to get them back.
pub(super) fn encode(values: &[f32]) -> (Vec<i8>, f32) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest == 0.0 {
        return (vec![0; values.len()], 0.0);
    }
    let codes = values.iter().map(|value| (value / largest * 127.0).round() as i8).collect();
    (codes, largest / 127.0)
}
