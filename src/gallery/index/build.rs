//! From rows to a frozen graph.
//!
//! hnsw_rs builds the hierarchy. On templates clustered by subject its lowest layer alone falls short:
//! a list that is full drops its farthest link, which often is the only one out of the cluster. So
//! after flattening, each node's links are chosen again from the neighbours of its neighbours, keeping
//! those in different directions; what still cannot be reached is linked in; and every node is asked
//! about with its own template at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::prelude::*;

use super::kernel::Kernel;
use super::rows::Rows;
use super::segment::{Layer, Near, Segment, encode};

/// How a graph is built.
#[derive(Debug, Clone, Copy)]
pub(in crate::gallery) struct BuildOptions {
    /// Links of a node; twice as many on the lowest layer.
    pub(in crate::gallery) links: usize,
    /// Candidates examined when a node is linked.
    pub(in crate::gallery) build_width: usize,
    /// Width of the walk that checks the graph.
    pub(in crate::gallery) search_width: usize,
}

/// hnsw_rs holds at most this many layers.
const LAYERS: usize = 16;
/// Nodes inserted one after the other first: parallel insertion into an empty graph leaves nodes
/// without links.
const SERIAL: usize = 256;
/// Nodes inserted between two looks at whether to stop.
const STEP: usize = 2_000;
/// Candidates that a node's links are chosen from: of a thousand neighbours of neighbours the far ones
/// only cost time.
const CONSIDERED: usize = 160;
/// Links that lead to a node which could not be reached or found.
const LINKED_BACK: usize = 4;
/// Rounds of linking in what cannot be reached or found.
const ROUNDS: usize = 4;

/// Compares templates in code: a quarter of the bytes, and links are chosen again by the templates
/// themselves.
struct CodedCosine(Kernel);

impl Distance<i8> for CodedCosine {
    fn eval(&self, a: &[i8], b: &[i8]) -> f32 {
        match (a.split_last_chunk(), b.split_last_chunk()) {
            (Some((a, a_scale)), Some((b, b_scale))) => {
                let dot = self.0.dot_codes(a, b) as f32 * unpacked(a_scale) * unpacked(b_scale);
                // Rounding may push it below zero, which hnsw_rs does not survive.
                (1.0 - dot).max(0.0)
            }
            (None, _) | (_, None) => 1.0,
        }
    }
}

/// hnsw_rs hands a distance nothing but two slices, so a code carries its scale behind it.
fn packed((code, scale): &(Vec<i8>, f32)) -> Vec<i8> {
    let scale = scale.to_le_bytes().map(u8::cast_signed);
    code.iter().copied().chain(scale).collect()
}

fn unpacked(scale: &[i8; 4]) -> f32 {
    f32::from_le_bytes(scale.map(i8::cast_unsigned))
}

/// Builds a graph over every row, none of which may be removed.
///
/// # Errors
/// What hnsw_rs said when it panicked, or that `stop` was set.
pub(in crate::gallery) fn build(
    rows: &Rows,
    kernel: Kernel,
    options: BuildOptions,
    stop: &AtomicBool,
) -> Result<Segment, String> {
    // A pool of its own: on the shared one, a scan would wait behind the insertions.
    let pool = rayon::ThreadPoolBuilder::new()
        .thread_name(|at| format!("index-build-{at}"))
        .build()
        .map_err(|error| error.to_string())?;
    pool.install(|| build_here(rows, kernel, options, stop))
}

