//! Transformer operations for inference on a CPU: no gradients, no tensors, no memory but the caller's.
//!
//! A matrix `[rows, columns]` is kept in panels of [`WIDTH`] columns, `[panel][row][WIDTH]`, the last panel filled up with
//! zeros ([`Panel layout`](Row)). A product writes each of its panels in one piece, so threads share the work without sharing
//! memory; and what it writes is what the next product reads: nothing is packed between two of them.
//!
//! Sums run over the inputs in one order, whatever stands beside a row and however many threads there are: a picture has the
//! same embedding alone and in a batch, to the last bit.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[path = "no_amx.rs"]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_dot.rs"]
mod dot;
mod held;
mod linear;
mod norm;
mod octets;
mod pairs;
mod prefetch;
mod product;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod rounding;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_rounding.rs"]
mod rounding;
mod tile;

pub use attention::{Heads, Span, attention, rounded_attention};
pub use held::{Held, Left};
pub use linear::{After, Lean, Precision};
pub use norm::LeanNorm;
pub use pairs::HalfRow;
pub use rounded::{Matrix, Rounded};

/// Rows from which what passes over each of them once is shared out: of fewer it takes no longer than waking up a thread.
const WORTH_SHARING: usize = 64;

/// Columns of a panel: two registers of AVX-512, four of AVX2.
pub const WIDTH: usize = 32;

/// A row's part in a panel: whole lines of the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Row(pub [f32; WIDTH]);

impl Row {
    /// All zero.
    pub const ZERO: Self = Self([0.0; WIDTH]);
}

/// Panels that hold so many columns.
#[must_use]
pub const fn panels(columns: usize) -> usize {
    columns.div_ceil(WIDTH)
}

/// Lays a vector out as a single row.
#[must_use]
pub fn lay_out(values: &[f32]) -> Vec<Row> {
    values
        .chunks(WIDTH)
        .map(|chunk| {
            let mut row = Row::ZERO;
            row.0[..chunk.len()].copy_from_slice(chunk);
            row
        })
        .collect()
}

/// Row `at` of `[rows, columns]`, without the filling.
#[must_use]
pub fn row_of(matrix: &[Row], rows: usize, at: usize, columns: usize) -> Vec<f32> {
    let values = matrix.chunks_exact(rows).flat_map(|panel| panel[at].0);
    values.take(columns).collect()
}
