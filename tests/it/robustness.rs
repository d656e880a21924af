//! Damaged pictures, and what recognition loses to them.

use std::path::{Path, PathBuf};

use handclip::image::{
    Corruption, Family, Picture, QualityLimits, Severity, corrupt, encode_png, gate,
};
use handclip::service::ModelChoice;
use handclip::service::datasets::{Protocol, SplitRequest, split_dataset};
use handclip::service::robustness::{
    On, RobustnessError, RobustnessReport, RobustnessRequest, measure_robustness,
};
use handclip::service::tools::{Drawing, OfflineModel, draw_hands};
use handclip::synth::SynthSpec;
use serde_json::Value;

use crate::support::shared_data;

const SIDE: u32 = 160;

fn drawn() -> Vec<Picture> {
    let spec = SynthSpec { first: 0, subjects: 3, images: 1, seed: 41, size: SIDE };
    let draw = |index: usize| {
        let drawn = spec.sample(index).render(SIDE);
        Picture::from_rgb(drawn.width, drawn.height, drawn.rgb).unwrap()
    };
    (0..spec.len()).map(draw).collect()
}

/// Mean absolute difference of samples, levels of 255.
fn difference(a: &Picture, b: &Picture) -> f64 {
    let sum: u64 = a.rgb().iter().zip(b.rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgb().len() as f64
}

#[test]
fn damage_grows_with_severity_and_follows_from_the_seed() {
    let pictures = drawn();
    for kind in Corruption::ALL {
        let mut grown = vec![0.0];
        for severity in Severity::ALL {
            let damaged =
                |seed: u64, picture: &Picture| corrupt(picture, kind, severity, seed).unwrap();
            let one = |(seed, picture)| difference(&damaged(seed, picture), picture);
            let sum: f64 = (0..).zip(&pictures).map(one).sum();
            grown.push(sum / pictures.len() as f64);
            assert_eq!(damaged(5, &pictures[0]), damaged(5, &pictures[0]), "{kind}");
        }
        assert!(grown.is_sorted_by(|a, b| a < b), "{kind}: {grown:?}");
        // Severe, and still a picture: half black, half white would differ by 127.
        assert!(grown[5] < 100.0, "{kind}: {grown:?}");
    }
}

#[test]
fn only_what_is_random_depends_on_the_seed() {
    let picture = &drawn()[0];
    let same = [
        Corruption::Contrast,
        Corruption::FingerCrop,
        Corruption::GaussianBlur,
        Corruption::DefocusBlur,
        Corruption::Jpeg,
        Corruption::Pixelate,
    ];
    for kind in Corruption::ALL {
        let of = |seed| corrupt(picture, kind, Severity::ALL[2], seed).unwrap();
        let differs = (1..10).any(|seed| of(seed) != of(0));
        assert_eq!(differs, !same.contains(&kind), "{kind}");
    }
}

#[test]
fn what_is_worn_lies_on_the_hand() {
    for picture in drawn() {
        let pixel = |i: usize| &picture.rgb()[i * 3..i * 3 + 3];
        // Generated hands stand on a plain background.
        let background = pixel(0);
        let apart = |i: usize| -> u32 {
            pixel(i).iter().zip(background).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
        };
        for kind in Corruption::ALL.into_iter().filter(|kind| kind.family() == Family::Occlusion) {
            let worn = corrupt(&picture, kind, Severity::ALL[3], 3).unwrap();
            let changed: Vec<usize> = (0..(SIDE * SIDE) as usize)
                .filter(|i| worn.rgb()[i * 3..i * 3 + 3] != *pixel(*i))
                .collect();
            let on_hand = changed.iter().filter(|i| apart(**i) > 30).count();
            let share = on_hand as f64 / changed.len() as f64;
            // A patch at the side of the hand reaches beyond it.
            assert!(changed.len() > 100 && share > 0.5, "{kind}: {share} of {}", changed.len());
        }
    }
}

fn hands(dir: &Path, subjects: u64) -> PathBuf {
    let out = dir.join("hands");
    let drawing = Drawing { subjects, images: 3, seed: 12, size: 96 };
    draw_hands(drawing, &out, &|_, _| {}).unwrap();
    out
}

fn request(data: &Path, corruptions: &[Corruption]) -> RobustnessRequest {
    RobustnessRequest {
        model: ModelChoice::Nano,
        device: "cpu".to_owned(),
        data: data.to_path_buf(),
        corruptions: corruptions.to_vec(),
        severities: vec![Severity::ALL[0], Severity::ALL[4]],
        on: On::Probe,
        seed: 0,
        runs: 10,
        hold_out: None,
        allow_leak: false,
        limit_subjects: None,
        target_fmr: 0.01,
        replicates: 200,
        out: None,
        command: "handclip robustness".to_owned(),
    }
}

fn measure(request: &RobustnessRequest) -> RobustnessReport {
    measure_robustness(request, &|_, _| {}).unwrap()
}

/// Rank-1 of the card's protocol over all probes, where draws are the same.
fn of_the_card(data: &Path) -> f64 {
    let nano = OfflineModel::open(&ModelChoice::Nano, "cpu").unwrap();
    let hands = nano.score_photographs(data).unwrap().hands;
    let hits: f64 = hands.iter().map(|hand| hand.rank1 * hand.probes as f64).sum();
    hits / hands.iter().map(|hand| hand.probes as f64).sum::<f64>()
}

fn add_up(report: &RobustnessReport) {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
    for row in &report.conditions {
        near(row.damage.rank1.change, row.damage.rank1.value - report.clean.rank1.value);
        near(row.damage.fnmr.change, row.damage.fnmr.value - report.clean.fnmr.value);
        let damage = &row.damage;
        assert!(damage.fnmr.value >= damage.refused && damage.rank1.value <= 1.0 - damage.refused);
        let interval = damage.rank1.interval.unwrap();
        assert!(interval.low <= damage.rank1.change && damage.rank1.change <= interval.high);
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    for kind in &report.corruptions {
        let own = report.conditions.iter().filter(|row| row.corruption == kind.corruption);
        let own: Vec<_> = own.map(|row| row.damage).collect();
        near(kind.damage.rank1.value, mean(own.iter().map(|d| d.rank1.value).collect()));
        near(kind.damage.fnmr.value, mean(own.iter().map(|d| d.fnmr.value).collect()));
        near(kind.damage.refused, mean(own.iter().map(|d| d.refused).collect()));
    }
    for family in &report.families {
        let own = report.corruptions.iter().filter(|row| row.family == family.family);
        near(family.damage.rank1.value, mean(own.map(|row| row.damage.rank1.value).collect()));
    }
    for table in &report.groups {
        let probes: usize = table.groups.iter().map(|group| group.probes).sum();
        assert_eq!(probes + table.unknown, report.probes, "{}", table.attribute);
        for group in &table.groups {
            assert_eq!(group.figures.is_none(), group.subjects < 10, "{group:?}");
            assert_eq!(group.figures.is_none(), group.no_verdict.is_some());
        }
        // Of an attribute that has figures for all of its groups, Rank-1 is the mean by probes.
        let all: Option<Vec<f64>> = table
            .groups
            .iter()
            .map(|group| Some(group.figures?.rank1 * group.probes as f64))
            .collect();
        if let (Some(all), 0) = (all, table.unknown) {
            near(all.iter().sum::<f64>() / report.probes as f64, report.clean.rank1.value);
        }
    }
}

#[test]
fn the_clean_row_is_the_card_s_and_everything_else_adds_up_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path(), 12);
    let kinds = [Corruption::Contrast, Corruption::FingerCrop, Corruption::Patch];
    let mut request = request(&data, &kinds);
    request.out = Some(dir.path().join("report"));
    let report = measure(&request);
    assert!((report.clean.rank1.value - of_the_card(&data)).abs() < 1e-9);
    assert!(report.clean.rank1.value > 0.9, "{:?}", report.clean);
    assert_eq!((report.conditions.len(), report.corruptions.len()), (6, 3));
    add_up(&report);
    // 12 subjects make 66 pairs: FMR 1e-2 cannot be claimed on them.
    assert_eq!(report.target_fmr, 3.0 / 66.0);
    assert!(report.note.as_deref().unwrap().contains("66 independent pairs"));
    assert!(report.clean.fmr.unwrap() <= report.target_fmr);
    // Fingers that are gone cost more than finger tips.
    let crop = |at: usize| report.conditions[2 + at].damage;
    assert!(crop(1).rank1.value < crop(0).rank1.value - 0.1, "{:?}", [crop(0), crop(1)]);
    let natural = report.natural.unwrap();
    assert!(natural.probes > 0 && natural.subjects <= 12);
    let attributes: Vec<&str> = report.groups.iter().map(|t| t.attribute.as_str()).collect();
    assert_eq!(attributes, ["skin colour", "gender", "age", "aspect", "side"]);
    assert!(report.groups[3].groups.iter().all(|group| group.figures.is_some()));

    let read = |name: &str| std::fs::read_to_string(dir.path().join("report").join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("robustness.json")).unwrap();
    assert_eq!(json["conditions"][3]["corruption"], "finger-crop");
    assert_eq!(json["conditions"][3]["severity"], 5);
    assert_eq!(json["conditions"][3]["rank1"]["value"], crop(1).rank1.value);
    let markdown = read("robustness.md");
    assert!(markdown.contains("| finger-crop |") && markdown.contains("## By gender"));
    assert!(markdown.contains("no verdict: "));
    let html = read("robustness.html");
    assert!(html.contains("<svg") && html.contains("finger-crop") && !html.contains(" src="));

    // The same again is the same; another seed is not.
    request.out = None;
    assert_eq!(measure(&request), report);
    request.seed = 7;
    assert_ne!(measure(&request).conditions, report.conditions);
}

