//! The published splits of 11k Hands, from its label file alone.

use handclip::dataset::{Protocol, SplitCounts, counts, leaks, read, split};
use handclip::service::datasets::{SplitRequest, split_dataset};

use crate::support::shared_data;

/// The published table: ids and images to train on, ids and images to test on, queries, enrolled, enrolled
/// with distractors.
const PUBLISHED: [(&str, [usize; 7]); 4] = [
    ("dorsal_r", [72, 890, 71, 1042, 971, 71, 290]),
    ("dorsal_l", [73, 735, 73, 1061, 988, 73, 290]),
    ("palmar_r", [72, 905, 71, 988, 917, 71, 290]),
    ("palmar_l", [76, 928, 75, 1023, 948, 75, 290]),
];

fn row(of: &SplitCounts) -> [usize; 7] {
    let SplitCounts { train, test, query, gallery, gallery_all, .. } = of;
    [train.subjects, train.images, test.subjects, test.images, *query, *gallery, *gallery_all]
}

#[test]
fn the_published_splits_have_the_published_sizes() {
    let Some(shared) = shared_data("datasets") else { return };
    let path = shared.join("hands11k/HandInfo.full.csv");
    let images = read(&path).unwrap();
    assert_eq!(images.len(), 11_076);
    for seed in [1, 2] {
        let splits = split(&images, Protocol::Published, seed).unwrap();
        let sizes = counts(&images, &splits);
        for (got, (name, expected)) in sizes.iter().zip(PUBLISHED) {
            assert_eq!((got.name.as_str(), row(got)), (name, expected));
        }
        // Trained on in one hand, tested on in another.
        let leaked = leaks(&images, &splits);
        assert!(!leaked.is_empty());
        assert!(leaked.keys().all(|id| (1038..=1051).contains(&id.parse::<u64>().unwrap())));
        let joint = split(&images, Protocol::Joint, seed).unwrap();
        assert!(leaks(&images, &joint).is_empty());
    }
}

#[test]
fn a_leak_is_an_error_unless_it_is_asked_for() {
    let Some(shared) = shared_data("datasets") else { return };
    let mut request = SplitRequest {
        path: shared.join("hands11k/HandInfo.full.csv"),
        protocol: Protocol::Published,
        seed: 1,
        allow_leaks: false,
        out: None,
    };
    let error = split_dataset(&request, &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("--allow-leaks") && error.contains("joint"), "{error}");
    request.allow_leaks = true;
    let summary = split_dataset(&request, &|_, _| {}).unwrap();
    assert_eq!(row(&summary.splits[0]), PUBLISHED[0].1);
    assert!(summary.leaked_subjects > 0);
}
