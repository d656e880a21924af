//! Enrols templates in a gallery and searches them. One line of JSON: `benchmarks/search/compare.py` puts hnswlib's, faiss' and
//! usearch's beside it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails has no figures"
)]

#[path = "../measure.rs"]
mod measure;

use std::path::{Path, PathBuf};
use std::time::Instant;

use handclip::domain::{
    AttributeFilter, Embedding, Fingerprint, GalleryId, Generation, HandAttributes, SampleId,
    SubjectId,
};
use handclip::gallery::{
    Aggregate, Galleries, GalleryOptions, GallerySpec, NewSample, SearchParams, Template,
};
use handclip::storage::{MasterKey, Store, StoreOptions};
use measure::{argument, cpu_seconds, number, peak_mib};

const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);
/// Templates that are enrolled in one request.
const BATCH: usize = 100;

fn open(dir: &Path) -> Galleries {
    let key = MasterKey::from_hex(&"5a".repeat(32)).unwrap();
    let store = Store::open(StoreOptions::new(dir, key)).unwrap();
    let options = GalleryOptions { background: false, ..GalleryOptions::default() };
    Galleries::open(store, options).unwrap()
}

fn vectors(path: &str, dim: usize) -> Vec<Embedding> {
    let bytes = std::fs::read(path).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(dim).map(|row| Embedding::from_raw(row.to_vec()).unwrap()).collect()
}

fn sample(number: usize, mates: usize, embedding: Embedding) -> NewSample {
    let mut content_hash = [0; 32];
    content_hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NewSample {
        subject: SubjectId::new(format!("p{}", number / mates)).unwrap(),
        sample: Some(SampleId::new(format!("s{number}")).unwrap()),
        attributes: HandAttributes::default(),
        quality: 0.5,
        templates: vec![Template {
            generation: Generation(1),
            fingerprint: FINGERPRINT,
            embedding,
        }],
        content_hash,
        image: None,
    }
}

fn main() {
    // Written by compare.py: `[rows, dim]` little-endian f32 each, and the rows that are truly closest, u32.
    let (Some(rows), Some(queries)) = (argument("--rows"), argument("--queries")) else {
        // `cargo test --benches` and the like.
        return;
    };
    let (dim, mates, count) = (number("--dim", 512), number("--mates", 10), number("--count", 10));
    rayon::ThreadPoolBuilder::new().num_threads(number("--threads", 2)).build_global().unwrap();
    let dir = PathBuf::from(argument("--dir").unwrap());
    let galleries = open(&dir);
    let id = GalleryId::new("g").unwrap();
    let gallery = galleries
        .create(GallerySpec {
            id: id.clone(),
            dim,
            generation: Generation(1),
            fingerprint: FINGERPRINT,
            beside: None,
            retain_images: false,
            allow_training: false,
            description: String::new(),
        })
        .unwrap();
    let rows = vectors(&rows, dim);
    let at = Instant::now();
    for (batch, rows) in rows.chunks(BATCH).enumerate() {
        let samples: Vec<NewSample> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| sample(batch * BATCH + i, mates, row.clone()))
            .collect();
        assert!(gallery.enrol_batch(samples).iter().all(Result::is_ok));
    }
    let enrolled = at.elapsed().as_secs_f64();
    let (at, cpu) = (Instant::now(), cpu_seconds());
    gallery.compact().unwrap();
    let (built, built_cpu) = (at.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    drop((gallery, galleries, rows));
    let at = Instant::now();
    let galleries = open(&dir);
    let gallery = galleries.get(&id).unwrap();
    let started = at.elapsed().as_secs_f64();

    let queries = vectors(&queries, dim);
    let truth = std::fs::read(argument("--truth").unwrap()).unwrap();
    let truth: Vec<u32> =
        truth.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let wide = truth.len() / queries.len();
    let mut points = Vec::new();
    for exact in [false, true] {
        let asked = if exact { &queries[..queries.len().min(50)] } else { &queries[..] };
        let params = SearchParams {
            limit: count,
            filter: AttributeFilter::default(),
            aggregate: Aggregate::Best,
            exact,
        };
        let (mut found, mut seconds) = (0, Vec::new());
        for (query, wanted) in asked.iter().zip(truth.chunks_exact(wide)) {
            let at = Instant::now();
            let hits = gallery.search_samples(query, &params).unwrap();
            seconds.push(at.elapsed().as_secs_f64());
            let names: Vec<String> = wanted[..count].iter().map(|row| format!("s{row}")).collect();
            found += hits.iter().filter(|h| names.iter().any(|n| n == h.sample.as_str())).count();
        }
        seconds.sort_by(f64::total_cmp);
        let recall = found as f64 / (asked.len() * count) as f64;
        let us = 1e6 * seconds[seconds.len() / 2];
        points.push(serde_json::json!({"exact": exact, "recall": recall, "us": us}));
    }
    let line = serde_json::json!({"enrol_s": enrolled, "build_s": built, "build_cpu_s": built_cpu,
        "start_s": started, "peak_mib": peak_mib(), "points": points});
    println!("{line}");
}
