//! Exact scans read codes of eight bits first, and must still give the exact answer.

use handclip::domain::{AttributeFilter, Embedding};
use handclip::gallery::{GalleryOptions, SearchParams};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gallery::{create, filters, new_sample, params, random, sample_id, subject};

const DIM: usize = 48;

/// Templates that codes of eight bits tell apart badly: one value dwarfs the others, so that these
/// are rounded to next to nothing, and many differ only there.
fn coarse(rng: &mut ChaCha8Rng) -> Embedding {
    let mut values: Vec<f32> = random(rng, DIM).iter().map(|v| v * 0.02).collect();
    values[rng.random_range(0..2)] = 1.0;
    Embedding::from_raw(values).unwrap()
}

fn cosine(a: &Embedding, b: &Embedding) -> f64 {
    a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn a_scan_of_codes_gives_the_exact_answer() {
    let dir = tempfile::tempdir().unwrap();
    let options = GalleryOptions { background: false, ..GalleryOptions::default() };
    let (_galleries, gallery) = create(dir.path(), &options, DIM);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut templates: Vec<Embedding> = (0..2_000).map(|_| coarse(&mut rng)).collect();
    for (n, template) in templates.iter().enumerate() {
        gallery.enrol(new_sample(n, n / 4, template.clone())).unwrap();
    }
    gallery.compact().unwrap();
    for n in 2_000..2_100 {
        templates.push(coarse(&mut rng));
        gallery.enrol(new_sample(n, n / 4, templates[n].clone())).unwrap();
    }
    let removed = |n: usize| n.is_multiple_of(7);
    for n in (0..2_100).filter(|n| removed(*n)) {
        gallery.remove_sample(&subject(n / 4), &sample_id(n)).unwrap();
    }
    assert_eq!((gallery.info().index.kind, gallery.info().index.removed), ("binary", 300));
    for filter in filters() {
        let admitted: Vec<usize> =
            (0..templates.len()).filter(|n| !removed(*n) && admits(&filter, *n)).collect();
        for limit in [1, 10, 300] {
            let probe = coarse(&mut rng);
            let mut oracle: Vec<f64> =
                admitted.iter().map(|n| cosine(&probe, &templates[*n])).collect();
            oracle.sort_by(|a, b| b.total_cmp(a));
            let asked = SearchParams { exact: true, filter: filter.clone(), ..params(limit) };
            let hits = gallery.search_samples(&probe, &asked).unwrap();
            assert_eq!(hits.len(), limit.min(oracle.len()));
            for (hit, expected) in hits.iter().zip(&oracle) {
                assert!((f64::from(hit.similarity.get()) - expected).abs() < 1e-6);
            }
        }
    }
}

fn admits(filter: &AttributeFilter, n: usize) -> bool {
    filter.admits(&new_sample(n, n, Embedding::from_raw(vec![1.0]).unwrap()).attributes)
}
