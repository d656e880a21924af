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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use handclip::domain::{
    AttributeFilter, Embedding, Fingerprint, GalleryId, GalleryPolicy, Generation, HandAttributes,
    SampleId, SubjectId,
};
use handclip::gallery::{
    Aggregate, Galleries, Gallery, GalleryOptions, GallerySpec, NewSample, SearchParams, Template,
    TemplateSpace,
};
use handclip::storage::{MasterKey, Store, StoreOptions};
use measure::{argument, cpu_seconds, number, peak_mib};

const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);
/// Templates that are enrolled in one request.
const BATCH: usize = 100;

fn open(dir: &Path, options: GalleryOptions) -> (Galleries, Arc<Gallery>) {
    let key = MasterKey::from_hex(&"5a".repeat(32)).unwrap();
    let load = move |store: &Store| {
        Galleries::open(store.clone(), GalleryOptions { background: false, ..options })
    };
    let (_, galleries) = Store::open_with(StoreOptions::new(dir, key), load).unwrap();
    let id = GalleryId::new("g").unwrap();
    let spec = |id: GalleryId| GallerySpec {
        id,
        dim: number("--dim", 512),
        generation: Generation(1),
        fingerprint: FINGERPRINT,
        beside: None,
        retain_images: false,
        allow_training: false,
        description: String::new(),
        policy: GalleryPolicy::default(),
    };
    let gallery = galleries.get(&id).or_else(|_| galleries.create(spec(id))).unwrap();
    (galleries, gallery)
}

/// Searches that read the bits of all.
fn all() -> GalleryOptions {
    GalleryOptions { scan_up_to: usize::MAX, ..GalleryOptions::default() }
}

/// Searches that look into lists first, as they do in a large gallery.
fn lists() -> GalleryOptions {
    GalleryOptions { scan_up_to: 0, ..GalleryOptions::default() }
}

fn vectors(path: &str, dim: usize) -> Vec<Embedding> {
    let bytes = std::fs::read(path).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(dim).map(|row| Embedding::from_raw(row.to_vec()).unwrap()).collect()
}

/// A filter admits one in so many.
const SHARES: [usize; 3] = [10, 100, 1_000];

/// What samples are marked with that a filter may ask for.
fn mark(share: usize) -> (String, String) {
    (format!("one in {share}"), "yes".to_owned())
}

fn numbers(path: &str) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Recall, and the median time of a search in microseconds.
fn measure_search(
    gallery: &Gallery,
    params: &SearchParams,
    queries: &[Embedding],
    truth: &[u32],
) -> (f64, f64) {
    let (mut found, mut seconds) = (0, Vec::new());
    for (query, wanted) in queries.iter().zip(truth.chunks_exact(params.limit)) {
        let at = Instant::now();
        let hits = gallery.search_samples(query, params).unwrap();
        seconds.push(at.elapsed().as_secs_f64());
        let names: Vec<String> = wanted.iter().map(|row| format!("s{row}")).collect();
        found += hits.iter().filter(|h| names.iter().any(|n| n == h.sample.as_str())).count();
    }
    seconds.sort_by(f64::total_cmp);
    (found as f64 / (queries.len() * params.limit) as f64, 1e6 * seconds[seconds.len() / 2])
}

/// Median and 99th percentile of searches, microseconds, alone and while the gallery is merged over and over.
fn beside_merges(gallery: &Gallery, params: &SearchParams, queries: &[Embedding]) -> [f64; 4] {
    let percentiles = || {
        let mut us: Vec<f64> = queries
            .iter()
            .map(|query| {
                let at = Instant::now();
                gallery.search_samples(query, params).unwrap();
                1e6 * at.elapsed().as_secs_f64()
            })
            .collect();
        us.sort_by(f64::total_cmp);
        [us[us.len() / 2], us[us.len() * 99 / 100]]
    };
    let alone = percentiles();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                gallery.compact().unwrap();
            }
        });
        let beside = percentiles();
        stop.store(true, Ordering::Relaxed);
        [alone[0], alone[1], beside[0], beside[1]]
    })
}

/// Samples a second that callers enrol one by one, each durable when its call returns; every tenth is looked for then, and found.
fn enrolled_one_by_one(gallery: &Gallery, templates: &[Embedding], params: &SearchParams) -> f64 {
    const CALLERS: usize = 32;
    let space = gallery.spaces()[0].0;
    let at = Instant::now();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            scope.spawn(move || {
                for (i, template) in templates.iter().enumerate().skip(caller).step_by(CALLERS) {
                    let new = sample(space, 100_000_000 + i, 1, template.clone());
                    let name = new.sample.clone().unwrap();
                    gallery.enrol(new).unwrap();
                    if i.is_multiple_of(10) {
                        let found = gallery.search_samples(template, params).unwrap();
                        assert!(found.iter().any(|hit| hit.sample == name));
                    }
                }
            });
        }
    });
    templates.len() as f64 / at.elapsed().as_secs_f64()
}

