//! From vectors to a frozen graph.
//!
//! hnsw_rs builds the hierarchy. On vectors in clusters its lowest layer alone falls short: a list that is full drops its farthest
//! link, which often is the only one out of the cluster. So after flattening, each node's links are chosen again from the neighbours
//! of its neighbours, keeping those in different directions; what still cannot be reached is linked in; and every node is asked
//! about with its own vector at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::prelude::*;

use super::super::kernel::Kernel;
use super::super::merge::stopped;
use super::walk::{Graph, Layer, Links, Near};

/// Links of a node; twice as many on the lowest layer.
const LINKS: usize = 16;
/// Candidates examined when a node is linked: links are chosen again afterwards, so insertion need not look far.
const BUILD_WIDTH: usize = 100;
/// Width of the walk that checks the graph: narrower than any search's, so that what it finds they find.
const CHECK_WIDTH: usize = 48;
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

/// Compares vectors in code: a quarter of the bytes, and links are chosen again by the vectors
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
fn packed(graph: &Graph, node: u32) -> Vec<i8> {
    let scale = graph.scales[node as usize].to_le_bytes().map(u8::cast_signed);
    graph.code(node).iter().copied().chain(scale).collect()
}

fn unpacked(scale: &[i8; 4]) -> f32 {
    f32::from_le_bytes(scale.map(i8::cast_unsigned))
}

/// Builds a graph over unit vectors, `[dim]` each, on the threads of the pool that it is called in.
///
/// # Errors
/// What hnsw_rs said when it panicked, or that `stop` was set.
pub(in crate::gallery::index) fn build(
    kernel: Kernel,
    vectors: &[Vec<f32>],
    stop: &AtomicBool,
) -> Result<Graph, String> {
    if vectors.is_empty() {
        return Ok(Graph::new(kernel, vectors, Links::none(0, 2 * LINKS)));
    }
    let built =
        catch_unwind(AssertUnwindSafe(|| insert_all(kernel, vectors, stop))).map_err(|panic| {
            match panic.downcast_ref::<String>() {
                Some(text) => text.clone(),
                None => "hnsw_rs panicked".to_owned(),
            }
        })?;
    let mut graph = built.ok_or_else(stopped)?;
    let tool = Refiner { kernel, vectors };
    tool.choose_again(&mut graph);
    for _ in 0..ROUNDS {
        let lost = unreachable_nodes(&graph);
        if lost.is_empty() {
            break;
        }
        lost.iter().for_each(|node| tool.link_in(&mut graph, *node));
    }
    for _ in 0..ROUNDS {
        let missed = tool.missed(&graph);
        if missed.is_empty() {
            break;
        }
        tracing::debug!(missed = missed.len(), "linking in nodes that do not find themselves");
        for node in missed {
            // Links to another of its neighbours may have helped it.
            if !tool.finds(&graph, node) {
                tool.link_in(&mut graph, node);
            }
        }
    }
    Ok(graph)
}

/// `None` when told to stop.
fn insert_all(kernel: Kernel, vectors: &[Vec<f32>], stop: &AtomicBool) -> Option<Graph> {
    let nodes = vectors.len();
    let mut graph = Graph::new(kernel, vectors, Links::none(nodes, 2 * LINKS));
    let packed: Vec<Vec<i8>> =
        (0..nodes as u32).into_par_iter().map(|node| packed(&graph, node)).collect();
    let mut hierarchy: Hnsw<'_, i8, CodedCosine> =
        Hnsw::new(LINKS, nodes, LAYERS, BUILD_WIDTH, CodedCosine(kernel));
    hierarchy.set_keeping_pruned(true);
    let items: Vec<(&[i8], usize)> =
        packed.iter().enumerate().map(|(row, code)| (code.as_slice(), row)).collect();
    let (first, rest) = items.split_at(SERIAL.min(nodes));
    first.iter().for_each(|item| hierarchy.insert_slice(*item));
    for step in rest.chunks(STEP) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        hierarchy.parallel_insert_slice(&step.to_vec());
    }
    flatten(&hierarchy, &mut graph.links);
    Some(graph)
}

