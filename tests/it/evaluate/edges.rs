//! What one system refuses and the other takes, published draws, captures, and wrong use.

use std::collections::{BTreeMap, BTreeSet};

use handclip::image::{Picture, encode_png};
use handclip::service::tools::{Drawing, draw_hands};
use handclip::service::{LabelledImage, read_dataset};
use serde_json::Value;

use super::{drawn, name, path};
use crate::cli::{done, failed, handclip, parse};

#[test]
fn what_one_system_refused_and_the_other_found_is_a_miss_in_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    draw_hands(Drawing { subjects: 6, images: 3, seed: 8, size: 96 }, &data, &|_, _| {}).unwrap();
    let images = read_dataset(&data).unwrap();
    let files: Vec<String> = images.iter().map(|image| path(&image.path)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let lines = done(&handclip(&[&["embed", "--json"], &files[..]].concat()));
    let mut text = String::new();
    for (image, line) in images.iter().zip(lines.lines()) {
        let values = parse(line)["embedding"].as_array().unwrap().clone();
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        if text.is_empty() {
            let header: Vec<String> = (0..values.len()).map(|d| format!("e{d}")).collect();
            text = format!("path,{}\n", header.join(","));
        }
        text.push_str(&format!("{},{}\n", name(image), values.join(",")));
    }
    let all = path(&dir.path().join("all.csv"));
    std::fs::write(&all, text).unwrap();
    // The model refuses this one now; the file of embeddings still has it.
    let blank = Picture::from_rgb(96, 96, vec![200; 96 * 96 * 3]).unwrap();
    let spoilt = images.iter().find(|image| image.attributes.accessories == Some(false)).unwrap();
    std::fs::write(&spoilt.path, encode_png(&blank).unwrap()).unwrap();
    let data = path(&data);
    let command = ["compare", "nano", &all, "--data", &data, "--replicates", "200", "--json"];
    let found = parse(&done(&handclip(&command)));
    let systems = found["systems"].as_array().unwrap();
    let refused = |system: &Value| system["data"]["refused"].as_array().unwrap().len();
    assert_eq!((refused(&systems[0]), refused(&systems[1])), (1, 0));
    let sets = |system: &Value| system["sets"].as_array().unwrap().clone();
    let (nano, theirs) = (sets(&systems[0]), sets(&systems[1]));
    let searched = |set: &Value| -> u64 {
        let runs = set["runs"]["runs"].as_array().unwrap();
        runs.iter().map(|run| run["probes"].as_u64().unwrap()).sum()
    };
    let mut lost_somewhere = 0;
    for ((ours, theirs), difference) in
        nano.iter().zip(&theirs).zip(found["differences"].as_array().unwrap())
    {
        let lost = ours["lost"].as_u64().unwrap();
        assert_eq!((theirs["lost"].as_u64(), &difference["set"]), (Some(0), &ours["name"]));
        assert_eq!(searched(ours) + lost, searched(theirs), "{}", ours["name"]);
        if lost == 0 {
            assert_eq!(difference["map"]["difference"], 0.0, "the same embeddings: {difference}");
            assert_eq!(difference["rank1"]["p"], 1.0);
        }
        if lost > 0 {
            // The baseline lost what the other one found: refusing must not pay.
            let value = difference["map"]["difference"].as_f64().unwrap();
            assert!(value > 0.0, "{difference}");
        }
        lost_somewhere += lost;
    }
    assert!(lost_somewhere > 0, "the refused file asks or is enrolled in some draw");
}

