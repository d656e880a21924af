//! Evaluations as text.

use std::fmt::Write as _;

use crate::evaluation::Interval;
use crate::report::markdown_table;

use super::Protocol;
use super::compare::{Comparison, Difference};
use super::published::PublishedProtocol;
use super::types::{Evaluation, Figure, SetFigures};

/// Percent with its spread over runs.
pub(super) fn percent(figure: &Figure) -> String {
    match figure.sd {
        Some(sd) => format!("{:.2} ± {:.2}", 100.0 * figure.mean, 100.0 * sd),
        None => format!("{:.2}", 100.0 * figure.mean),
    }
}

/// An interval in percent.
pub(super) fn interval(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "-".to_owned(),
        |interval| format!("{:.1} to {:.1}", 100.0 * interval.low, 100.0 * interval.high),
    )
}

/// An error rate, small ones with their power of ten.
pub(super) fn rate(value: f64) -> String {
    if value == 0.0 || value >= 1e-3 {
        format!("{:.2} %", 100.0 * value)
    } else {
        format!("{value:.1e}")
    }
}

/// An equal error rate in percent, as its interval is; of a small one two digits that say something.
fn equal_error(value: f64) -> String {
    let digits =
        if value > 0.0 { (-(100.0 * value).log10().floor()).clamp(1.0, 6.0) + 1.0 } else { 2.0 };
    format!("{:.*} %", digits as usize, 100.0 * value)
}

/// Header and rows of a table.
pub(super) struct Table {
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn markdown(&self) -> String {
        markdown_table(&self.header, &self.rows)
    }

