//! Where alike rows lie, for galleries so large that a scan of all bits takes too long: a search looks for lists first, by the
//! direction in which each lies from the mean of all, and then into the closest of them.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use super::encoder::Encoder;
use super::graph::{self, Graph, Links};
use super::kernel::Kernel;
use super::probe::BitProbe;
use super::simhash::{HashProbe, SimHash, SimHashes};
use super::template::Packed;

/// Candidates of a walk for each list that it is to find: the closest are missed less often by a wider one.
const WIDER: usize = 2;
/// The narrowest walk.
const LEAST_WIDTH: usize = 128;

/// The first rows of a gallery, list by list.
#[derive(Debug)]
pub(super) struct Lists {
    /// The row behind the last of each list.
    ends: Vec<u32>,
    /// The direction of each list.
    directions: SimHashes,
    /// The same directions as nodes, where there are so many that a scan takes longer than a walk.
    graph: Option<Graph>,
}

impl Lists {
    /// Lists of `sizes` rows, of which `row` gives the templates, and a graph where there are more than `graph_from`. Built on the
    /// threads of the pool that it is called in.
    ///
    /// # Errors
    /// Why no graph could be built.
    pub(super) fn build<'a>(
        kernel: Kernel,
        encoder: &Encoder,
        sizes: &[u32],
        row: impl Fn(u32) -> Packed<'a> + Sync,
        (graph_from, stop): (usize, &AtomicBool),
    ) -> Result<Self, String> {
        let ends = ends(sizes);
        let directions = directions(kernel, encoder, &ends, row);
        let graph = (ends.len() > graph_from).then(|| graph::build(kernel, &directions, stop));
        let graph = graph.transpose()?;
        Ok(Self { directions: hashes(kernel, encoder, directions), graph, ends })
    }

    /// The same with a graph whose links are known.
    pub(super) fn with_links<'a>(
        kernel: Kernel,
        encoder: &Encoder,
        sizes: &[u32],
        row: impl Fn(u32) -> Packed<'a> + Sync,
        links: Option<Links>,
    ) -> Self {
        let ends = ends(sizes);
        let directions = directions(kernel, encoder, &ends, row);
        let graph = links.map(|links| Graph::new(kernel, &directions, links));
        Self { directions: hashes(kernel, encoder, directions), graph, ends }
    }

    /// Bytes that the lists take, without their rows.
    pub(super) fn bytes(&self) -> usize {
        let graph = self.graph.as_ref().map_or(0, Graph::bytes);
        size_of_val(&*self.ends) + self.directions.bytes() + graph
    }

    /// Rows that lie in lists.
    pub(super) fn covered(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// Rows of each list.
    pub(super) fn sizes(&self) -> Vec<u32> {
        self.sizes_of(|_| true)
    }

    /// Rows of each list that `counts` says yes to.
    pub(super) fn sizes_of(&self, counts: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut first = 0;
        let mut size = |end: &u32| {
            let rows = std::mem::replace(&mut first, *end)..*end;
            rows.filter(|row| counts(*row)).count() as u32
        };
        self.ends.iter().map(&mut size).collect()
    }

    /// The graph's links, where there is one.
    pub(super) fn links(&self) -> Option<&Links> {
        self.graph.as_ref().map(Graph::links)
    }

    /// The rows of the `count` lists closest to a probe, which is given as it is, and as it is compared with bits.
    pub(super) fn near(
        &self,
        kernel: Kernel,
        encoder: &Encoder,
        (query, probe): (&[f32], &BitProbe),
        count: usize,
    ) -> impl Iterator<Item = Range<usize>> {
        let near: Vec<u32> = match &self.graph {
            Some(graph) => {
                let centred = encoder.centred(query);
                let mut near = graph.walk(kernel, &centred, (WIDER * count).max(LEAST_WIDTH));
                near.truncate(count);
                near
            }
            None => {
                let probe = HashProbe::new(kernel, &probe.turned);
                self.directions.nearest(kernel, &probe, count)
            }
        };
        near.into_iter().map(|list| within(&self.ends, list as usize))
    }
}

/// The place behind the last of each part, by their sizes.
pub(super) fn ends(sizes: &[u32]) -> Vec<u32> {
    let mut end = 0;
    let mut add = |size: &u32| {
        end += size;
        end
    };
    sizes.iter().map(&mut add).collect()
}

/// Where part `at` lies.
pub(super) fn within(ends: &[u32], at: usize) -> Range<usize> {
    let first = at.checked_sub(1).map_or(0, |before| ends[before]);
    first as usize..ends[at] as usize
}

/// Unit vectors; zero for a list without rows. A mean itself would put lists of one row before those of many, whose means are short.
fn directions<'a>(
    kernel: Kernel,
    encoder: &Encoder,
    ends: &[u32],
    row: impl Fn(u32) -> Packed<'a> + Sync,
) -> Vec<Vec<f32>> {
    let direction = |list: usize| {
        let mut sum = vec![0.0_f32; encoder.mean.len()];
        for at in within(ends, list) {
            let centred = encoder.centred(&row(at as u32).values(kernel));
            sum.iter_mut().zip(centred).for_each(|(sum, value)| *sum += value);
        }
        let length = kernel.dot(&sum, &sum).sqrt();
        if length > 0.0 {
            sum.iter_mut().for_each(|value| *value /= length);
        }
        sum
    };
    (0..ends.len()).into_par_iter().map(direction).collect()
}

fn hashes(kernel: Kernel, encoder: &Encoder, directions: Vec<Vec<f32>>) -> SimHashes {
    let hash = |direction: Vec<f32>| SimHash::new(&encoder.turn(kernel, direction));
    let hashes: Vec<SimHash> = directions.into_par_iter().map(hash).collect();
    SimHashes::new(encoder.mean.len(), &hashes)
}