#[test]
fn a_set_in_which_nobody_has_a_mate_is_left_out_of_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("manifest.csv");
    let images = read_dataset(&drawn().canonicalize().unwrap()).unwrap();
    // Of left hands, or of all, the first image of each.
    let write = |all: bool| {
        let mut text = "path,subject,aspect,side\n".to_owned();
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        for image in &images {
            let (aspect, side) = (image.attributes.aspect.unwrap(), image.attributes.side.unwrap());
            let left = side.to_string() == "left";
            let again = !seen.insert((image.key(), format!("{aspect} {side}")));
            if !(again && (all || left)) {
                text.push_str(&format!("{},{},{aspect},{side}\n", path(&image.path), image.key()));
            }
        }
        std::fs::write(&manifest, text).unwrap();
    };
    let data = path(&manifest);
    let compare = || {
        let command = ["compare", "one=nano", "two=nano", "--data", &data, "--runs", "2"];
        let command = [&command[..], &["--replicates", "100", "--gate", "--json"]].concat();
        parse(&done(&handclip(&command)))
    };
    write(false);
    let found = compare();
    let sets: Vec<&str> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|difference| difference["set"].as_str().unwrap())
        .collect();
    assert_eq!(sets, ["dorsal right", "palmar right", "overall"]);
    assert_eq!(found["systems"][0]["sets"].as_array().unwrap().len(), 4);
    write(true);
    let found = compare();
    assert_eq!(found["differences"], Value::Array(Vec::new()));
    let rows = found["gate"]["rows"].as_array().unwrap();
    assert_eq!((&rows[0]["passed"], &rows[1]["passed"]), (&false.into(), &false.into()));
    assert_eq!(rows[0]["reason"], "nothing was compared");
}

#[test]
fn across_aspects_there_are_neither_thresholds_nor_misses_at_them() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (path(drawn()), path(&dir.path().join("out")));
    let how = ["--data", &data, "--protocol", "cross-aspect", "--runs", "2"];
    let message = failed(&handclip(&[&["calibrate"], &how[..]].concat()), 1);
    assert!(message.contains("use `--protocol hands`"), "{message}");
    let rest = ["--replicates", "100", "--gate", "--json", "--out", &out];
    let command = [&["compare", "one=nano", "two=nano"], &how[..], &rest[..]].concat();
    let found = parse(&done(&handclip(&command)));
    let fnir = &found["gate"]["rows"][2];
    assert_eq!((&fnir["criterion"], &fnir["passed"]), (&"fnir".into(), &false.into()));
    assert!(fnir["reason"].as_str().unwrap().contains("across aspects"), "{fnir}");
    assert!(dir.path().join("out/gate.json").exists());
    assert!(!dir.path().join("out/calibration.json").exists());
}

