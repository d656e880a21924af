//! Several systems on identical draws.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::evaluation::{Outcome, Paired, ProbeValue};

use super::criteria::{Sides, pair};
use super::figures::{Measure, Measured, within};
use super::gate::{GateTable, calibration, hold};
use super::output::Output;
use super::plan::plan;
use super::published::{PUBLISHED, PublishedFigure};
use super::types::Evaluation;
use super::{EvaluateError, EvaluateEvent, EvaluateOptions, Selection, SystemChoice};
use crate::service::ledger::{RunKind, RunRecord};

/// What is compared on what.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareRequest {
    /// The baseline first.
    pub systems: Vec<SystemChoice>,
    /// A data set in any layout that can be read.
    pub data: PathBuf,
    /// Which of its images.
    pub selection: Selection,
    /// How thorough, and where.
    pub options: EvaluateOptions,
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Of this document.
    pub format: u32,
    /// Each system's evaluation, the baseline's first.
    pub systems: Vec<Evaluation>,
    /// Each other system against the baseline, for every set in which any probe has a mate.
    pub differences: Vec<Difference>,
    /// Published figures, not measured here.
    pub published: Vec<PublishedFigure>,
    /// Whether the second system may take the first one's place, where that was asked.
    pub gate: Option<GateTable>,
}

/// The gate's table, in a comparison's folder.
pub(in crate::service) const GATE: &str = "gate.json";
/// The challenger's thresholds, beside it.
pub(in crate::service) const CALIBRATION: &str = "calibration.json";

/// A system less the baseline, over the probes that either could search; what one lost is its miss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The system.
    pub system: String,
    /// The baseline.
    pub baseline: String,
    /// The set, or `overall`.
    pub set: String,
    /// Rank-1, `a` being the system's.
    pub rank1: Paired,
    /// Mean average precision, standard.
    pub map: Paired,
    /// Mean average precision, trapezoid.
    pub map_trapezoid: Paired,
}

/// Evaluates systems on the same draws of the same images and pairs their probes.
///
/// # Errors
/// [`EvaluateError`].
pub fn compare(
    request: &CompareRequest,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Comparison, EvaluateError> {
    if request.systems.len() < 2 {
        return Err(EvaluateError::OneSystem);
    }
    let mut names = BTreeSet::new();
    for system in &request.systems {
        if !names.insert(system.name()) {
            return Err(EvaluateError::SameName(system.name()));
        }
    }
    let output = Output::prepare(request.options.out.as_deref())?;
    let plan = plan(&request.data, &request.selection, progress)?;
    let measure = Measure::new(&plan, &request.selection, &request.options);
    let mut systems: Vec<Evaluation> = Vec::new();
    let mut measured: Vec<Vec<Measured>> = Vec::new();
    let mut all_embedded = Vec::new();
    for system in &request.systems {
        let (card, embedded) = system.embed(&plan, &request.options, progress)?;
        let (evaluation, of_sets) =
            measure.evaluation((card, &embedded), &request.options, progress)?;
        systems.push(evaluation);
        measured.push(of_sets);
        if request.options.gate.is_some() {
            all_embedded.push(embedded);
        }
    }
    let mut differences = Vec::new();
    for (at, evaluation) in systems.iter().enumerate().skip(1) {
        let names = (evaluation.system.name.as_str(), systems[0].system.name.as_str());
        let sets = plan.sets.iter().zip(measured[at].iter().zip(&measured[0]));
        for (set, (a, b)) in sets {
            differences.extend(difference(&measure, names, &set.name, &[(a, b)])?);
        }
        if plan.sets.len() > 1 {
            let all: Vec<(&Measured, &Measured)> = measured[at].iter().zip(&measured[0]).collect();
            differences.extend(difference(&measure, names, "overall", &all)?);
        }
    }
    let published = PUBLISHED
        .into_iter()
        .filter(|row| plan.sets.iter().any(|set| set.name == row.set))
        .collect();
    let mut comparison = Comparison { format: 1, systems, differences, published, gate: None };
    let mut thresholds = None;
    if let (Some(margins), [champion, challenger]) = (&request.options.gate, &*all_embedded) {
        progress(EvaluateEvent::Set("the gate".to_owned()));
        let sides = Sides { plan: &plan, request, embedded: [champion, challenger] };
        let table = hold(&sides, &measure, &comparison, margins)?;
        thresholds = calibration(&sides, table.challenger.fingerprint);
        comparison.gate = Some(table);
    }
    if let Some(output) = output {
        output.comparison(&comparison, &plan, request.options.show_images)?;
        if let Some(table) = &comparison.gate {
            output.json(GATE, table)?;
        }
        if let Some(thresholds) = &thresholds {
            output.json(CALIBRATION, thresholds)?;
        }
        output.record(&record(&comparison))?;
    }
    Ok(comparison)
}

/// `None` where neither side has a probe with a mate, as in a set with one image of everybody.
fn difference(
    measure: &Measure<'_>,
    (system, baseline): (&str, &str),
    set: &str,
    sides: &[(&Measured, &Measured)],
) -> Result<Option<Difference>, EvaluateError> {
    let rankings = || sides.iter().flat_map(|(a, b)| a.rankings.iter().chain(&b.rankings));
    if rankings().all(|ranking| ranking.outcomes.is_empty()) {
        return Ok(None);
    }
    let paired = |of: fn(&Outcome) -> f64| -> Result<Paired, EvaluateError> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (first, second) in sides {
            for run in 0..first.rankings.len().min(second.rankings.len()) {
                let (ours, theirs) = common(first, second, run, of);
                a.push(ours);
                b.push(theirs);
            }
        }
        Ok(measure.bootstrap.paired(&a, &b)?)
    };
    Ok(Some(Difference {
        system: system.to_owned(),
        baseline: baseline.to_owned(),
        set: set.to_owned(),
        rank1: paired(|o| within(o, 1))?,
        map: paired(|o| o.average_precision)?,
        map_trapezoid: paired(|o| o.average_precision_trapezoid)?,
    }))
}

/// Values of the probes that either system searched. What the other one lost, because it refused the probe or every
/// mate, is a miss: nobody gets better by refusing.
fn common(
    a: &Measured,
    b: &Measured,
    run: usize,
    of: fn(&Outcome) -> f64,
) -> (Vec<ProbeValue>, Vec<ProbeValue>) {
    let by_file = |measured: &Measured| -> BTreeMap<usize, (u64, f64)> {
        let outcomes = measured.rankings[run].outcomes.iter();
        let file = |outcome: &Outcome| measured.files[run][outcome.probe];
        outcomes.map(|outcome| (file(outcome), (outcome.label, of(outcome)))).collect()
    };
    pair(&by_file(a), &by_file(b))
}

fn record(comparison: &Comparison) -> RunRecord {
    let command = comparison.systems.first().map_or("", |first| first.command.as_str());
    let mut record = RunRecord::new(RunKind::Compare, command);
    if let Some(first) = comparison.systems.first() {
        super::output::settings(&mut record, first);
    }
    let names: Vec<&str> = comparison.systems.iter().map(|s| s.system.name.as_str()).collect();
    record.set("model", names.join(" / "));
    for system in &comparison.systems {
        let name = &system.system.name;
        record.figure(format!("{name}/rank1"), system.overall.rank1.mean);
        record.figure(format!("{name}/map"), system.overall.map.mean);
        if let Some(verification) = &system.overall.verification {
            record.figure(format!("{name}/eer"), verification.eer.rate);
        }
    }
    record
}
