//! From embeddings and draws to figures.

use std::collections::{BTreeMap, BTreeSet};

use crate::evaluation::{
    Bootstrap, OpenSet, Outcome, ProbeValue, Ranking, RunTable, Scores, Session, Spread, Trial,
    VerificationFigures, candidates, lowest_fpir, rank,
};

use super::asked::{Asked, STRANGERS, ask, open_set, trials};
use super::embed::Embedded;
use super::plan::{Plan, PlannedSet};
use super::system::SystemCard;
use super::types::{
    Evaluation, Failure, FailureCandidate, Figure, Histogram, OpenSetFigures, Overall, SetFigures,
};
use super::{EvaluateError, EvaluateEvent, EvaluateOptions, Protocol, Selection};

/// FMR that FNMR is reported at.
pub(super) const FMR_TARGETS: [f64; 3] = [1e-2, 1e-3, 1e-4];
/// FPIR that FNIR is reported at.
pub(super) const FPIR_TARGETS: [f64; 3] = [1e-1, 1e-2, 3e-3];
/// Points of a DET curve.
const DET_POINTS: usize = 200;
/// Bars of a histogram.
const BINS: usize = 60;
/// Worst probes shown, and candidates of each.
const FAILURES: usize = 10;
const CANDIDATES: usize = 5;

/// The outcomes of a set's runs: what a comparison pairs.
pub(super) struct Measured {
    pub(super) rankings: Vec<Ranking>,
    /// Run by run, each probe's file.
    pub(super) files: Vec<Vec<usize>>,
}

/// Which figures, and how thoroughly.
pub(super) struct Measure<'a> {
    pub(super) plan: &'a Plan,
    pub(super) selection: &'a Selection,
    pub(super) bootstrap: Bootstrap,
}

