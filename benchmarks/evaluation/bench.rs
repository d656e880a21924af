//! Times closed-set ranking of runs of random embeddings. One line of JSON:
//! `benchmarks/evaluation/compare.py` puts numpy's and torchreid's beside it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

use std::time::Instant;

use handclip::evaluation::{Entry, Session, Trial, Vectors, rank};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// Most memory that this process ever held, MiB; 0 where the system does not say.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Processor time of all threads so far, seconds; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold anything; user and system time are 12 and 13 fields after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() {
    // Written by compare.py: `[rows, dim]` little-endian f32, the first half probes, the second the gallery.
    let (Some(file), Some(dim)) = (argument("--rows"), argument("--dim")) else {
        // `cargo test --benches` and the like.
        return;
    };
    let number = |name: &str| argument(name).unwrap().parse::<usize>().unwrap();
    let (dim, mates, runs): (usize, usize, usize) =
        (dim.parse().unwrap(), number("--mates"), number("--runs"));
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