/// Copies hnsw_rs's linked points into arrays.
fn flatten(hierarchy: &Hnsw<'_, i8, CodedCosine>, links: &mut Links) {
    let points = hierarchy.get_point_indexation();
    let top = usize::from(points.get_max_level_observed());
    links.upper = vec![Layer::default(); top];
    for level in 0..=top {
        for point in points.get_layer_iterator(level) {
            let node = point.get_origin_id() as u32;
            // Entries above the point's own level are traces of its insertion, not links.
            for (layer, neighbours) in
                point.get_neighborhood_id().iter().enumerate().take(level + 1)
            {
                let ids = neighbours.iter().map(|n| n.d_id as u32).filter(|id| *id != node);
                match layer.checked_sub(1) {
                    None => links.set(node, ids),
                    Some(above) => {
                        links.upper[above].links.insert(node, ids.collect());
                    }
                }
            }
            if level == top {
                links.entry = node;
            }
        }
    }
}

struct Refiner<'a> {
    kernel: Kernel,
    vectors: &'a [Vec<f32>],
}

impl Refiner<'_> {
    fn similarity(&self, a: u32, b: u32) -> f32 {
        self.kernel.dot(&self.vectors[a as usize], &self.vectors[b as usize])
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
    fn ranked(&self, graph: &Graph, node: u32, others: impl Iterator<Item = u32>) -> Vec<Near> {
        let mut seen: Vec<u32> = others.filter(|other| *other != node).collect();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() > CONSIDERED {
            let code = graph.code(node);
            let rough = |other: u32| Near {
                similarity: graph.similarity(self.kernel, code, other),
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
    fn choose_again(&self, graph: &mut Graph) {
        let nodes = graph.len() as u32;
        let width = graph.links.width;
        let half = width / 2;
        let chosen: Vec<Vec<u32>> = (0..nodes)
            .into_par_iter()
            .map(|node| {
                let hops = graph.links.of(node).flat_map(|link| graph.links.of(link));
                let ranked = self.ranked(graph, node, graph.links.of(node).chain(hops));
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
                let old = graph.links.of(node);
                let all = own.iter().chain(&back[node as usize]).copied().chain(old);
                self.select(&self.ranked(graph, node, all), width)
            })
            .collect();
        for (node, links) in (0_u32..).zip(merged) {
            graph.links.set(node, links.into_iter());
        }
    }

    /// Links a node from where a walk that looks for it ends without it. The walk must be as wide as those
    /// that are to find it: a wider one ends elsewhere, often in the node's own cluster, and links from
    /// there help nobody who does not get there.
    fn link_in(&self, graph: &mut Graph, node: u32) {
        let found = graph.walk(self.kernel, &self.vectors[node as usize], CHECK_WIDTH);
        let found = self.ranked(graph, node, found.into_iter());
        let all = found.iter().map(|near| near.node).chain(graph.links.of(node));
        let own = self.select(&self.ranked(graph, node, all), graph.links.width);
        graph.links.set(node, own.into_iter());
        for near in found.iter().take(LINKED_BACK) {
            graph.links.link_back(near.node, node);
        }
    }

    fn finds(&self, graph: &Graph, node: u32) -> bool {
        graph.walk(self.kernel, &self.vectors[node as usize], CHECK_WIDTH).contains(&node)
    }

    /// Nodes that do not find themselves.
    fn missed(&self, graph: &Graph) -> Vec<u32> {
        let nodes = (0..graph.len() as u32).into_par_iter();
        nodes.filter(|node| !self.finds(graph, *node)).collect()
    }
}

/// Nodes that no path from the entry leads to.
fn unreachable_nodes(graph: &Graph) -> Vec<u32> {
    let mut reached = vec![false; graph.len()];
    let mut open = vec![graph.links.entry];
    reached[graph.links.entry as usize] = true;
    while let Some(node) = open.pop() {
        for link in graph.links.of(node) {
            if !std::mem::replace(&mut reached[link as usize], true) {
                open.push(link);
            }
        }
    }
    (0_u32..).zip(&reached).filter(|(_, reached)| !**reached).map(|(node, _)| node).collect()
}