impl Measure<'_> {
    pub(super) fn new<'a>(
        plan: &'a Plan,
        selection: &'a Selection,
        options: &EvaluateOptions,
    ) -> Measure<'a> {
        let bootstrap = Bootstrap {
            replicates: options.replicates,
            seed: selection.seed,
            ..Bootstrap::default()
        };
        Measure { plan, selection, bootstrap }
    }

    /// All figures of a system, and what a comparison needs of them.
    pub(super) fn evaluation(
        &self,
        (card, embedded): (SystemCard, &Embedded),
        options: &EvaluateOptions,
        progress: &dyn Fn(EvaluateEvent),
    ) -> Result<(Evaluation, Vec<Measured>), EvaluateError> {
        let asked: Vec<Asked> = self.plan.sets.iter().map(|set| ask(set, embedded)).collect();
        let captures = self.captures(embedded);
        let files = embedded.files();
        let mut sets = Vec::new();
        let mut measured = Vec::new();
        for (planned, asked) in self.plan.sets.iter().zip(&asked) {
            progress(EvaluateEvent::Set(planned.name.clone()));
            options.cancel.check()?;
            let trials = trials(&asked.sessions, embedded, captures.as_deref())?;
            let rankings: Vec<Ranking> = trials.iter().map(rank).collect();
            sets.push(self.set(
                planned,
                asked,
                (&trials, &rankings),
                (embedded, captures.as_deref()),
            )?);
            let of_run = |session: &Session| session.probes.iter().map(|p| files[p.row]).collect();
            let files = asked.sessions.iter().map(of_run).collect();
            measured.push(Measured { rankings, files });
        }
        progress(EvaluateEvent::Set("all sets".to_owned()));
        let verification = match sets.as_slice() {
            // Pooled with nothing else, it is the set's own.
            [only] => only.verification.clone(),
            _ => self.pooled(&asked, embedded, captures.as_deref())?,
        };
        let overall = self.overall(&measured, verification)?;
        let evaluation = Evaluation {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            command: options.command.clone(),
            system: card,
            data: self.plan.card(embedded.refusals.clone()),
            selection: Selection {
                protocol: self.plan.protocol,
                // Folders may hold fewer draws than were asked for.
                runs: self.plan.sets.iter().map(|set| set.sessions.len()).max().unwrap_or(0),
                ..*self.selection
            },
            bootstrap: self.bootstrap,
            overall,
            sets,
        };
        Ok((evaluation, measured))
    }

    fn person(&self) -> impl Fn(u64) -> u64 + Sync + '_ {
        |label| self.plan.people.get(label as usize).copied().unwrap_or(label)
    }

    /// Captures by row of the embeddings.
    fn captures(&self, embedded: &Embedded) -> Option<Vec<u64>> {
        Some(embedded.by_row(self.plan.captures.as_ref()?))
    }

    fn set(
        &self,
        planned: &PlannedSet,
        asked: &Asked,
        (trials, rankings): (&[Trial<'_>], &[Ranking]),
        (embedded, captures): (&Embedded, Option<&[u64]>),
    ) -> Result<SetFigures, EvaluateError> {
        let runs = RunTable::of(rankings.iter().map(Ranking::figures).collect());
        let runs = runs.ok_or(EvaluateError::NothingLeft)?;
        let scores = Scores::gather(trials, &asked.uncompared, self.person()).ok();
        let first = planned.sessions.first();
        let labels: BTreeSet<u64> = planned
            .sessions
            .iter()
            .flat_map(|session| session.gallery.iter().chain(&session.probes))
            .map(|entry| entry.label)
            .collect();
        Ok(SetFigures {
            name: planned.name.clone(),
            subjects: labels.len(),
            gallery: first.map_or(0, |session| session.gallery.len()),
            probes: first.map_or(0, |session| session.probes.len()),
            lost: asked.lost.len(),
            rank1: self.figure(rankings, |o| within(o, 1), runs.rank1)?,
            rank5: self.figure(rankings, |o| within(o, 5), runs.rank5)?,
            rank10: self.figure(rankings, |o| within(o, 10), runs.rank10)?,
            rank20: self.figure(rankings, |o| within(o, 20), runs.rank20)?,
            map: self.figure(rankings, |o| o.average_precision, runs.map)?,
            map_trapezoid: self.figure(
                rankings,
                |o| o.average_precision_trapezoid,
                runs.map_trapezoid,
            )?,
            minp: self.figure(rankings, |o| o.inverse_negative_penalty, runs.minp)?,
            runs,
            cmc: mean_cmc(rankings),
            verification: scores.as_ref().map(|s| s.figures(&FMR_TARGETS, &self.bootstrap)),
            det: scores.as_ref().map_or_else(Vec::new, |scores| scores.det(DET_POINTS)),
            histogram: scores.as_ref().map(histogram),
            open_set: self.open_set(planned, embedded, captures)?,
            failures: self.failures(trials, rankings, embedded),
        })
    }

    fn figure(
        &self,
        rankings: &[Ranking],
        of: impl Fn(&Outcome) -> f64,
        spread: Spread,
    ) -> Result<Figure, EvaluateError> {
        let values: Vec<Vec<ProbeValue>> = rankings.iter().map(|r| r.values(&of)).collect();
        if values.iter().all(Vec::is_empty) {
            return Ok(Figure { mean: spread.mean, sd: spread.sd, by_subject: None });
        }
        let (_, by_subject) = self.bootstrap.mean(&values)?;
        Ok(Figure { mean: spread.mean, sd: spread.sd, by_subject })
    }

    fn overall(
        &self,
        measured: &[Measured],
        verification: Option<VerificationFigures>,
    ) -> Result<Overall, EvaluateError> {
        let of = |value: fn(&Outcome) -> f64| -> Result<Figure, EvaluateError> {
            let values: Vec<Vec<ProbeValue>> =
                measured.iter().flat_map(|m| &m.rankings).map(|r| r.values(value)).collect();
            if values.iter().all(Vec::is_empty) {
                return Ok(Figure { mean: 0.0, sd: None, by_subject: None });
            }
            let (mean, by_subject) = self.bootstrap.mean(&values)?;
            let sd = Spread::of(&means_by_run(measured, value)).and_then(|spread| spread.sd);
            Ok(Figure { mean, sd, by_subject })
        };
        Ok(Overall {
            rank1: of(|o| within(o, 1))?,
            map: of(|o| o.average_precision)?,
            map_trapezoid: of(|o| o.average_precision_trapezoid)?,
            minp: of(|o| o.inverse_negative_penalty)?,
            verification,
        })
    }

    /// Verification over all sets, at one threshold.
    fn pooled(
        &self,
        asked: &[Asked],
        embedded: &Embedded,
        captures: Option<&[u64]>,
    ) -> Result<Option<VerificationFigures>, EvaluateError> {
        let all: Vec<Session> = asked.iter().flat_map(|set| set.sessions.clone()).collect();
        let lost: Vec<u64> = asked.iter().flat_map(|set| set.uncompared.clone()).collect();
        let trials = trials(&all, embedded, captures)?;
        let scores = Scores::gather(&trials, &lost, self.person()).ok();
        Ok(scores.map(|scores| scores.figures(&FMR_TARGETS, &self.bootstrap)))
    }

    /// Draws of its own, in which a share of the subjects is not enrolled. Not across two groups of images: there
    /// the published protocols have no such draw.
    fn open_set(
        &self,
        planned: &PlannedSet,
        embedded: &Embedded,
        captures: Option<&[u64]>,
    ) -> Result<Option<OpenSetFigures>, EvaluateError> {
        if self.plan.protocol == Protocol::CrossAspect {
            return Ok(None);
        }
        let searches = open_set(planned, embedded, self.selection, captures)?;
        let found = OpenSet::of(&searches.rankings, &searches.lost, self.person()).ok();
        Ok(found.map(|open| OpenSetFigures {
            strangers_share: STRANGERS,
            mated: open.mated(),
            non_mated: open.non_mated(),
            strangers: open.strangers(),
            lowest_fpir: lowest_fpir(open.strangers()),
            points: FPIR_TARGETS.map(|target| open.point(target, 1, &self.bootstrap)).to_vec(),
        }))
    }

    /// The worst probes of all runs, each file once.
    fn failures(
        &self,
        trials: &[Trial<'_>],
        rankings: &[Ranking],
        embedded: &Embedded,
    ) -> Vec<Failure> {
        let mut worst: BTreeMap<usize, (usize, Outcome)> = BTreeMap::new();
        for (run, ranking) in rankings.iter().enumerate() {
            for outcome in ranking.worst(FAILURES).into_iter().filter(|o| o.rank > 1) {
                let known = worst.get(&outcome.row);
                if known.is_none_or(|(_, other)| other.rank < outcome.rank) {
                    worst.insert(outcome.row, (run, outcome));
                }
            }
        }
        let mut worst: Vec<(usize, Outcome)> = worst.into_values().collect();
        worst.sort_by(|a, b| b.1.rank.cmp(&a.1.rank).then(a.1.row.cmp(&b.1.row)));
        worst.truncate(FAILURES);
        let files = embedded.files();
        let name = |row: usize| {
            let file = files.get(row).and_then(|at| self.plan.files.get(*at));
            file.map_or_else(String::new, super::plan::EvaluatedFile::name)
        };
        let subject = |label: u64| {
            self.plan.subjects.get(label as usize).cloned().unwrap_or_else(|| label.to_string())
        };
        let failure = |(run, outcome): (usize, Outcome)| {
            let found = candidates(&trials[run], outcome.probe, CANDIDATES);
            let file_row = |row: usize| files.get(row).copied().unwrap_or(0);
            let rows = std::iter::once(outcome.row).chain(found.iter().map(|c| c.row));
            Failure {
                run,
                file: name(outcome.row),
                subject: subject(outcome.label),
                rank: outcome.rank,
                similarity: outcome.similarity,
                rows: rows.map(file_row).collect(),
                candidates: found
                    .iter()
                    .map(|candidate| FailureCandidate {
                        file: name(candidate.row),
                        subject: subject(candidate.label),
                        similarity: candidate.similarity,
                        mate: candidate.mate,
                    })
                    .collect(),
            }
        };
        worst.into_iter().map(failure).collect()
    }
}

/// 1 for a first hit at rank `k` or better.
pub(super) fn within(outcome: &Outcome, k: usize) -> f64 {
    f64::from(u8::from(outcome.rank <= k))
}

fn mean_cmc(rankings: &[Ranking]) -> Vec<f64> {
    let curves: Vec<Vec<f64>> =
        rankings.iter().map(Ranking::cmc).filter(|curve| !curve.is_empty()).collect();
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    (0..length)
        .map(|k| curves.iter().map(|curve| curve[k]).sum::<f64>() / curves.len() as f64)
        .collect()
}

/// Run by run, the mean over sets of a figure.
fn means_by_run(measured: &[Measured], value: fn(&Outcome) -> f64) -> Vec<f64> {
    let runs = measured.iter().map(|set| set.rankings.len()).min().unwrap_or(0);
    let of_run = |run: usize| {
        let means: Vec<f64> = measured
            .iter()
            .map(|set| &set.rankings[run].outcomes)
            .filter(|outcomes| !outcomes.is_empty())
            .map(|outcomes| outcomes.iter().map(value).sum::<f64>() / outcomes.len() as f64)
            .collect();
        means.iter().sum::<f64>() / means.len().max(1) as f64
    };
    (0..runs).map(of_run).collect()
}

fn histogram(scores: &Scores) -> Histogram {
    let (genuine, impostor) = (scores.genuine(), scores.impostor());
    let ends = |scores: &[f32]| (scores.last().copied(), scores.first().copied());
    let ((low_a, high_a), (low_b, high_b)) = (ends(genuine), ends(impostor));
    let low = f64::from(low_a.unwrap_or(0.0).min(low_b.unwrap_or(0.0)));
    let high = f64::from(high_a.unwrap_or(1.0).max(high_b.unwrap_or(1.0)));
    let width = ((high - low) / BINS as f64).max(f64::MIN_POSITIVE);
    let count = |scores: &[f32]| {
        let mut counts = vec![0_u64; BINS];
        for score in scores {
            let bin = ((f64::from(*score) - low) / width) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
        counts
    };
    Histogram {
        edges: (0..=BINS).map(|edge| low + width * edge as f64).collect(),
        genuine: count(genuine),
        impostor: count(impostor),
    }
}
