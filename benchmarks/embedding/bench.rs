//! Times a model's towers. A line of JSON for each case: `benchmarks/embedding/compare.py` puts PyTorch's and ONNX Runtime's
//! beside it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

#[path = "../measure.rs"]
mod measure;

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Device;
use handclip::model::{Embedder, Precision};
use measure::{argument, cpu_seconds, number, peak_mib};

fn main() {
    // Pixels written by compare.py: images of `[3, side, side]`, little-endian f32.
    let (Some(model), Some(cases)) = (argument("--model"), argument("--cases")) else {
        // `cargo test --benches` and the like.
        return;
    };
    let start = Instant::now();
    let threads = number("--threads", 1);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let precision = match argument("--dtype").as_deref() {
        Some("bf16") => Precision::Bf16,
        Some("int8") => Precision::Int8,
        _ => Precision::F32,
    };
    let budget = number("--seconds", 2.0);
    let embedder = match model.as_str() {
        "nano" => Embedder::nano_in(precision, &Device::Cpu),
        dir => Embedder::open_in(None, Path::new(dir), precision, &Device::Cpu),
    };
    let embedder = embedder.unwrap();
    let (height, width) = embedder.summary().image_size;
    let size = 3 * height as usize * width as usize;
    // Once in memory, as the peers have them.
    let images: Vec<Vec<f32>> = {
        let bytes = std::fs::read(argument("--pixels").unwrap()).unwrap();
        let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        bytes
            .chunks_exact(4 * size)
            .map(|image| image.chunks_exact(4).map(value).collect())
            .collect()
    };
    let mut first = None;
    for case in cases.split(',') {
        let (kind, batch) = case.split_once(':').unwrap();
        let batch: usize = batch.parse().unwrap();
        let prompts: Vec<String> =
            (0..batch).map(|i| format!("a dorsal right hand with ring number {i}")).collect();
        let call = || match kind {
            "image" => embedder.embed_pixels(&images[..batch]).unwrap(),
            _ => embedder.embed_texts(&prompts).unwrap(),
        };
        let feature = call().remove(0).unwrap().as_slice().to_vec();
        let first = *first.get_or_insert(start.elapsed().as_secs_f64());
        call();
        let (mut seconds, mut spent) = (Vec::new(), Vec::new());
        let end = Instant::now() + Duration::from_secs_f64(budget);
        let cpu_at = cpu_seconds();
        while Instant::now() < end || seconds.len() < 3 {
            let at = Instant::now();
            call();
            seconds.push(at.elapsed().as_secs_f64());
        }
        // The system counts in hundredths of a second: all of them together.
        spent.push((cpu_seconds() - cpu_at) / seconds.len() as f64);
        let line = serde_json::json!({"case": case, "seconds": seconds, "cpu": spent,
            "peak_mib": peak_mib(), "first": first, "feature": feature});
        println!("{line}");
    }
}
