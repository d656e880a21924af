//! Times closed-set ranking of runs of random embeddings. One line of JSON:
//! `benchmarks/evaluation/compare.py` puts numpy's and torchreid's beside it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

#[path = "../measure.rs"]
mod measure;

use std::time::Instant;

use handclip::evaluation::{Entry, Session, Trial, Vectors, rank};
use measure::{argument, cpu_seconds, number, peak_mib};

fn main() {
    // Written by compare.py: `[rows, dim]` little-endian f32, the first half probes, the second the gallery.
    let (Some(file), Some(dim)) = (argument("--rows"), argument("--dim")) else {
        // `cargo test --benches` and the like.
        return;
    };
    let (dim, mates, runs): (usize, usize, usize) =
        (dim.parse().unwrap(), number("--mates", 1), number("--runs", 1));
    let bytes = std::fs::read(file).unwrap();
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    drop(bytes);
    let vectors = Vectors::new(dim, values).unwrap();
    let half = vectors.len() / 2;
    // `mates` gallery samples a label; probes in the same order.
    let entry = |row: usize| Entry { row, label: (row % half / mates) as u64 };
    let session = Session {
        probes: (0..half).map(entry).collect(),
        gallery: (half..2 * half).map(entry).collect(),
    };
    let trial = Trial::new(&vectors, &session).unwrap();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut figures = Vec::new();
    for _ in 0..runs {
        let ranking = rank(&trial);
        figures.push((ranking.cmc()[0], ranking.figures().map));
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let (rank1, map) = figures[0];
    let line = serde_json::json!({"seconds": seconds, "cpu": cpu, "rank1": rank1, "map": map, "peak_mib": peak_mib()});
    println!("{line}");
}
