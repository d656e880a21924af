//! Thresholds for a gallery: measured on some subjects, tried on others.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::domain::{CalibratedThreshold, Calibration, CalibrationParts, Fingerprint, now_ms};
use crate::evaluation::{
    Bootstrap, Calibration as Measured, OpenSet, Rate, Refused, Scores, Session, Threshold,
    ThresholdKind,
};
use crate::service::ledger::{RunKind, RunRecord};

use super::asked::{ask, open_set, samples, trials};
use super::embed::Embedded;
use super::output::Output;
use super::plan::{Plan, PlannedSet, plan};
use super::{EvaluateError, EvaluateEvent, EvaluateOptions, Protocol, Selection, SystemChoice};

/// What is calibrated on what.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrateRequest {
    /// A model.
    pub system: SystemChoice,
    /// A data set in any layout that can be read.
    pub data: PathBuf,
    /// Which of its images. Every kind of hand gets the same thresholds.
    pub selection: Selection,
    /// Share of the subjects that thresholds are measured on; they are tried on the others.
    pub share: f64,
    /// FMR targets for verification.
    pub fmr: Vec<f64>,
    /// FPIR targets for identification.
    pub fpir: Vec<f64>,
    /// How thorough, and where.
    pub options: EvaluateOptions,
}

/// Thresholds, and what they did to subjects that they were not measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Calibrated {
    /// What a gallery uses.
    pub calibration: Calibration,
    /// The measurement in full.
    pub measured: Measured,
    /// The same thresholds on the other subjects.
    pub tried: Vec<Tried>,
    /// Targets that so few subjects cannot support: no threshold was made for them.
    pub refused: Vec<Refused>,
}

/// A threshold on subjects that it was not measured on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Which rate it is to keep.
    pub kind: ThresholdKind,
    /// The rate asked for.
    pub target: f64,
    /// The threshold.
    pub threshold: f32,
    /// FMR or FPIR there.
    pub rate: Rate,
    /// FRR or FNIR at rank 1 there: files that were refused are misses.
    pub missed: Rate,
}

