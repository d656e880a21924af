use std::sync::atomic::AtomicBool;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::kernel::Kernel;
use super::super::reader::Reader;
use super::{Links, build, from_bytes, to_bytes};

const DIM: usize = 48;

/// Unit vectors in clusters of ten.
fn vectors(count: usize) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut centre = Vec::new();
    let row = |at: usize| {
        if at.is_multiple_of(10) {
            centre = (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
        }
        let near = centre.iter().map(|value| value + 0.5 * rng.random_range(-1.0_f32..1.0));
        let row: Vec<f32> = near.collect();
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter().map(|value| value / length).collect()
    };
    (0..count).map(row).collect()
}

#[test]
fn a_walk_finds_what_is_nearest() {
    let (kernel, vectors) = (Kernel::new(), vectors(3_000));
    let graph = build(kernel, &vectors, &AtomicBool::new(false)).unwrap();
    let mut found = 0;
    for query in vectors.iter().step_by(30) {
        let mut all: Vec<(f32, u32)> =
            (0..).zip(&vectors).map(|(at, v)| (kernel.dot(v, query), at)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let walked = graph.walk(kernel, query, 64);
        assert_eq!(walked.len(), 64);
        found += all[..10].iter().filter(|(_, at)| walked[..20].contains(at)).count();
    }
    assert!(found >= 990, "{found} of 1,000");
}

#[test]
fn every_node_finds_itself() {
    let (kernel, vectors) = (Kernel::new(), vectors(3_000));
    let graph = build(kernel, &vectors, &AtomicBool::new(false)).unwrap();
    let missed = (0..).zip(&vectors).filter(|(at, v)| !graph.walk(kernel, v, 48).contains(at));
    assert_eq!(missed.count(), 0);
}

#[test]
fn few_vectors_equal_ones_and_none_make_graphs_too() {
    let kernel = Kernel::new();
    for vectors in [vec![], vec![vec![1.0; DIM]], vec![vec![0.5; DIM]; 40], vec![vec![0.0; DIM]; 7]]
    {
        let graph = build(kernel, &vectors, &AtomicBool::new(false)).unwrap();
        // Equal ones hide each other.
        let found = graph.walk(kernel, &[0.1; DIM], 100).len();
        assert!((vectors.len().min(1)..=vectors.len()).contains(&found), "{found}");
    }
}

#[test]
fn building_stops_when_told() {
    let told = AtomicBool::new(true);
    assert!(build(Kernel::new(), &vectors(500), &told).is_err());
}

#[test]
fn links_read_back_and_no_impossible_ones_do() {
    let (kernel, vectors) = (Kernel::new(), vectors(600));
    let graph = build(kernel, &vectors, &AtomicBool::new(false)).unwrap();
    for links in [graph.links().clone(), Links::ring(9)] {
        let mut bytes = Vec::new();
        to_bytes(&links, &mut bytes);
        assert_eq!(from_bytes(&mut Reader(&bytes)).as_ref(), Some(&links));
        assert_eq!(from_bytes(&mut Reader(&bytes[..bytes.len() - 1])), None);
        // The entry, then a link, to a node that there is not.
        for at in [8, 16] {
            let mut altered = bytes.clone();
            altered[at..at + 4].copy_from_slice(&600_000_u32.to_le_bytes());
            assert_eq!(from_bytes(&mut Reader(&altered)), None, "word at {at}");
        }
    }
}