#[test]
fn with_damaged_galleries_missing_fingers_cost_less() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path(), 8);
    let mut request = request(&data, &[Corruption::FingerCrop]);
    request.severities = vec![Severity::ALL[4]];
    let probe = measure(&request);
    request.on = On::Both;
    let both = measure(&request);
    add_up(&both);
    assert_eq!(both.clean, probe.clean);
    let rank1 = |report: &RobustnessReport| report.conditions[0].damage.rank1.value;
    assert!(rank1(&both) > rank1(&probe), "{} {}", rank1(&both), rank1(&probe));
    request.hold_out = Some((0.5, 1));
    assert_eq!(measure(&request).subjects, 4);
    request.hold_out = None;
    request.limit_subjects = Some(5);
    assert_eq!(measure(&request).subjects, 5);
    request.limit_subjects = Some(1);
    let refused = measure_robustness(&request, &|_, _| {});
    assert!(matches!(refused, Err(RobustnessError::TooFew)));
}

/// In a tree of splits every photograph lies in a folder of its part and in one of every draw.
#[test]
fn nobody_asks_with_the_file_that_is_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let divided = SplitRequest {
        path: hands(dir.path(), 8),
        protocol: Protocol::Subjects { train: 0.5 },
        hand: None,
        seed: 1,
        allow_leaks: false,
        out: Some(tree.clone()),
    };
    split_dataset(&divided, &|_, _| {}).unwrap();
    let test = measure(&request(&tree.join("test"), &[]));
    assert_eq!((test.subjects, test.probes, test.data_notes.len()), (4, test.images - 4, 0));
    let whole = measure(&request(&tree, &[]));
    assert!(whole.markdown().contains("of the splits only"), "{}", whole.markdown());
    assert_eq!(RobustnessReport { data_notes: Vec::new(), ..whole }, test);
    let mut held_out = request(&tree, &[]);
    held_out.hold_out = Some((0.5, 1));
    assert_eq!(measure(&held_out).subjects, 2, "of the four who are trained on");
    // A copy by another name.
    let subject = std::fs::read_dir(tree.join("test")).unwrap().next().unwrap().unwrap().path();
    let photo = std::fs::read_dir(&subject).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&photo, subject.join("zz.png")).unwrap();
    let copied = measure(&request(&tree.join("test"), &[]));
    assert!(copied.data_notes[0].contains("one image is a copy"), "{:?}", copied.data_notes);
    assert_eq!(RobustnessReport { data_notes: Vec::new(), ..copied }, test);
}