fn build_here(
    rows: &Rows,
    kernel: Kernel,
    options: BuildOptions,
    stop: &AtomicBool,
) -> Result<Segment, String> {
    let built = catch_unwind(AssertUnwindSafe(|| insert_all(rows, kernel, options, stop)))
        .map_err(|panic| match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "hnsw_rs panicked".to_owned(),
        })?;
    let mut segment = built.ok_or_else(|| "it was told to stop".to_owned())?;
    let tool = Refiner { kernel, rows };
    tool.choose_again(&mut segment);
    let width = options.search_width;
    for _ in 0..ROUNDS {
        let lost = unreachable_nodes(&segment);
        if lost.is_empty() {
            break;
        }
        lost.iter().for_each(|node| tool.link_in(&mut segment, *node, width));
    }
    for _ in 0..ROUNDS {
        let missed = tool.missed(&segment, width);
        if missed.is_empty() {
            break;
        }
        tracing::debug!(missed = missed.len(), "linking in samples that do not find themselves");
        for node in missed {
            // Links to another of its cluster may have helped it.
            if !tool.finds(&segment, node, width) {
                tool.link_in(&mut segment, node, width);
            }
        }
    }
    Ok(segment)
}

/// `None` when told to stop.
fn insert_all(
    rows: &Rows,
    kernel: Kernel,
    options: BuildOptions,
    stop: &AtomicBool,
) -> Option<Segment> {
    let BuildOptions { links, build_width, .. } = options;
    let nodes = rows.len();
    let coded: Vec<(Vec<i8>, f32)> =
        (0..nodes).into_par_iter().map(|row| encode(rows.vector(row as u32))).collect();
    let packed: Vec<Vec<i8>> = coded.par_iter().map(packed).collect();
    let mut graph: Hnsw<'_, i8, CodedCosine> =
        Hnsw::new(links, nodes, LAYERS, build_width, CodedCosine(kernel));
    graph.set_keeping_pruned(true);
    let items: Vec<(&[i8], usize)> =
        packed.iter().enumerate().map(|(row, code)| (code.as_slice(), row)).collect();
    let (first, rest) = items.split_at(SERIAL.min(nodes));
    first.iter().for_each(|item| graph.insert_slice(*item));
    for step in rest.chunks(STEP) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        graph.parallel_insert_slice(&step.to_vec());
    }
    Some(flatten(&graph, &coded, links))
}

/// Copies hnsw_rs's linked points into arrays.
fn flatten(graph: &Hnsw<'_, i8, CodedCosine>, coded: &[(Vec<i8>, f32)], links: usize) -> Segment {
    let dim = coded.first().map_or(0, |(code, _)| code.len());
    let mut segment = Segment::new(dim, coded, 2 * links);
    let points = graph.get_point_indexation();
    let top = usize::from(points.get_max_level_observed());
    segment.upper = vec![Layer::default(); top];
    for level in 0..=top {
        for point in points.get_layer_iterator(level) {
            let node = point.get_origin_id() as u32;
            // Entries above the point's own level are traces of its insertion, not links.
            for (layer, neighbours) in
                point.get_neighborhood_id().iter().enumerate().take(level + 1)
            {
                let ids = neighbours.iter().map(|n| n.d_id as u32).filter(|id| *id != node);
                match layer.checked_sub(1) {
                    None => segment.set_links(node, ids),
                    Some(above) => {
                        segment.upper[above].links.insert(node, ids.collect());
                    }
                }
            }
            if level == top {
                segment.entry = node;
            }
        }
    }
    segment
}

struct Refiner<'a> {
    kernel: Kernel,
    rows: &'a Rows,
}