/// Measures thresholds on a share of the subjects and tries them on the others.
///
/// # Errors
/// [`EvaluateError`]; [`EvaluateError::NoThreshold`] where the subjects support none of the targets,
/// [`EvaluateError::OtherKinds`] where the protocol compares one kind of hand with another.
pub fn calibrate(
    request: &CalibrateRequest,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Calibrated, EvaluateError> {
    let output = Output::prepare(request.options.out.as_deref())?;
    let plan = plan(&request.data, &request.selection, progress)?;
    of_one_kind(plan.protocol)?;
    let (card, embedded) = request.system.embed(&plan, &request.options, progress)?;
    let fingerprint = card.fingerprint.ok_or(EvaluateError::NoModel)?;
    progress(EvaluateEvent::Set("thresholds".to_owned()));
    let calibrated = measure(request, &plan, &embedded, fingerprint)?;
    if let Some(output) = output {
        output.json("calibration.json", &calibrated.calibration)?;
        output.json("report.json", &calibrated)?;
        output.record(&record(&calibrated, &card.name, &plan, request))?;
    }
    Ok(calibrated)
}

/// Impostors of the same kind of hand are the closest. A threshold among others comes out too low: where hands of one
/// kind meet, its rate is above what it claims.
fn of_one_kind(protocol: Protocol) -> Result<(), EvaluateError> {
    match protocol {
        Protocol::CrossAspect
        | Protocol::Tree { all: true }
        | Protocol::Published { all: true } => Err(EvaluateError::OtherKinds(protocol)),
        Protocol::Auto
        | Protocol::Hands
        | Protocol::Tree { all: false }
        | Protocol::Published { all: false } => Ok(()),
    }
}

/// The same, of embeddings at hand.
pub(super) fn measure(
    request: &CalibrateRequest,
    plan: &Plan,
    embedded: &Embedded,
    fingerprint: Fingerprint,
) -> Result<Calibrated, EvaluateError> {
    of_one_kind(plan.protocol)?;
    let bootstrap = Bootstrap {
        replicates: request.options.replicates,
        seed: request.selection.seed,
        ..Bootstrap::default()
    };
    let (chosen, others) = divide(plan, request.share, request.selection.seed);
    let here = Side::of(request, plan, embedded, &chosen)?;
    let searches = here.open.as_ref().map(|(open, _)| (open, request.fpir.as_slice()));
    let measured = Measured::new(&here.scores, &request.fmr, searches, &bootstrap);
    let thresholds = |kind| -> Vec<CalibratedThreshold> {
        let mut found: Vec<CalibratedThreshold> = measured
            .thresholds
            .iter()
            .filter(|threshold| threshold.kind == kind)
            .map(calibrated)
            .collect();
        found.sort_by(|a, b| b.target.total_cmp(&a.target));
        found.dedup_by(|a, b| a.target == b.target);
        found
    };
    let parts = CalibrationParts {
        fingerprint,
        subjects: measured.subjects.map_or(0, |subjects| subjects as usize),
        samples_per_subject: here.samples,
        gallery_subjects: here.open.as_ref().map_or(0, |(_, enrolled)| *enrolled),
        verification: thresholds(ThresholdKind::Fmr),
        identification: thresholds(ThresholdKind::Fpir),
        made_at_ms: now_ms(),
    };
    let calibration = Calibration::try_from(parts).map_err(|error| {
        let reasons: Vec<&str> = measured.refused.iter().map(|r| r.reason.as_str()).collect();
        EvaluateError::NoThreshold(if reasons.is_empty() {
            error.to_string()
        } else {
            reasons.join("; ")
        })
    })?;
    let there = Side::of(request, plan, embedded, &others).ok();
    let tried = there.map_or_else(Vec::new, |there| {
        measured.thresholds.iter().filter_map(|t| there.tried(t, bootstrap.level)).collect()
    });
    let refused = measured.refused.clone();
    Ok(Calibrated { calibration, measured, tried, refused })
}

fn calibrated(threshold: &Threshold) -> CalibratedThreshold {
    let interval = threshold.achieved.by_subject.unwrap_or(threshold.achieved.exact);
    CalibratedThreshold {
        target: threshold.target,
        similarity: threshold.threshold,
        rate: threshold.achieved.value,
        upper: interval.high.max(threshold.achieved.exact.high).min(1.0),
    }
}

/// People to measure on and people to try on; both hands and aspects of a person lie on one side.
fn divide(plan: &Plan, share: f64, seed: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let people: BTreeSet<u64> = plan.people.iter().copied().collect();
    let mut order: Vec<u64> = people.into_iter().collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let chosen = (order.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let others = order.split_off(chosen.min(order.len()));
    (order.into_iter().collect(), others.into_iter().collect())
}

/// Scores and searches of some people.
struct Side {
    scores: Scores,
    /// With how many subjects its smallest gallery held.
    open: Option<(OpenSet, usize)>,
    /// Fewest samples that a subject had in a gallery: more give a stranger more chances than were measured.
    samples: usize,
}

/// Of what nobody asked, or nobody was asked about, nothing was measured: counted, it would have the calibration reach
/// no gallery at all.
fn searched(session: &&Session) -> bool {
    !session.gallery.is_empty() && !session.probes.is_empty()
}

/// Subjects in the smallest gallery that was searched.
fn fewest_subjects(sessions: &[Session]) -> Option<usize> {
    sessions.iter().filter(searched).map(|session| samples(&session.gallery).len()).min()
}

/// Samples of the subject that had fewest in any gallery that was searched.
fn fewest_samples(sessions: &[Session]) -> Option<usize> {
    let searched = sessions.iter().filter(searched);
    searched.filter_map(|session| samples(&session.gallery).into_values().min()).min()
}

impl Side {
    fn of(
        request: &CalibrateRequest,
        plan: &Plan,
        embedded: &Embedded,
        people: &BTreeSet<u64>,
    ) -> Result<Self, EvaluateError> {
        let person = |label: u64| plan.people.get(label as usize).copied().unwrap_or(label);
        let sets: Vec<PlannedSet> =
            plan.sets.iter().map(|set| set.only(|label| people.contains(&person(label)))).collect();
        let captures = plan.captures.as_ref().map(|captures| embedded.by_row(captures));
        let captures = captures.as_deref();
        let asked: Vec<_> = sets.iter().map(|set| ask(set, embedded)).collect();
        let sessions: Vec<_> = asked.iter().flat_map(|set| set.sessions.clone()).collect();
        let lost: Vec<u64> = asked.iter().flat_map(|set| set.lost.clone()).collect();
        let scores =
            Scores::gather_by_label(&trials(&sessions, embedded, captures)?, &lost, person)?;
        // All kinds of hand share a threshold, so their searches are pooled.
        let (mut rankings, mut lost_searches) = (Vec::new(), Vec::new());
        let mut draws: Vec<Session> = Vec::new();
        for set in &sets {
            let searches = open_set(set, embedded, &request.selection, captures)?;
            rankings.extend(searches.rankings);
            lost_searches.extend(searches.lost);
            draws.extend(searches.sessions);
        }
        let open = OpenSet::of(&rankings, &lost_searches, person).ok();
        let open = open.map(|open| (open, fewest_subjects(&draws).unwrap_or(0)));
        let fewest = [&sessions, &draws].into_iter().filter_map(|of| fewest_samples(of));
        Ok(Self { scores, open, samples: fewest.min().unwrap_or(0) })
    }

    fn tried(&self, threshold: &Threshold, level: f64) -> Option<Tried> {
        let t = threshold.threshold;
        let count = |share: f64, of: u64| (share * of as f64).round() as u64;
        let (rate, missed) = match threshold.kind {
            ThresholdKind::Fmr => {
                let impostor = self.scores.impostor().len() as u64;
                let genuine = self.scores.genuine().len() as u64 + self.scores.lost();
                let (fmr, frr) = (self.scores.fmr(t), self.scores.frr(t));
                (
                    Rate::of(count(fmr, impostor), impostor, level),
                    Rate::of(count(frr, genuine), genuine, level),
                )
            }
            ThresholdKind::Fpir => {
                let (open, _) = self.open.as_ref()?;
                let (fpir, fnir) = (open.fpir(t), open.fnir(1, t));
                (
                    Rate::of(count(fpir, open.non_mated()), open.non_mated(), level),
                    Rate::of(count(fnir, open.asked()), open.asked(), level),
                )
            }
        };
        Some(Tried { kind: threshold.kind, target: threshold.target, threshold: t, rate, missed })
    }
}

fn record(
    calibrated: &Calibrated,
    model: &str,
    plan: &Plan,
    request: &CalibrateRequest,
) -> RunRecord {
    let mut record = RunRecord::new(RunKind::Calibrate, &request.options.command);
    record.set("model", model);
    record.set("fingerprint", calibrated.calibration.fingerprint);
    record.set("data", &plan.name);
    record.set("protocol", plan.protocol);
    record.set("seed", request.selection.seed);
    record.set("share", request.share);
    for tried in &calibrated.tried {
        let kind = match tried.kind {
            ThresholdKind::Fmr => "fmr",
            ThresholdKind::Fpir => "fpir",
        };
        record.figure(format!("{kind}_{:e}/threshold", tried.target), f64::from(tried.threshold));
        record.figure(format!("{kind}_{:e}/on_others", tried.target), tried.rate.value);
        record.figure(format!("{kind}_{:e}/missed_on_others", tried.target), tried.missed.value);
    }
    record
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Cancel;
    use super::*;
    use crate::evaluation::{MonteCarlo, Vectors};

    const PEOPLE: u64 = 8;
    const IMAGES: usize = 4;

    /// Eight people on a circle, four images each, two of them enrolled.
    fn asked(protocol: Protocol) -> (CalibrateRequest, Plan) {
        let selection = Selection {
            protocol,
            runs: 10,
            seed: 0,
            enrolled: 2,
            hold_out: None,
            accessories: false,
            other_capture: false,
        };
        let options = EvaluateOptions {
            device: "cpu".to_owned(),
            cache: None,
            replicates: 50,
            allow_leak: false,
            gate: None,
            out: None,
            show_images: false,
            command: String::new(),
            cancel: Cancel::default(),
        };
        let request = CalibrateRequest {
            system: SystemChoice::named("nano"),
            data: PathBuf::new(),
            selection,
            share: 1.0,
            fmr: vec![0.5],
            fpir: vec![1.0],
            options,
        };
        let labels: Vec<u64> = (0..PEOPLE).flat_map(|label| [label; IMAGES]).collect();
        let draws = MonteCarlo { runs: 10, samples: 2, seed: 0 };
        let plan = Plan {
            protocol,
            files: Vec::new(),
            sets: vec![PlannedSet { name: "all".to_owned(), sessions: draws.within(&labels) }],
            subjects: Vec::new(),
            people: (0..PEOPLE).collect(),
            name: String::new(),
            captures: None,
            everybody: Vec::new(),
        };
        (request, plan)
    }

    fn embedded(refused: &[usize]) -> Embedded {
        let files = PEOPLE as usize * IMAGES;
        let taken: Vec<usize> = (0..files).filter(|file| !refused.contains(file)).collect();
        let angle = |file: &usize| (file / IMAGES) as f32 * 0.7 + (file % IMAGES) as f32 * 0.02;
        let values = taken.iter().flat_map(|file| [angle(file).cos(), angle(file).sin()]);
        Embedded {
            vectors: Arc::new(Vectors::new(2, values.collect()).unwrap()),
            row_of: (0..files).map(|file| taken.iter().position(|other| *other == file)).collect(),
            refusals: Vec::new(),
            cached: 0,
            seconds: 0.0,
        }
    }

    #[test]
    fn a_calibration_reaches_as_far_as_the_smallest_gallery_that_was_searched() {
        let (request, plan) = asked(Protocol::Hands);
        let reach = |refused: &[usize]| {
            let fingerprint = "ab".repeat(32).parse().unwrap();
            let found = measure(&request, &plan, &embedded(refused), fingerprint).unwrap();
            (found.calibration.gallery_subjects, found.calibration.samples_per_subject)
        };
        assert_eq!(reach(&[]), (4, 2), "half of the people, with two images each");
        // Of person 2 one image is left: where that is enrolled, it is by itself.
        assert_eq!(reach(&[8, 9, 10]).1, 1);
        // Person 5 is in no gallery, whoever else is.
        assert_eq!(reach(&[20, 21, 22, 23]), (3, 2));
    }

    #[test]
    fn no_threshold_comes_of_comparisons_between_kinds_of_hand() {
        for (protocol, instead) in [
            (Protocol::CrossAspect, "hands"),
            (Protocol::Tree { all: true }, "tree"),
            (Protocol::Published { all: true }, "11k"),
        ] {
            let (request, plan) = asked(protocol);
            let fingerprint = "ab".repeat(32).parse().unwrap();
            let refused = measure(&request, &plan, &embedded(&[]), fingerprint).unwrap_err();
            assert!(matches!(refused, EvaluateError::OtherKinds(_)), "{refused}");
            assert!(refused.to_string().contains(&format!("use `--protocol {instead}`")));
        }
    }
}
