//! Exact scans.
//!
//! Rows are scored by the upper eight bits of each value first, a third of the bytes. How far such a score can be from the exact one
//! is bounded, so every row that could be among the closest is known, and only those are scored by all bits: the answer is that of a
//! scan of whole templates, bit by bit.

use std::ops::Range;

use rayon::prelude::*;

use super::Snapshot;
use super::codes::eight_bits;
use super::kernel::Kernel;
use super::rows::{Admission, BLOCK};
use super::template::Packed;

/// Blocks that one thread scans before it looks for more work: about a millisecond.
const BLOCKS_A_TASK: usize = 256;
/// Covers rounding in single precision, and norms that are not quite one.
const SLACK: f32 = 1e-4;

/// A row whose exact similarity lies within `margin` of `about`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    pub(super) about: f32,
    margin: f32,
    pub(super) row: u32,
}

/// A probe in code, and what that left out.
pub(super) struct CodedProbe {
    values: Vec<i8>,
    scale: f32,
    /// Norm of what coding changed.
    error: f32,
}

impl CodedProbe {
    pub(super) fn new(kernel: Kernel, query: &[f32]) -> Self {
        let (values, scale) = eight_bits(kernel, query);
        let change = |(exact, code): (&f32, &i8)| exact - f32::from(*code) * scale;
        let changes: Vec<f32> = query.iter().zip(&values).map(change).collect();
        let error = kernel.dot(&changes, &changes).sqrt();
        Self { values, scale, error }
    }

    /// How similar a row is by the upper eight bits of its template.
    pub(super) fn score(&self, kernel: Kernel, template: Packed<'_>, row: usize) -> Score {
        let Packed { codes, scale, .. } = template;
        let dot = kernel.dot_codes(&self.values, codes) as f32;
        // Rounding moved each value by half a step at most. With x = c + e and q = k + f:
        // q·x = k·c + f·c + q·e, and norms bound the last two.
        let step_error = scale * 0.5 * (codes.len() as f32).sqrt();
        let margin = self.error * (1.0 + step_error) + step_error + SLACK;
        Score { about: dot * scale * self.scale, margin, row: row as u32 }
    }
}

/// Scores of everything admitted, in order of rows.
pub(super) fn scores(snapshot: &Snapshot, query: &[f32], admission: &Admission<'_>) -> Vec<Score> {
    let blocks = &snapshot.rows.blocks;
    let coded = CodedProbe::new(snapshot.kernel, query);
    let score_blocks = |numbers: Range<usize>| {
        let mut scores = Vec::new();
        for number in numbers {
            let block = blocks.get(number);
            let admitted = (0..block.len()).filter(|at| admission.admits(block, *at));
            let score = |at| coded.score(snapshot.kernel, block.codes.row(at), number * BLOCK + at);
            scores.extend(admitted.map(score));
        }
        scores
    };
    let tasks = blocks.len().div_ceil(BLOCKS_A_TASK);
    if tasks <= 1 {
        return score_blocks(0..blocks.len());
    }
    let task = |task: usize| {
        score_blocks(task * BLOCKS_A_TASK..((task + 1) * BLOCKS_A_TASK).min(blocks.len()))
    };
    (0..tasks).into_par_iter().flat_map_iter(task).collect()
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
