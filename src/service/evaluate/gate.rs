//! Whether a challenger may take the champion's place: not worse, by more than a margin, in anything that callers rely on.
//!
//! Both meet the same draws of the same files. A criterion passes when the whole of the 95 % interval of the difference,
//! resampled by subject and paired by probe, lies within the margin (non-inferiority; what cannot be told fails). Superiority
//! is not asked for: a model that is as good and twice as fast is welcome.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Calibration, Fingerprint};
use crate::evaluation::Paired;

use super::calibrate::{CalibrateRequest, measure};
use super::compare::Comparison;
use super::criteria::{Measured, Sides, fnir, models_times, text_recall};
use super::figures::Measure;
use super::{EvaluateError, EvaluateOptions};

/// How much worse a challenger may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GateMargins {
    /// Of Rank-1, as a share.
    pub rank1: f64,
    /// Of mean average precision, as a share.
    pub map: f64,
    /// Of FNIR at the target, as a share.
    pub fnir: f64,
    /// The FPIR that FNIR is measured at, by each model's own threshold. The lowest that a data set supports is 3 over its
    /// subjects that are not enrolled (rule of 3): 0.1 needs 30 of them, 0.01 three hundred.
    pub fpir: f64,
    /// Of the share of hands that a prompt finds among as many first hits as there are such hands.
    pub text_recall: f64,
    /// Median time to embed a picture, the challenger's over the champion's.
    pub latency_ratio: f64,
}

impl Default for GateMargins {
    /// A point or two: below what ten draws of a hundred subjects can tell from nothing, a gate lets nobody through.
    fn default() -> Self {
        Self {
            rank1: 0.02,
            map: 0.02,
            fnir: 0.05,
            fpir: 0.1,
            text_recall: 0.05,
            latency_ratio: 1.5,
        }
    }
}

/// A model at the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Contender {
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    #[schema(value_type = String)]
    pub fingerprint: Fingerprint,
}

/// What the gate found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateTable {
    /// Whether every criterion passed.
    pub passed: bool,
    /// The model that served.
    pub champion: Contender,
    /// The model that is to serve.
    pub challenger: Contender,
    /// The data set's name.
    pub data: String,
    /// How it was drawn from.
    pub protocol: String,
    /// Draws.
    pub runs: usize,
    /// Names the draws.
    pub seed: u64,
    /// Subjects that were compared on.
    pub subjects: usize,
    /// One for each criterion.
    pub rows: Vec<GateRow>,
}

const LATENCY: &str = "latency";

/// One criterion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateRow {
    /// `rank1`, `map`, `fnir`, `text_recall` or `latency`.
    pub criterion: String,
    /// The champion's figure: a share, of latency the seconds that a picture takes; `null` where it could not be measured.
    pub champion: Option<f64>,
    /// The challenger's figure, likewise.
    pub challenger: Option<f64>,
    /// The challenger's less the champion's; of latency the ratio.
    pub difference: Option<f64>,
    /// 95 % interval of the difference.
    pub interval: Option<[f64; 2]>,
    /// How much worse it may be; of latency how many times as long a picture may take.
    pub margin: f64,
    /// Whether it is not worse than that.
    pub passed: bool,
    /// Why it failed, or was left out.
    pub reason: Option<String>,
}