impl Refiner<'_> {
    fn similarity(&self, a: u32, b: u32) -> f32 {
        self.kernel.dot(self.rows.vector(a), self.rows.vector(b))
    }

    /// Keeps the closest candidates that are closer to `node` than to one kept before, then fills up
    /// with the closest of the others. `candidates` are sorted, best first.
    fn select(&self, candidates: &[Near], width: usize) -> Vec<u32> {
        let mut kept: Vec<u32> = Vec::with_capacity(width);
        let mut passed = Vec::new();
        for candidate in candidates {
            if kept.len() == width {
                break;
            }
            let closer_to_kept =
                |other: &u32| self.similarity(candidate.node, *other) > candidate.similarity;
            if kept.iter().any(closer_to_kept) {
                passed.push(candidate.node);
            } else {
                kept.push(candidate.node);
            }
        }
        let room = width - kept.len();
        kept.extend(passed.into_iter().take(room));
        kept
    }

    /// The closest of `others`, best first: the far ones are told apart by their codes.
    fn ranked(&self, segment: &Segment, node: u32, others: impl Iterator<Item = u32>) -> Vec<Near> {
        let mut seen: Vec<u32> = others.filter(|other| *other != node).collect();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() > CONSIDERED {
            let code = segment.code(node);
            let rough = |other: u32| Near {
                similarity: segment.similarity(self.kernel, code, other),
                node: other,
            };
            let mut rough: Vec<Near> = seen.into_iter().map(rough).collect();
            rough.select_nth_unstable_by(CONSIDERED - 1, |a, b| b.cmp(a));
            seen = rough[..CONSIDERED].iter().map(|near| near.node).collect();
        }
        let near = |other: u32| Near { similarity: self.similarity(node, other), node: other };
        let mut ranked: Vec<Near> = seen.into_iter().map(near).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked
    }

    /// Chooses every node's links again from its two-hop neighbourhood, then makes links mutual where
    /// the other side has a reason to keep them.
    fn choose_again(&self, segment: &mut Segment) {
        let nodes = segment.len() as u32;
        let width = segment.width;
        let half = width / 2;
        let chosen: Vec<Vec<u32>> = (0..nodes)
            .into_par_iter()
            .map(|node| {
                let hops = segment.links(node).flat_map(|link| segment.links(link));
                let ranked = self.ranked(segment, node, segment.links(node).chain(hops));
                self.select(&ranked, half)
            })
            .collect();
        let mut back: Vec<Vec<u32>> = vec![Vec::new(); nodes as usize];
        for (node, links) in (0_u32..).zip(&chosen) {
            links.iter().for_each(|link| back[*link as usize].push(node));
        }
        let merged: Vec<Vec<u32>> = (0..nodes)
            .into_par_iter()
            .map(|node| {
                let own = &chosen[node as usize];
                let old = segment.links(node);
                let all = own.iter().chain(&back[node as usize]).copied().chain(old);
                self.select(&self.ranked(segment, node, all), width)
            })
            .collect();
        for (node, links) in (0_u32..).zip(merged) {
            segment.set_links(node, links.into_iter());
        }
    }

    /// Links a node from where a walk that looks for it ends without it. The walk must be as wide as those
    /// that are to find it: a wider one ends elsewhere, often in the node's own cluster, and links from
    /// there help nobody who does not get there.
    fn link_in(&self, segment: &mut Segment, node: u32, width: usize) {
        let found = segment.walk(self.kernel, self.rows.vector(node), width, |n| n != node);
        let found = self.ranked(segment, node, found.unwrap_or_default().into_iter());
        let all = found.iter().map(|near| near.node).chain(segment.links(node));
        let own = self.select(&self.ranked(segment, node, all), segment.width);
        segment.set_links(node, own.into_iter());
        for near in found.iter().take(LINKED_BACK) {
            segment.link_back(near.node, node);
        }
    }

    fn finds(&self, segment: &Segment, node: u32, width: usize) -> bool {
        let found = segment.walk(self.kernel, self.rows.vector(node), width, |_| true);
        found.is_some_and(|found| found.contains(&node))
    }

    /// Nodes that do not find themselves.
    fn missed(&self, segment: &Segment, width: usize) -> Vec<u32> {
        let nodes = (0..segment.len() as u32).into_par_iter();
        nodes.filter(|node| !self.finds(segment, *node, width)).collect()
    }
}

/// Nodes that no path from the entry leads to.
fn unreachable_nodes(segment: &Segment) -> Vec<u32> {
    let mut reached = vec![false; segment.len()];
    let mut open = vec![segment.entry];
    reached[segment.entry as usize] = true;
    while let Some(node) = open.pop() {
        for link in segment.links(node) {
            if !std::mem::replace(&mut reached[link as usize], true) {
                open.push(link);
            }
        }
    }
    (0_u32..).zip(&reached).filter(|(_, reached)| !**reached).map(|(node, _)| node).collect()
}
