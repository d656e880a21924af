//! The published splits of 11k Hands, from its label file alone.

use std::path::Path;
use std::process::Command;

use handclip::dataset::{DatasetError, Hand, Protocol, SplitCounts, counts, leaks, read, split};
use handclip::service::datasets::{SplitRequest, split_dataset};
use serde_json::Value;

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
    let dir = tempfile::tempdir().unwrap();
    let mut request = SplitRequest {
        path: shared.join("hands11k/HandInfo.full.csv"),
        protocol: Protocol::Published,
        hand: None,
        seed: 1,
        allow_leaks: false,
        out: Some(dir.path().join("out")),
    };
    let error = split_dataset(&request, &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("--allow-leaks") && error.contains("joint"), "{error}");
    assert!(!dir.path().join("out").exists(), "something was written");
    // Counting makes nothing that could be trained on: it says how many there are.
    request.out = None;
    let counted = split_dataset(&request, &|_, _| {}).unwrap();
    assert_eq!(row(&counted.splits[0]), PUBLISHED[0].1);
    assert_eq!(counted.leaked_subjects, 6);
    request.allow_leaks = true;
    assert_eq!(split_dataset(&request, &|_, _| {}).unwrap(), counted);
    // One hand by itself has nobody on both sides.
    request.hand = Hand::named("P-l");
    let one = split_dataset(&SplitRequest { allow_leaks: false, ..request }, &|_, _| {}).unwrap();
    assert_eq!(one.splits, counted.splits[3..]);
    assert_eq!(one.leaked_subjects, 0);
}

/// The spelling that scripts use, and the published table to the last number.
#[test]
fn the_command_prints_the_published_table_from_the_label_file_alone() {
    let Some(shared) = shared_data("datasets") else { return };
    let data = shared.join("hands11k/HandInfo.full.csv").display().to_string();
    let split = |rest: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handclip"));
        let command = command.args(["dataset", "split", "--data", &data, "--seed", "7"]).args(rest);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let (table, said) = split(&["--protocol", "11k", "--dry-run"]);
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["D-r", "72/890", "71/1042", "971", "71", "290"],
        ["D-l", "73/735", "73/1061", "988", "73", "290"],
        ["P-r", "72/905", "71/988", "917", "71", "290"],
        ["P-l", "76/928", "75/1023", "948", "75", "290"],
    ];
    assert_eq!(lines[1..], expected);
    assert!(said.contains("6 subjects") && said.contains("--allow-leaks"), "{said}");
    for (row, code) in expected.iter().zip(["D-r", "D-l", "P-r", "P-l"]) {
        let one = ["--protocol", "11k", "--aspect", code, "--out", "absent", "--dry-run"];
        let (table, said) = split(&one);
        assert_eq!(table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(), row);
        assert_eq!((table.lines().count(), said.as_str()), (2, ""));
        let (json, _) = split(&[&one[..], &["--json"]].concat());
        let json: Value = serde_json::from_str(&json).unwrap();
        let of = |part: &str| {
            let count = &json["splits"][0][part];
            format!("{}/{}", count["subjects"], count["images"])
        };
        let number = |part: &str| json["splits"][0][part].to_string();
        let got =
            [of("train"), of("test"), number("query"), number("gallery"), number("gallery_all")];
        assert_eq!(got, row[1..]);
        assert_eq!(json["splits"][0]["aspect"], code);
    }
    assert!(!Path::new("absent").exists());
}

/// Every image of it is a link to one of the photographs.
#[test]
fn a_tree_of_splits_is_not_divided_again() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    let photo = |at: usize| photos.join(format!("p{}/{}.jpg", at / 3, at % 3));
    for at in 0..12 {
        std::fs::create_dir_all(photo(at).parent().unwrap()).unwrap();
        std::fs::write(photo(at), format!("photograph {at}")).unwrap();
    }
    let ask = |path: &Path, out: Option<&str>| {
        let request = SplitRequest {
            path: path.to_path_buf(),
            protocol: Protocol::Subjects { train: 0.5 },
            hand: None,
            seed: 1,
            allow_leaks: false,
            out: out.map(|out| dir.path().join(out)),
        };
        split_dataset(&request, &|_, _| {})
    };
    ask(&photos, Some("out")).unwrap();
    for out in [Some("again"), None] {
        let refused = ask(&dir.path().join("out"), out).unwrap_err();
        assert!(matches!(refused, DatasetError::Divided(_)), "{refused}");
        assert!(refused.to_string().contains("out/train_all"), "{refused}");
    }
    // A part of it is a data set.
    ask(&dir.path().join("out/test"), Some("half")).unwrap();
    // A manifest may name a file twice.
    let rows: String =
        (0..12).map(|at| format!("p{}/{}.jpg,p{}\n", at / 3, at % 3, at / 3)).collect();
    let manifest = photos.join("m.csv");
    std::fs::write(&manifest, format!("path,subject\n{rows}{rows}")).unwrap();
    let counted = ask(&manifest, Some("listed")).unwrap();
    assert_eq!(counted.splits[0].test.images, 6);
    for at in 0..12 {
        assert_eq!(std::fs::read_to_string(photo(at)).unwrap(), format!("photograph {at}"));
    }
}