#[test]
fn what_the_quality_gate_refuses_is_a_miss() {
    // Hands photographed in fog: loss of contrast makes some of them blank.
    let dir = tempfile::tempdir().unwrap();
    let spec = SynthSpec { first: 0, subjects: 4, images: 2, seed: 8, size: 64 };
    let (mut blank, mut asked) = (0, 0);
    for (index, sample) in spec.samples().enumerate() {
        let drawn = sample.render(spec.size);
        let picture = Picture::from_rgb(drawn.width, drawn.height, drawn.rgb).unwrap();
        let fog = corrupt(&picture, Corruption::Contrast, Severity::ALL[0], 0).unwrap();
        let folder = dir.path().join(sample.subject.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{index}.png")), encode_png(&fog).unwrap()).unwrap();
        let worse = corrupt(&fog, Corruption::Contrast, Severity::ALL[4], 0).unwrap();
        blank += usize::from(gate(&worse, &QualityLimits::default()).is_err());
        asked += 1;
    }
    assert!(blank > 0 && blank <= asked, "{blank} of {asked} are blank");
    let mut request = request(dir.path(), &[Corruption::Contrast]);
    request.severities = vec![Severity::ALL[4]];
    request.on = On::Both;
    let report = measure(&request);
    let refused = report.conditions[0].damage.refused;
    assert!(refused > report.clean.refused, "{refused}");
    add_up(&report);
}

#[test]
fn the_command_names_what_it_does_not_know_and_writes_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let data = hands(dir.path(), 3);
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_handclip"));
        command.args(["robustness", "--runs", "2", "--replicates", "50", "--data"]);
        command.arg(&data).args(more).output().unwrap()
    };
    let wrong = run(&["--corruptions", "jpeg,fog"]);
    assert_eq!(wrong.status.code(), Some(2));
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(message.contains("`fog` is not a corruption") && message.contains("motion-blur"));
    assert_eq!(run(&["--severities", "0"]).status.code(), Some(2));
    let done = run(&["--corruptions", "pixelate,jpeg", "--severities", "5,1,5", "--json"]);
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    let rows = json["conditions"].as_array().unwrap().iter();
    let rows: Vec<(&str, u64)> = rows
        .map(|row| (row["corruption"].as_str().unwrap(), row["severity"].as_u64().unwrap()))
        .collect();
    assert_eq!(rows, [("jpeg", 1), ("jpeg", 5), ("pixelate", 1), ("pixelate", 5)]);
    let shown = run(&["--corruptions", "none"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("# Robustness of nano") && !text.contains("## Damaged"), "{text}");
    assert!(text.contains("but not by group"), "a table by group leaves out what was refused");
}

#[test]
fn photographs_are_measured_as_the_card_does() {
    let Some(shared) = shared_data("robustness") else { return };
    let data = shared.join("hands11k");
    let mut request = request(&data, &[Corruption::Rings]);
    request.severities = vec![Severity::ALL[2]];
    let report = measure(&request);
    assert!((report.clean.rank1.value - of_the_card(&data)).abs() < 1e-9);
    add_up(&report);
    assert!(report.natural.is_some(), "some hands are shown with and without");
    println!("{}", report.markdown());
}
