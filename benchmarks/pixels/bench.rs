//! Times a JPEG's way to the pixels that a model takes. A line of JSON: `benchmarks/pixels/compare.py` puts Pillow's beside it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

#[path = "../measure.rs"]
mod measure;

use std::time::{Duration, Instant};

use handclip::image::{DecodeLimits, Preprocessing, decode};
use measure::{argument, cpu_seconds, number, peak_mib};

fn main() {
    let Some(file) = argument("--image") else {
        // `cargo test --benches` and the like.
        return;
    };
    let budget = number("--seconds", 2.0);
    let bytes = std::fs::read(file).unwrap();
    let preprocessing = Preprocessing::clip(224);
    let limits = DecodeLimits::default();
    let picture = decode(&bytes, &limits).unwrap();
    let framed = preprocessing.pixels(&picture);
    let (mut decoded, mut framing, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let end = Instant::now() + Duration::from_secs_f64(budget);
    while Instant::now() < end || whole.len() < 3 {
        let at = Instant::now();
        let picture = decode(&bytes, &limits).unwrap();
        let opened = at.elapsed().as_secs_f64();
        let pixels = preprocessing.apply(&picture);
        let seconds = at.elapsed().as_secs_f64();
        std::hint::black_box(pixels);
        decoded.push(opened);
        framing.push(seconds - opened);
        whole.push(seconds);
    }
    let rgb = picture.rgb();
    let line = serde_json::json!({"decode": decoded, "preprocess": framing, "whole": whole,
        "framed": framed, "peak_mib": peak_mib(), "cpu": cpu_seconds(), "decoded_sum": rgb.iter().map(|v| u64::from(*v)).sum::<u64>()});
    println!("{line}");
}
