//! Places for what is computed. Knows numbers, not tensors.

use rayon::prelude::*;

/// So many of a buffer, with whatever is in them: only what it grows by is filled.
pub fn room<T: Clone>(buffer: &mut Vec<T>, len: usize, filling: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, filling);
    }
    &mut buffer[..len]
}

/// So many zeros, written by all threads: large results are begun with them, and a thread alone would keep the others waiting.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    const PIECE: usize = 1024;
    /// Pieces that a thread writes at a time.
    const LEAST: usize = 64;
    let pieces = (0..len.div_ceil(PIECE)).into_par_iter().with_min_len(LEAST);
    let mut zeros = pieces.map(|_| [0.0; PIECE]).collect::<Vec<_>>().into_flattened();
    zeros.truncate(len);
    zeros
}
