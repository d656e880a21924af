//! A graph to the nearest of many vectors (Malkov and Yashunin, HNSW): built by hnsw_rs, mended, and flattened into arrays.

mod build;
mod saved;
#[cfg(test)]
mod tests;
mod walk;

pub(super) use build::build;
pub(super) use saved::{from_bytes, to_bytes};
pub(super) use walk::{Graph, Links};