#[test]
fn the_test_half_of_11k_hands_is_drawn_by_number_with_and_without_distractors() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    draw_hands(Drawing { subjects: 12, images: 4, seed: 9, size: 96 }, &data, &|_, _| {}).unwrap();
    // On both sides of every hand's limit, of different lengths, one with the leading zeros of the original.
    let ids = [
        "0000007", "999", "1036", "1037", "1038", "1042", "1043", "1050", "1051", "1052", "2000",
        "10370",
    ];
    let info = data.join("HandInfo.csv");
    let text = std::fs::read_to_string(&info).unwrap();
    let mut known: Vec<String> = Vec::new();
    let mut renamed = String::new();
    for (row, line) in text.lines().enumerate() {
        let (id, rest) = line.split_once(',').unwrap();
        let id = match row {
            0 => id.to_owned(),
            _ => {
                let place = known.iter().position(|other| other == id).unwrap_or(known.len());
                if place == known.len() {
                    known.push(id.to_owned());
                }
                format!("\"{}\"", ids[place])
            }
        };
        renamed.push_str(&format!("{id},{rest}\n"));
    }
    assert_eq!(known.len(), ids.len());
    std::fs::write(&info, renamed).unwrap();
    let images = read_dataset(&data).unwrap();
    // Last ids of the published training halves.
    let last = [
        ("dorsal right", 1050),
        ("dorsal left", 1037),
        ("palmar right", 1051),
        ("palmar left", 1042),
    ];
    let tested = |(hand, last): (&str, u64)| -> (usize, usize) {
        let of_hand = images.iter().filter(|image| {
            let a = &image.attributes;
            format!("{} {}", a.aspect.unwrap(), a.side.unwrap()) == hand
                && a.accessories == Some(false)
                && image.key().parse::<u64>().unwrap() > last
        });
        let keys: Vec<String> = of_hand.map(LabelledImage::key).collect();
        let subjects: BTreeSet<&String> = keys.iter().collect();
        (subjects.len(), keys.len())
    };
    let expected = last.map(tested);
    let everybody: usize = expected.iter().map(|(subjects, _)| subjects).sum();
    let data = path(&data);
    let ask = |protocol: &str| {
        let command = ["evaluate", "--data", &data, "--replicates", "100", "--protocol", protocol];
        parse(&done(&handclip(&[&command[..], &["--runs", "3", "--json"]].concat())))
    };
    let (few, many) = (ask("11k"), ask("11k-all"));
    assert_eq!(few["selection"]["protocol"]["published"]["all"], false);
    // Whoever is tested with any hand is tested with the left back of it: its limit is the lowest.
    let last_of_all = &few["sets"][1];
    for (at, (hand, _)) in last.iter().enumerate() {
        let (subjects, images) = expected[at];
        let (few, many) = (&few["sets"][at], &many["sets"][at]);
        assert_eq!((&few["name"], &many["name"]), (&Value::from(*hand), &Value::from(*hand)));
        assert_eq!((&few["subjects"], &few["gallery"]), (&subjects.into(), &subjects.into()));
        assert_eq!(few["probes"], images - subjects, "{hand}");
        assert_eq!((&many["gallery"], &many["probes"]), (&everybody.into(), &few["probes"]));
        for (few, many) in few["runs"]["runs"]
            .as_array()
            .unwrap()
            .iter()
            .zip(many["runs"]["runs"].as_array().unwrap())
        {
            assert_eq!(few["probes"], many["probes"]);
            let map = |run: &Value| run["map"].as_f64().unwrap();
            assert!(map(many) <= map(few), "distractors never help: {many}, {few}");
        }
        // The other hand of a person is another hand, and so an impostor; but no other person.
        let impostors = |set: &Value| set["verification"]["impostor"].as_u64().unwrap();
        let probes = 3 * (images - subjects);
        assert_eq!(impostors(few), (probes * (subjects - 1)) as u64, "{hand}");
        assert_eq!(impostors(many), (probes * (everybody - 1)) as u64, "{hand}");
        let left = &last_of_all["verification"]["lowest_fmr"];
        assert_eq!(&many["verification"]["lowest_fmr"], left, "as few people as are tested");
    }
}

