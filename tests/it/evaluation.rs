//! Figures of merit equal those of other tools. Golden files: `tests/reference/evaluation.py`.

use std::collections::BTreeMap;

use handclip::evaluation::{
    Entry, Interval, OpenSet, Ranking, Scores, Session, Trial, Vectors, candidates, rank,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::support::golden;

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = golden("evaluation").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() < 1e-12, "{what}: {a} is not {b}");
}

fn vectors(rows: &[Vec<f32>]) -> Vectors {
    Vectors::new(rows[0].len(), rows.concat()).unwrap()
}

fn session(labels: &[u64], gallery: &[usize], probes: &[usize]) -> Session {
    let entries =
        |rows: &[usize]| rows.iter().map(|row| Entry { row: *row, label: labels[*row] }).collect();
    Session { gallery: entries(gallery), probes: entries(probes) }
}

#[derive(Deserialize)]
struct RankingCase {
    rows: Vec<Vec<f32>>,
    labels: Vec<u64>,
    captures: Vec<u64>,
    gallery: Vec<usize>,
    probes: Vec<usize>,
    expected: BTreeMap<String, Ranked>,
}

#[derive(Deserialize)]
struct Ranked {
    outcomes: Vec<RankedProbe>,
    without_mate: usize,
    cmc: Vec<f64>,
    map: f64,
    map_trapezoid: f64,
    minp: f64,
    torchreid_cmc: Option<Vec<f64>>,
    torchreid_map: Option<f64>,
    sklearn_map: Option<f64>,
}

#[derive(Deserialize)]
struct RankedProbe {
    probe: usize,
    rank: usize,
    standard: f64,
    trapezoid: f64,
    inp: f64,
}

fn compare_ranking(got: &Ranking, want: &Ranked) {
    assert_eq!(got.outcomes.len(), want.outcomes.len());
    for (got, want) in got.outcomes.iter().zip(&want.outcomes) {
        assert_eq!((got.probe, got.rank), (want.probe, want.rank));
        near(got.average_precision, want.standard, "standard");
        near(got.average_precision_trapezoid, want.trapezoid, "trapezoid");
        near(got.inverse_negative_penalty, want.inp, "inverse negative penalty");
    }
    let (figures, cmc) = (got.figures(), got.cmc());
    assert_eq!(figures.without_mate, want.without_mate);
    assert_eq!(cmc.len(), want.cmc.len());
    cmc.iter().zip(&want.cmc).for_each(|(a, b)| near(*a, *b, "CMC"));
    near(figures.map, want.map, "mAP");
    near(figures.map_trapezoid, want.map_trapezoid, "trapezoid mAP");
    near(figures.minp, want.minp, "mINP");
    for (rank, got) in [(1, figures.rank1), (5, figures.rank5), (10, figures.rank10)] {
        near(got, want.cmc[rank - 1], "Rank-k");
    }
    // torchreid sums in single precision.
    for (a, b) in cmc.iter().zip(want.torchreid_cmc.iter().flatten()) {
        assert!((a - b).abs() < 1e-6, "torchreid's CMC: {a} is not {b}");
    }
    for other in want.torchreid_map.iter().chain(&want.sklearn_map) {
        near(figures.map, *other, "mAP of torchreid and scikit-learn");
    }
}

#[test]
fn ranking_equals_the_plain_one_and_that_of_torchreid() {
    let cases: BTreeMap<String, RankingCase> = read("ranking.json");
    assert!(cases["no_ties"].expected.values().all(|want| want.torchreid_map.is_some()));
    for case in cases.values() {
        let vectors = vectors(&case.rows);
        let session = session(&case.labels, &case.gallery, &case.probes);
        let trial = Trial::new(&vectors, &session).unwrap();
        compare_ranking(&rank(&trial), &case.expected["plain"]);
        let filtered = trial.without_same_capture(&case.captures).unwrap();
        compare_ranking(&rank(&filtered), &case.expected["filtered"]);
        for outcome in rank(&filtered).worst(4) {
            let first = candidates(&filtered, outcome.probe, outcome.rank);
            let mates: Vec<bool> = first.iter().map(|candidate| candidate.mate).collect();
            assert_eq!(mates.iter().position(|mate| *mate), Some(outcome.rank - 1));
            assert_eq!(first[outcome.rank - 1].similarity, outcome.similarity);
        }
    }
}