impl GateTable {
    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let verdict = |passed: bool| if passed { "passed" } else { "failed" };
        let mut text = format!(
            "gate: {} for {} in the place of {}, on {} subjects of {}\n",
            verdict(self.passed),
            self.challenger.name,
            self.champion.name,
            self.subjects,
            self.data
        );
        for row in &self.rows {
            let timed = row.criterion == LATENCY;
            let number = |value: Option<f64>| match value {
                None => "-".to_owned(),
                Some(seconds) if timed => format!("{:.1} ms", seconds * 1e3),
                Some(share) => format!("{share:.4}"),
            };
            let interval = match (row.interval, row.difference) {
                (Some([low, high]), _) => format!("{low:+.4} to {high:+.4}"),
                (None, Some(ratio)) if timed => format!("{ratio:.2} times"),
                (None, _) => "-".to_owned(),
            };
            let reason = row.reason.as_deref().unwrap_or("");
            let line = format!(
                "{:<12} {:>9} {:>9}  {interval:<20} margin {:<6} {}  {reason}",
                row.criterion,
                number(row.champion),
                number(row.challenger),
                row.margin,
                verdict(row.passed)
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Judges a higher-is-better criterion, or one of misses.
pub(super) fn judge(name: &str, measured: Measured, margin: f64, misses: bool) -> GateRow {
    let mut row = GateRow {
        criterion: name.to_owned(),
        champion: None,
        challenger: None,
        difference: None,
        interval: None,
        margin,
        passed: false,
        reason: None,
    };
    match measured {
        Measured::Paired(paired) => {
            row.champion = Some(paired.b);
            row.challenger = Some(paired.a);
            row.difference = Some(paired.difference);
            match paired.interval {
                None => row.reason = Some("too few subjects for an interval".to_owned()),
                Some(interval) => {
                    row.interval = Some([interval.low, interval.high]);
                    let (worst, may) = if misses {
                        (interval.high, interval.high <= margin)
                    } else {
                        (interval.low, interval.low >= -margin)
                    };
                    row.passed = may;
                    let by = worst.abs();
                    row.reason = (!may).then(|| {
                        format!("the challenger may be worse by {by:.4}, {margin} is allowed")
                    });
                }
            }
        }
        Measured::Unknown(reason) => row.reason = Some(reason),
        Measured::LeftOut(reason) => {
            row.passed = true;
            row.reason = Some(format!("left out: {reason}"));
        }
    }
    row
}

/// The time criterion.
fn judge_latency(times: Option<[f64; 2]>, margin: f64) -> GateRow {
    let mut row = judge(LATENCY, Measured::Unknown("no picture was timed".into()), margin, true);
    if let Some([champion, challenger]) = times.filter(|times| times[0] > 0.0) {
        let ratio = challenger / champion;
        row.champion = Some(champion);
        row.challenger = Some(challenger);
        row.difference = Some(ratio);
        row.passed = ratio <= margin;
        row.reason = (!row.passed)
            .then(|| format!("a picture takes {ratio:.2} times as long, {margin} is allowed"));
    }
    row
}

/// The challenger's thresholds, and the table.
pub(super) fn hold(
    sides: &Sides<'_>,
    measure_: &Measure<'_>,
    comparison: &Comparison,
    margins: &GateMargins,
) -> Result<GateTable, EvaluateError> {
    let of_models = |at: usize| comparison.systems.get(at).map(|system| &system.system);
    let contender = |at: usize| -> Result<Contender, EvaluateError> {
        let card = of_models(at).ok_or(EvaluateError::OneSystem)?;
        let fingerprint = card.fingerprint.ok_or(EvaluateError::NoModel)?;
        Ok(Contender { name: card.name.clone(), fingerprint })
    };
    let (champion, challenger) = (contender(0)?, contender(1)?);
    let overall = comparison.differences.iter().find(|d| d.set == "overall");
    let overall = overall.or_else(|| comparison.differences.first());
    let closed = |of: fn(&super::compare::Difference) -> Paired| {
        overall.map_or_else(
            || Measured::Unknown("nothing was compared".to_owned()),
            |difference| Measured::Paired(of(difference)),
        )
    };
    let mut models = Vec::new();
    for system in &sides.request.systems {
        models.push(system.open(&sides.request.options)?);
    }
    let times = models_times(&models, sides.plan);
    let rows = vec![
        judge("rank1", closed(|d| d.rank1), margins.rank1, false),
        judge("map", closed(|d| d.map), margins.map, false),
        judge("fnir", fnir(sides, measure_, margins.fpir)?, margins.fnir, true),
        judge("text_recall", text_recall(sides, measure_, &models)?, margins.text_recall, false),
        judge_latency(times, margins.latency_ratio),
    ];
    let selection = &sides.request.selection;
    Ok(GateTable {
        passed: rows.iter().all(|row| row.passed),
        champion,
        challenger,
        data: sides.plan.name.clone(),
        protocol: sides.plan.protocol.to_string(),
        runs: comparison.systems.first().map_or(0, |system| system.selection.runs),
        seed: selection.seed,
        subjects: sides.plan.people.iter().collect::<BTreeSet<_>>().len(),
        rows,
    })
}

/// Thresholds of the challenger on the same images, by the same halves as `calibrate` makes; `None` where so few subjects
/// support none.
pub(super) fn calibration(sides: &Sides<'_>, challenger: Fingerprint) -> Option<Calibration> {
    let request = CalibrateRequest {
        system: sides.request.systems.get(1)?.clone(),
        data: sides.request.data.clone(),
        selection: sides.request.selection,
        share: 0.5,
        fmr: vec![1e-2, 1e-3],
        fpir: vec![1e-1, 1e-2],
        options: EvaluateOptions { out: None, ..sides.request.options.clone() },
    };
    let calibrated = measure(&request, sides.plan, sides.embedded[1], challenger).ok()?;
    Some(calibrated.calibration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Interval;

    fn paired(low: f64, high: f64) -> Measured {
        let interval = Some(Interval { low, high, level: 0.95 });
        let middle = f64::midpoint(low, high);
        Measured::Paired(Paired { a: 0.5 + middle, b: 0.5, difference: middle, interval, p: None })
    }

    #[test]
    fn the_whole_interval_must_lie_within_the_margin() {
        let passes = |low, high, misses| judge("x", paired(low, high), 0.02, misses).passed;
        assert!(passes(-0.02, 0.1, false) && passes(0.1, 0.2, false));
        assert!(!passes(-0.021, 0.5, false), "much better on the whole, and maybe worse");
        assert!(
            passes(-0.5, 0.02, true) && !passes(-0.5, 0.021, true),
            "of misses the other way round"
        );
        let row = judge("x", paired(-0.3, -0.1), 0.02, false);
        assert!(row.reason.unwrap().contains("0.3000"));
    }

    #[test]
    fn what_cannot_be_told_fails_and_what_does_not_apply_is_left_out() {
        let none = Paired { a: 1.0, b: 0.0, difference: 1.0, interval: None, p: None };
        assert!(!judge("x", Measured::Paired(none), 0.02, false).passed);
        assert!(!judge("x", Measured::Unknown("few".into()), 0.02, false).passed);
        assert!(judge("x", Measured::LeftOut("no labels".into()), 0.02, false).passed);
    }

    #[test]
    fn a_slower_model_fails_by_its_ratio() {
        assert!(judge_latency(Some([0.010, 0.015]), 1.5).passed);
        assert!(!judge_latency(Some([0.010, 0.0151]), 1.5).passed);
        assert!(!judge_latency(None, 1.5).passed);
        assert!(!judge_latency(Some([0.0, 0.1]), 1.5).passed);
    }

    #[test]
    fn a_table_says_times_as_times() {
        let contender =
            |name: &str| Contender { name: name.into(), fingerprint: Fingerprint([0; 32]) };
        let table = GateTable {
            passed: true,
            champion: contender("old"),
            challenger: contender("new"),
            data: "hands".to_owned(),
            protocol: "hands".to_owned(),
            runs: 1,
            seed: 0,
            subjects: 2,
            rows: vec![
                judge_latency(Some([0.0123, 0.0246]), 3.0),
                judge("x", paired(0.0, 0.1), 0.02, false),
            ],
        };
        let table = table.table();
        assert!(table.contains("12.3 ms   24.6 ms  2.00 times"), "{table}");
        assert!(table.contains("+0.0000 to +0.1000"), "{table}");
    }
}
