//! Exact scans.
//!
//! Rows that have codes are scored by those first, a quarter of the bytes. How far a score by codes can be
//! from the exact one is bounded, so every row that could be among the closest is known, and only those are
//! scored with their templates: the answer is that of a scan of all templates, bit by bit.

use std::sync::Arc;

use rayon::prelude::*;

use super::Snapshot;
use super::rows::{Admission, BLOCK, Block};
use super::segment::encode;

/// Blocks that one thread scans before it looks for more work: about a millisecond.
const BLOCKS_A_TASK: usize = 64;
/// Covers rounding in single precision, and norms that are not quite one.
const SLACK: f32 = 1e-4;

/// A row whose exact similarity lies within `margin` of `about`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    about: f32,
    margin: f32,
    pub(super) row: u32,
}

/// A probe in code, and what that left out.
struct Coded {
    values: Vec<i8>,
    scale: f32,
    /// Norm of what coding changed.
    error: f32,
}

impl Coded {
    fn new(query: &[f32]) -> Self {
        let (values, scale) = encode(query);
        let change = |(exact, code): (&f32, &i8)| exact - f32::from(*code) * scale;
        let error = query.iter().zip(&values).map(change).map(|e| e * e).sum::<f32>().sqrt();
        Self { values, scale, error }
    }
}

/// Scores of everything admitted, in order of rows.
pub(super) fn scores(snapshot: &Snapshot, query: &[f32], admission: &Admission<'_>) -> Vec<Score> {
    let rows = &snapshot.rows;
    let coded = Coded::new(query);
    let score_blocks = |(task, blocks): (usize, &[Arc<Block>])| {
        let first = task * BLOCKS_A_TASK;
        let mut scores = Vec::new();
        for (number, block) in (first..).zip(blocks) {
            score_block(snapshot, query, &coded, admission, (number * BLOCK, block), &mut scores);
        }
        scores
    };
    if rows.blocks.len() <= BLOCKS_A_TASK {
        return score_blocks((0, &rows.blocks));
    }
    rows.blocks.par_chunks(BLOCKS_A_TASK).enumerate().flat_map_iter(score_blocks).collect()
}

fn score_block(
    snapshot: &Snapshot,
    query: &[f32],
    coded: &Coded,
    admission: &Admission<'_>,
    (first, block): (usize, &Block),
    scores: &mut Vec<Score>,
) {
    let Snapshot { rows, segment, kernel, .. } = snapshot;
    let nodes = segment.as_ref().map_or(0, |segment| segment.len());
    for at in (0..block.len()).filter(|at| admission.admits(block, *at)) {
        let row = (first + at) as u32;
        let score = match segment {
            Some(segment) if first + at < nodes => {
                let scale = segment.scales[first + at];
                let dot = kernel.dot_codes(&coded.values, segment.code(row)) as f32;
                // Rounding moved each value by half a step at most. With x = c + e and q = k + f:
                // q·x = k·c + f·c + q·e, and norms bound the last two.
                let step_error = scale * 0.5 * (rows.dim as f32).sqrt();
                let margin = coded.error * (1.0 + step_error) + step_error + SLACK;
                Score { about: dot * scale * coded.scale, margin, row }
            }
            Some(_) | None => {
                let vector = &block.vectors[at * rows.dim..(at + 1) * rows.dim];
                Score { about: kernel.dot(query, vector), margin: 0.0, row }
            }
        };
        scores.push(score);
    }
}

/// Rows that can be among the `wanted` closest, all of these included.
pub(super) fn candidates(scores: &[Score], wanted: usize) -> Vec<u32> {
    if wanted == 0 {
        return Vec::new();
    }
    let mut least: Vec<f32> = scores.iter().map(|score| score.about - score.margin).collect();
    if wanted >= least.len() {
        return scores.iter().map(|score| score.row).collect();
    }
    // So many rows are at least this close.
    let (_, bar, _) = least.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a));
    let bar = *bar;
    let may = |score: &&Score| score.about + score.margin >= bar;
    scores.iter().filter(may).map(|score| score.row).collect()
}