#[derive(Deserialize)]
struct VerificationCase {
    genuine: Vec<f32>,
    impostor: Vec<f32>,
    eer: f64,
    bob_eer: f64,
    points: Vec<VerificationPoint>,
    det: Vec<DetGolden>,
}

#[derive(Deserialize)]
struct VerificationPoint {
    target: f64,
    threshold: f32,
    fmr: f64,
    fnmr: f64,
    bob_fmr: f64,
    bob_fnmr: f64,
}

#[derive(Deserialize)]
struct DetGolden {
    threshold: f32,
    fmr: f64,
    fnmr: f64,
}

#[test]
fn verification_equals_scikit_learn_and_bob() {
    let cases: Vec<VerificationCase> = read("verification.json");
    let mut fewer = 0;
    for case in &cases {
        let scores = Scores::from_scores(case.genuine.clone(), case.impostor.clone()).unwrap();
        let eer = scores.eer();
        assert!((eer.rate - case.eer).abs() < 1e-9, "EER {} is not {}", eer.rate, case.eer);
        // bob takes the mean of both rates at one of the two points that the line joins.
        let below =
            |s: &[f32]| s.iter().copied().filter(|s| *s < eer.threshold).fold(-2.0, f32::max);
        let before = below(scores.genuine()).max(below(scores.impostor()));
        let means = [eer.threshold, before].map(|t| (scores.fmr(t) + scores.fnmr(t)) / 2.0);
        let is_one = means.iter().any(|mean| (mean - case.bob_eer).abs() < 1e-9);
        assert!(is_one, "bob's EER {} is neither of {means:?}", case.bob_eer);
        for point in &case.points {
            let t = scores.threshold_at_fmr(point.target);
            assert_eq!(t, point.threshold, "FMR {}", point.target);
            near(scores.fmr(t), point.fmr, "FMR");
            near(scores.fnmr(t), point.fnmr, "FNMR");
            // bob looks for the threshold among the impostors' scores only: as many false matches, and never
            // fewer misses.
            near(point.fmr, point.bob_fmr, "FMR at bob's threshold");
            assert!(point.fnmr <= point.bob_fnmr, "FMR {}", point.target);
            fewer += usize::from(point.fnmr < point.bob_fnmr);
        }
        let det = scores.det(500);
        for want in &case.det {
            let got = det.iter().find(|point| point.threshold == want.threshold);
            let got = got.unwrap_or_else(|| panic!("no point at {}", want.threshold));
            near(got.fmr, want.fmr, "DET");
            near(got.fnmr, want.fnmr, "DET");
        }
    }
    assert!(fewer > 0, "the two definitions differ somewhere");
}

#[derive(Deserialize)]
struct OpenSetCase {
    rows: Vec<Vec<f32>>,
    labels: Vec<u64>,
    gallery: Vec<usize>,
    probes: Vec<usize>,
    mated: u64,
    points: Vec<OpenSetGolden>,
}

#[derive(Deserialize)]
struct OpenSetGolden {
    threshold: f32,
    rank: usize,
    tpir: f64,
    fpir: f64,
}

#[test]
fn open_set_rates_equal_those_of_bob() {
    let case: OpenSetCase = read("open_set.json");
    let vectors = vectors(&case.rows);
    let session = session(&case.labels, &case.gallery, &case.probes);
    let trial = Trial::new(&vectors, &session).unwrap();
    let open = OpenSet::of(&[rank(&trial)], &[], |label| label).unwrap();
    assert_eq!(
        (open.mated(), open.mated() + open.non_mated()),
        (case.mated, case.probes.len() as u64)
    );
    for point in &case.points {
        near(1.0 - open.fnir(point.rank, point.threshold), point.tpir, "TPIR");
        near(open.fpir(point.threshold), point.fpir, "FPIR");
    }
}

#[derive(Deserialize)]
struct IntervalCase {
    errors: u64,
    trials: u64,
    level: f64,
    low: f64,
    high: f64,
}

#[test]
fn exact_intervals_equal_those_of_scipy() {
    for case in read::<Vec<IntervalCase>>("intervals.json") {
        let IntervalCase { errors, trials, level, low, high } = case;
        let got = Interval::clopper_pearson(errors, trials, level);
        for (got, want) in [(got.low, low), (got.high, high)] {
            let error = (got - want).abs();
            assert!(error <= 1e-9 * want, "{errors} of {trials} at {level}: {got} is not {want}");
        }
    }
}
