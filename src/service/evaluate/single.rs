//! One system.

use super::figures::Measure;
use super::output::{Output, settings};
use super::plan::plan;
use super::types::Evaluation;
use super::{EvaluateError, EvaluateEvent, EvaluateRequest};
use crate::service::ledger::{RunKind, RunRecord};

/// Evaluates a system on labelled images, and writes the report where one is asked for.
///
/// # Errors
/// [`EvaluateError`].
pub fn evaluate(
    request: &EvaluateRequest,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Evaluation, EvaluateError> {
    let output = Output::prepare(request.options.out.as_deref())?;
    let plan = plan(&request.data, &request.selection, progress)?;
    let (card, embedded) = request.system.embed(&plan, &request.options, progress)?;
    let measure = Measure::new(&plan, &request.selection, &request.options);
    let (evaluation, _) = measure.evaluation((card, &embedded), &request.options, progress)?;
    if let Some(output) = output {
        output.evaluation(&evaluation, &plan, request.options.show_images)?;
        output.record(&record(&evaluation))?;
    }
    Ok(evaluation)
}

fn record(evaluation: &Evaluation) -> RunRecord {
    let mut record = RunRecord::new(RunKind::Evaluate, &evaluation.command);
    settings(&mut record, evaluation);
    record.figure("rank1", evaluation.overall.rank1.mean);
    record.figure("map", evaluation.overall.map.mean);
    record.figure("map_trapezoid", evaluation.overall.map_trapezoid.mean);
    record.figure("minp", evaluation.overall.minp.mean);
    if let Some(verification) = &evaluation.overall.verification {
        record.figure("eer", verification.eer.rate);
        for point in verification.points.iter().filter(|point| point.refused.is_none()) {
            record.figure(format!("fnmr_at_fmr_{:e}", point.target), point.fnmr.value);
        }
    }
    for set in &evaluation.sets {
        record.figure(format!("{}/rank1", set.name), set.rank1.mean);
        record.figure(format!("{}/map", set.name), set.map.mean);
    }
    record
}