#[test]
fn samples_of_the_probes_own_capture_are_left_out_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = drawn().canonicalize().unwrap();
    let of_kind: Vec<LabelledImage> = read_dataset(&root)
        .unwrap()
        .into_iter()
        .filter(|image| {
            let a = &image.attributes;
            a.accessories == Some(false) && a.side.unwrap().to_string() == "right"
        })
        .collect();
    let manifest = dir.path().join("manifest.csv");
    // capture: by the place of an image among those of its subject.
    let write = |capture: &dyn Fn(usize) -> Option<usize>| {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut text = "path,subject,capture\n".to_owned();
        for image in &of_kind {
            let place = seen.entry(image.key()).or_default();
            let capture = capture(*place).map_or_else(String::new, |number| number.to_string());
            text.push_str(&format!("{},{},{capture}\n", path(&image.path), image.key()));
            *place += 1;
        }
        std::fs::write(&manifest, text).unwrap();
    };
    let data = path(&manifest);
    let command = ["evaluate", "--data", &data, "--runs", "3", "--replicates", "100", "--json"];
    let ask = |rest: &[&str]| handclip(&[&command[..], rest].concat());
    let totals = |found: &Value| -> (u64, u64) {
        let runs = found["sets"][0]["runs"]["runs"].as_array().unwrap().clone();
        let sum = |name: &str| runs.iter().map(|run| run[name].as_u64().unwrap()).sum::<u64>();
        (sum("probes"), sum("without_mate"))
    };
    // Each image a capture of its own: the filter drops nothing.
    write(&|place| Some(place));
    let plain = parse(&done(&ask(&[])));
    let apart = parse(&done(&ask(&["--other-capture"])));
    assert_eq!(plain["sets"], apart["sets"]);
    assert_eq!(apart["selection"]["other_capture"], true);
    // One capture for all: nobody has a mate left, and impostors stay.
    write(&|_| Some(1));
    let one = parse(&done(&ask(&["--other-capture"])));
    let (probes, strangers) = totals(&one);
    assert_eq!((probes, strangers), (0, totals(&plain).0 + totals(&plain).1));
    // Two captures: some mates are dropped, some are not.
    write(&|place| Some(place % 2));
    let two = parse(&done(&ask(&["--other-capture"])));
    let (probes, strangers) = totals(&two);
    assert!(probes > 0 && strangers > totals(&plain).1, "{probes} and {strangers}");
    assert_eq!(probes + strangers, totals(&plain).0 + totals(&plain).1);
    // An image without one is named.
    write(&|place| (place > 0).then_some(place));
    let message = failed(&ask(&["--other-capture"]), 1);
    assert!(message.contains("has no `capture`"), "{message}");
}

#[test]
fn wrong_use_and_data_that_tell_nothing_are_said_so() {
    let data = path(drawn());
    for share in ["0", "1", "2", "nan", "x"] {
        for command in ["evaluate", "robustness", "calibrate"] {
            failed(&handclip(&[command, "--data", &data, "--hold-out", share]), 2);
        }
    }
    failed(&handclip(&["evaluate", "--data", &data, "--split-seed", "2"]), 2);
    let published = ["evaluate", "--data", &data, "--protocol", "11k", "--hold-out", "0.5"];
    assert!(failed(&handclip(&published), 1).contains("--hold-out divides"));
    let dir = tempfile::tempdir().unwrap();
    for (at, subject) in ["ann", "bob", "cid"].into_iter().enumerate() {
        std::fs::create_dir(dir.path().join(subject)).unwrap();
        for number in 0..2 {
            let grey = vec![100 + 10 * at as u8 + number; 96 * 96 * 3];
            let blank = encode_png(&Picture::from_rgb(96, 96, grey).unwrap()).unwrap();
            std::fs::write(dir.path().join(subject).join(format!("{number}.png")), blank).unwrap();
        }
    }
    let blank = path(dir.path());
    let message = failed(&handclip(&["evaluate", "--data", &blank]), 1);
    assert!(message.contains("none of the 6 images can be used"), "{message}");
    // Two images of one name: a file of embeddings cannot say which is meant.
    let elsewhere = tempfile::tempdir().unwrap();
    let ambiguous = elsewhere.path().join("e.csv");
    std::fs::write(&ambiguous, "path,a,b\n0.png,1,0\n1.png,0,1\n").unwrap();
    let ambiguous = ["evaluate", "--data", &blank, "--model", &path(&ambiguous)];
    let message = failed(&handclip(&ambiguous), 1);
    assert!(message.contains("two images of the data set are called"), "{message}");
    let missing = path(&dir.path().join("runs"));
    let message = failed(&handclip(&["runs", "list", "--runs-dir", &missing]), 1);
    assert!(message.contains("there are no runs in"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_path_that_is_no_unicode_is_no_panic() {
    use std::os::unix::ffi::OsStrExt as _;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_handclip"))
        .args(["evaluate", "--data"])
        .arg(std::ffi::OsStr::from_bytes(b"nothing-\xff"))
        .output()
        .unwrap();
    assert!(failed(&output, 1).contains("cannot read"));
}