    /// Columns of even width, for a terminal.
    fn plain(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| -> String {
            let padded: Vec<String> = cells
                .zip(&widths)
                .enumerate()
                .map(|(at, (cell, width))| match at {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            padded.join("  ").trim_end().to_owned() + "\n"
        };
        let mut text = line(&mut self.header.iter().copied());
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// Identification, a row a set and one for all.
pub(super) fn ranks(evaluation: &Evaluation) -> Table {
    let row = |set: &SetFigures| {
        vec![
            set.name.clone(),
            set.subjects.to_string(),
            set.gallery.to_string(),
            set.probes.to_string(),
            set.runs.runs.first().map_or(0, |run| run.without_mate).to_string(),
            set.lost.to_string(),
            percent(&set.rank1),
            interval(set.rank1.by_subject),
            percent(&set.rank5),
            percent(&set.rank10),
            percent(&set.rank20),
            percent(&set.map),
            percent(&set.map_trapezoid),
            percent(&set.minp),
        ]
    };
    let mut rows: Vec<Vec<String>> = evaluation.sets.iter().map(row).collect();
    if evaluation.sets.len() > 1 {
        let overall = &evaluation.overall;
        let mut cells = vec![String::new(); 14];
        cells[0] = "mean".to_owned();
        cells[6] = percent(&overall.rank1);
        cells[7] = interval(overall.rank1.by_subject);
        cells[11] = percent(&overall.map);
        cells[12] = percent(&overall.map_trapezoid);
        cells[13] = percent(&overall.minp);
        rows.push(cells);
    }
    Table {
        header: vec![
            "set",
            "subjects",
            "gallery",
            "probes",
            "no mate",
            "lost, all runs",
            "Rank-1",
            "95 % by subject",
            "Rank-5",
            "Rank-10",
            "Rank-20",
            "mAP",
            "mAP trapezoid",
            "mINP",
        ],
        rows,
    }
}

/// Error rates of one-to-one comparisons. A rate that the subjects cannot support is not given.
pub(super) fn verification(evaluation: &Evaluation) -> Table {
    let mut rows = Vec::new();
    let sets = evaluation.sets.iter().map(|set| (set.name.as_str(), set.verification.as_ref()));
    let pooled = (evaluation.sets.len() > 1)
        .then_some(("all, one threshold", evaluation.overall.verification.as_ref()));
    for (name, figures) in sets.chain(pooled) {
        let Some(figures) = figures else { continue };
        let mut row = vec![
            name.to_owned(),
            figures.genuine.to_string(),
            figures.impostor.to_string(),
            figures.lost.to_string(),
            format!("{} ({})", equal_error(figures.eer.rate), interval(figures.eer.by_subject)),
        ];
        for point in &figures.points {
            row.push(match &point.refused {
                Some(_) => "not supported".to_owned(),
                None => format!(
                    "{} ({}; exact {}), FRR {} at {:.4}",
                    rate(point.fnmr.value),
                    interval(point.fnmr.by_subject),
                    interval(Some(point.fnmr.exact)),
                    rate(point.frr.value),
                    point.threshold
                ),
            });
        }
        row.push(
            figures.lowest_fmr.map_or_else(|| "-".to_owned(), |lowest| format!("{lowest:.1e}")),
        );
        rows.push(row);
    }
    Table {
        header: vec![
            "set",
            "genuine",
            "impostor",
            "lost",
            "EER (95 % by subject)",
            "FNMR at FMR 1e-2",
            "FNMR at FMR 1e-3",
            "FNMR at FMR 1e-4",
            "lowest FMR supported",
        ],
        rows,
    }
}

/// Error rates of searches for people who may not be enrolled.
pub(super) fn open_set(evaluation: &Evaluation) -> Table {
    let mut rows = Vec::new();
    for set in &evaluation.sets {
        let Some(open) = &set.open_set else { continue };
        let mut row = vec![
            set.name.clone(),
            open.mated.to_string(),
            format!("{} of {}", open.non_mated, open.strangers),
        ];
        for point in &open.points {
            row.push(match &point.refused {
                Some(_) => "not supported".to_owned(),
                None => format!(
                    "{} (FNIR {}; {}) at {:.4}",
                    rate(point.tpir),
                    rate(point.fnir.value),
                    interval(point.fnir.by_subject),
                    point.threshold
                ),
            });
        }
        row.push(format!("{:.1e}", open.lowest_fpir));
        rows.push(row);
    }
    Table {
        header: vec![
            "set",
            "mated searches",
            "non-mated searches of people",
            "TPIR at FPIR 1e-1",
            "TPIR at FPIR 1e-2",
            "TPIR at FPIR 3e-3",
            "lowest FPIR supported",
        ],
        rows,
    }
}

/// Who was refused, by reason.
pub(super) fn refusals(evaluation: &Evaluation) -> Table {
    let rows = evaluation.data.refused.iter();
    Table {
        header: vec!["file", "subject", "problem"],
        rows: rows.map(|r| vec![r.file.clone(), r.subject.clone(), r.problem.clone()]).collect(),
    }
}

/// What a reader needs to do it again.
pub(super) fn facts(evaluation: &Evaluation) -> Vec<(String, String)> {
    let selection = &evaluation.selection;
    let accessories = match (selection.protocol, selection.accessories) {
        (Protocol::Tree { .. }, _) => "as the folders have them",
        (Protocol::Published { .. }, _) | (_, false) => "left out",
        (Protocol::Auto | Protocol::Hands | Protocol::CrossAspect, true) => "taken",
    };
    let mut facts = vec![
        ("command".to_owned(), evaluation.command.clone()),
        ("program".to_owned(), format!("handclip {}", evaluation.version)),
        (
            "data".to_owned(),
            format!(
                "{}: {} images of {} labels, {} refused, SHA-256 {}",
                evaluation.data.name,
                evaluation.data.images,
                evaluation.data.subjects,
                evaluation.data.refused.len(),
                evaluation.data.sha256
            ),
        ),
        (
            "protocol".to_owned(),
            format!(
                "{}, {} runs, seed {}, {} enrolled a subject, accessories {accessories}",
                selection.protocol, selection.runs, selection.seed, selection.enrolled,
            ),
        ),
        (
            "intervals".to_owned(),
            format!(
                "{} % by {} bootstrap replicates over subjects, seed {}",
                100.0 * evaluation.bootstrap.level,
                evaluation.bootstrap.replicates,
                evaluation.bootstrap.seed
            ),
        ),
    ];
    if let Some((share, seed)) = selection.hold_out {
        let text =
            format!("{share} of them, as `train --hold-out` with split seed {seed} draws them");
        facts.push(("subjects held out".to_owned(), text));
    }
    facts
}

/// The model card's lines.
pub(super) fn system(evaluation: &Evaluation) -> Vec<(String, String)> {
    let card = &evaluation.system;
    let mut lines = vec![
        ("name".to_owned(), card.name.clone()),
        ("dimensions".to_owned(), card.dim.to_string()),
    ];
    match card.fingerprint {
        Some(fingerprint) => lines.push(("fingerprint".to_owned(), fingerprint.to_string())),
        None => lines.push(("source".to_owned(), "embeddings from a file".to_owned())),
    }
    if let Some(parameters) = card.parameters {
        lines.push(("parameters".to_owned(), parameters.to_string()));
    }
    if let Some((height, width)) = card.image_size {
        lines.push(("input".to_owned(), format!("{height} x {width} px")));
    }
    lines
}

/// How the figures are to be read.
pub(super) const READING: &str = "Rank figures are in %, mean ± standard deviation of the runs (ddof = 1); intervals resample subjects. \
Search is exact; equal similarities keep gallery order. mAP is the mean of the precision at every hit; mAP trapezoid is that of Market-1501's and \
MBA-Net's script. A probe without a mate is left out of the ranks and counted. Lost are searches whose probe or every mate gave no embedding, and comparisons of \
which either picture gave none: misses in FRR, FNIR and TPIR, left out of the ranks, FNMR, EER and DET. \
FMR, FNMR, FPIR and FNIR as in ISO/IEC 19795-1: accepted at the threshold or above, every tie against the system, all runs pooled. A rate below what the \
subjects can support (rule of three over independent pairs) is not given.";

fn list(text: &mut String, lines: &[(String, String)]) {
    for (name, value) in lines {
        // Infallible: a String takes everything.
        let _ = writeln!(text, "- {name}: `{value}`");
    }
}

/// One system's report.
pub(super) fn evaluation(evaluation: &Evaluation) -> String {
    let mut text = format!("# Evaluation of {}\n\n", evaluation.system.name);
    list(&mut text, &system(evaluation));
    list(&mut text, &facts(evaluation));
    let _ = write!(text, "\n{READING}\n");
    let tables = [
        ("Identification", ranks(evaluation)),
        ("Verification", verification(evaluation)),
        ("Open-set identification", open_set(evaluation)),
        ("Refused files", refusals(evaluation)),
    ];
    for (title, table) in tables.iter().filter(|(_, table)| !table.rows.is_empty()) {
        let _ = write!(text, "\n## {title}\n\n{}", table.markdown());
    }
    text
}

/// Rank-1 and mAP of every system, measured and published.
pub(super) fn side_by_side(comparison: &Comparison) -> Table {
    let mut rows = Vec::new();
    for system in &comparison.systems {
        for set in &system.sets {
            rows.push(vec![
                set.name.clone(),
                system.system.name.clone(),
                format!("{}, measured", system.selection.protocol),
                percent(&set.rank1),
                percent(&set.map),
                percent(&set.map_trapezoid),
                set.verification
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |v| equal_error(v.eer.rate)),
            ]);
        }
    }
    for row in &comparison.published {
        let (standard, trapezoid) = match row.protocol {
            PublishedProtocol::AllHands => ("-".to_owned(), format!("{:.2}", row.map)),
            PublishedProtocol::SameHand => (format!("{:.2}", row.map), "-".to_owned()),
        };
        let protocol = match row.protocol {
            PublishedProtocol::AllHands => "11k-all, published",
            PublishedProtocol::SameHand => "11k, published",
        };
        rows.push(vec![
            row.set.to_owned(),
            row.system.to_owned(),
            protocol.to_owned(),
            format!("{:.2}", row.rank1),
            standard,
            trapezoid,
            "-".to_owned(),
        ]);
    }
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    Table {
        header: vec!["set", "system", "protocol", "Rank-1", "mAP", "mAP trapezoid", "EER"],
        rows,
    }
}

/// Each system less the baseline.
pub(super) fn differences(comparison: &Comparison) -> Table {
    let points = |paired: &crate::evaluation::Paired| {
        let difference = 100.0 * paired.difference;
        let p = paired.p.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"));
        format!("{difference:+.2} ({}), p {p}", interval(paired.interval))
    };
    let row = |difference: &Difference| {
        vec![
            difference.set.clone(),
            format!("{} - {}", difference.system, difference.baseline),
            points(&difference.rank1),
            points(&difference.map),
            points(&difference.map_trapezoid),
        ]
    };
    Table {
        header: vec!["set", "difference", "Rank-1, points", "mAP, points", "mAP trapezoid, points"],
        rows: comparison.differences.iter().map(row).collect(),
    }
}

/// How differences are to be read.
pub(super) const READING_DIFFERENCES: &str = "Every system met the same draws of the same images. Differences are over the probes that either \
searched, what one lost being its miss; intervals resample the same subjects for both (95 %), p is two-sided. Published rows were not measured here: their images, splits and \
training differ.";

/// The comparison's report.
pub(super) fn comparison(comparison: &Comparison) -> String {
    let names: Vec<&str> = comparison.systems.iter().map(|s| s.system.name.as_str()).collect();
    let mut text = format!("# {}\n\n", names.join(" against "));
    if let Some(first) = comparison.systems.first() {
        list(&mut text, &facts(first));
    }
    let _ = write!(text, "\n{READING}\n\n{READING_DIFFERENCES}\n");
    let _ = write!(text, "\n## Side by side\n\n{}", side_by_side(comparison).markdown());
    let _ = write!(text, "\n## Differences\n\n{}", differences(comparison).markdown());
    for system in &comparison.systems {
        let _ = write!(text, "\n## {}\n\n", system.system.name);
        list(&mut text, &self::system(system));
        for table in [ranks(system), verification(system), open_set(system)] {
            let _ = write!(text, "\n{}", table.markdown());
        }
    }
    text
}

impl Evaluation {
    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = ranks(self).plain();
        for table in [verification(self), open_set(self)] {
            if !table.rows.is_empty() {
                let _ = write!(text, "\n{}", table.plain());
            }
        }
        if !self.data.refused.is_empty() {
            let _ = write!(text, "\nrefused\n{}", refusals(self).plain());
        }
        text.trim_end().to_owned()
    }
}

impl Comparison {
    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let text = format!("{}\n{}", side_by_side(self).plain(), differences(self).plain());
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_error_rates_are_percents_whatever_their_size() {
        let written = [0.0, 0.25, 0.0123, 0.0005, 0.000_001_2].map(equal_error);
        assert_eq!(written, ["0.00 %", "25.00 %", "1.23 %", "0.050 %", "0.00012 %"]);
    }
}