fn enrol_all(gallery: &Gallery, rows: &[Embedding], mates: usize) {
    let space = gallery.spaces()[0].0;
    for (batch, rows) in rows.chunks(BATCH).enumerate() {
        let new =
            |(i, row): (usize, &Embedding)| sample(space, batch * BATCH + i, mates, row.clone());
        let samples: Vec<NewSample> = rows.iter().enumerate().map(new).collect();
        assert!(gallery.enrol_batch(samples).iter().all(Result::is_ok));
    }
}

fn sample(space: TemplateSpace, number: usize, mates: usize, embedding: Embedding) -> NewSample {
    let mut content_hash = [0; 32];
    content_hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NewSample {
        subject: SubjectId::new(format!("p{}", number / mates)).unwrap(),
        sample: Some(SampleId::new(format!("s{number}")).unwrap()),
        attributes: HandAttributes {
            extra: SHARES.into_iter().filter(|of| number.is_multiple_of(*of)).map(mark).collect(),
            ..HandAttributes::default()
        },
        quality: 0.5,
        templates: vec![Template {
            generation: space.generation,
            fingerprint: space.fingerprint,
            embedding,
        }],
        content_hash,
        image: None,
        consent: None,
        flags: Vec::new(),
    }
}

fn main() {
    // Written by compare.py: `[rows, dim]` little-endian f32 each, and the rows that are truly closest, u32.
    let Some(rows) = argument("--rows") else {
        // `cargo test --benches` and the like.
        return;
    };
    let (dim, mates, count) = (number("--dim", 512), number("--mates", 10), number("--count", 10));
    rayon::ThreadPoolBuilder::new().num_threads(number("--threads", 2)).build_global().unwrap();
    let dir = PathBuf::from(argument("--dir").unwrap());
    let (galleries, gallery) = open(&dir, all());
    let at = Instant::now();
    enrol_all(&gallery, &vectors(&rows, dim), mates);
    let enrolled = at.elapsed().as_secs_f64();
    let Some(queries) = argument("--queries") else {
        // The serving benchmark fills a gallery with strangers this way.
        return;
    };
    let at = Instant::now();
    gallery.compact().unwrap();
    let bits = at.elapsed().as_secs_f64();
    drop((gallery, galleries));
    let at = Instant::now();
    let opened = open(&dir, all());
    let started = at.elapsed().as_secs_f64();
    drop(opened);
    let (arranged, lists_started) = {
        let opened = open(&dir, lists());
        let (at, cpu) = (Instant::now(), cpu_seconds());
        opened.1.compact().unwrap();
        let arranged = (at.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        drop(opened);
        let at = Instant::now();
        let opened = open(&dir, lists());
        let started = at.elapsed().as_secs_f64();
        drop(opened);
        (arranged, started)
    };

    let queries = vectors(&queries, dim);
    let truth = numbers(&argument("--truth").unwrap());
    let few = &queries[..queries.len().min(50)];
    let ways =
        [("lists", lists(), &queries[..]), ("bits", all(), &queries[..]), ("exact", all(), few)];
    let params = SearchParams {
        limit: count,
        filter: AttributeFilter::default(),
        aggregate: Aggregate::Best,
        exact: false,
    };
    let (mut points, mut filtered) = (Vec::new(), Vec::new());
    let mut held = 0;
    for (way, options, asked) in ways {
        let (_galleries, gallery) = open(&dir, options);
        let params = SearchParams { exact: way == "exact", ..params.clone() };
        let (recall, us) = measure_search(&gallery, &params, asked, &truth);
        points.push(serde_json::json!({"way": way, "recall": recall, "us": us}));
        if way == "lists" {
            held = gallery.info().index.bytes;
        }
        if way != "bits" {
            continue;
        }
        for share in SHARES {
            let Some(truth) = argument(&format!("--truth-{share}")) else { continue };
            let filter =
                AttributeFilter { extra: [mark(share)].into(), ..AttributeFilter::default() };
            let params = SearchParams { filter, ..params.clone() };
            let (recall, us) = measure_search(&gallery, &params, asked, &numbers(&truth));
            let way = format!("1/{share}");
            filtered.push(serde_json::json!({"way": way, "recall": recall, "us": us}));
        }
    }
    let (_galleries, gallery) = open(&dir, GalleryOptions::default());
    let beside = beside_merges(&gallery, &params, &queries);
    let one_by_one = enrolled_one_by_one(&gallery, &queries, &params);
    let line = serde_json::json!({"beside_merges_us": beside, "one_by_one_per_s": one_by_one, "enrol_s": enrolled, "build_s": bits, "start_s": started, "lists_s": arranged.0,
        "lists_cpu_s": arranged.1, "lists_start_s": lists_started, "mib": held as f64 / 1024.0 / 1024.0,
        "peak_mib": peak_mib(), "points": points, "filtered": filtered});
    println!("{line}");
}
