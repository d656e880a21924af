//! Evaluations as self-contained pages.

use crate::report::{Corner, Frame, Page, Scale, Series, lines, staircase};

use super::compare::Comparison;
use super::markdown::{
    READING, READING_DIFFERENCES, Table, differences, facts, open_set, ranks, refusals,
    side_by_side, system, verification,
};
use super::types::{Evaluation, SetFigures};

/// Small pictures of a set's worst probes, a row a probe.
type Pictures<'a> = &'a dyn Fn(&SetFigures) -> Vec<Vec<(String, Vec<u8>)>>;

/// Ranks of a CMC chart.
const CMC_RANKS: usize = 50;

/// One system's page.
pub(super) fn evaluation(evaluation: &Evaluation, pictures: Pictures<'_>) -> String {
    let mut page = Page::new(&format!("Evaluation of {}", evaluation.system.name));
    facts_of(&mut page, evaluation);
    page.paragraph(READING);
    section(&mut page, "Identification", &ranks(evaluation));
    page.charts(charts(std::slice::from_ref(evaluation)).iter().map(|(_, svg)| svg));
    section(&mut page, "Verification", &verification(evaluation));
    section(&mut page, "Open-set identification", &open_set(evaluation));
    details(&mut page, evaluation, pictures);
    page.finish()
}

/// A comparison's page.
pub(super) fn comparison(comparison: &Comparison, pictures: Pictures<'_>) -> String {
    let names: Vec<&str> = comparison.systems.iter().map(|s| s.system.name.as_str()).collect();
    let mut page = Page::new(&names.join(" against "));
    if let Some(first) = comparison.systems.first() {
        list(&mut page, facts(first));
    }
    page.paragraph(READING);
    page.paragraph(READING_DIFFERENCES);
    section(&mut page, "Side by side", &side_by_side(comparison));
    section(&mut page, "Differences", &differences(comparison));
    page.charts(charts(&comparison.systems).iter().map(|(_, svg)| svg));
    for evaluation in &comparison.systems {
        page.heading(&evaluation.system.name);
        list(&mut page, system(evaluation));
        for table in [ranks(evaluation), verification(evaluation), open_set(evaluation)] {
            section(&mut page, "", &table);
        }
        details(&mut page, evaluation, pictures);
    }
    page.finish()
}

fn list(page: &mut Page, lines: Vec<(String, String)>) {
    let rows: Vec<Vec<String>> = lines.into_iter().map(|(name, value)| vec![name, value]).collect();
    page.table(&["", ""], &rows);
}

fn facts_of(page: &mut Page, evaluation: &Evaluation) {
    list(page, system(evaluation).into_iter().chain(facts(evaluation)).collect());
}

fn section(page: &mut Page, title: &str, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    if !title.is_empty() {
        page.heading(title);
    }
    page.table(&table.header, &table.rows);
}

/// Runs, failures and refusals of every set.
fn details(page: &mut Page, evaluation: &Evaluation, pictures: Pictures<'_>) {
    page.heading(&format!("Runs of {}", evaluation.system.name));
    let run = |(name, number, run): (&str, usize, &crate::evaluation::RankFigures)| {
        let cells =
            [run.rank1, run.rank5, run.rank10, run.rank20, run.map, run.map_trapezoid, run.minp];
        let mut row = vec![name.to_owned(), number.to_string(), run.probes.to_string()];
        row.extend(cells.map(|value| format!("{:.2}", 100.0 * value)));
        row
    };
    let runs = evaluation.sets.iter().flat_map(|set| {
        let runs = set.runs.runs.iter().enumerate();
        runs.map(|(number, run)| (set.name.as_str(), number, run))
    });
    let rows: Vec<Vec<String>> = runs.map(run).collect();
    let header = [
        "set",
        "run",
        "probes",
        "Rank-1",
        "Rank-5",
        "Rank-10",
        "Rank-20",
        "mAP",
        "mAP trapezoid",
        "mINP",
    ];
    page.table(&header, &rows);
    for set in evaluation.sets.iter().filter(|set| !set.failures.is_empty()) {
        page.heading(&format!("Worst probes, {}", set.name));
        let row = |failure: &super::types::Failure| {
            let found: Vec<String> = failure
                .candidates
                .iter()
                .map(|candidate| {
                    let mate = if candidate.mate { " (mate)" } else { "" };
                    format!("{} {:.3}{mate}", candidate.subject, candidate.similarity)
                })
                .collect();
            vec![
                failure.file.clone(),
                failure.subject.clone(),
                failure.run.to_string(),
                failure.rank.to_string(),
                format!("{:.3}", failure.similarity),
                found.join(", "),
            ]
        };
        let rows: Vec<Vec<String>> = set.failures.iter().map(row).collect();
        let header =
            ["probe", "subject", "run", "mate's rank", "mate's similarity", "first candidates"];
        page.table(&header, &rows);
        pictures(set).iter().for_each(|row| page.pictures(row));
    }
    section(page, "Refused files", &refusals(evaluation));
}

/// File name and SVG of every chart; what has nothing to show is left out.
pub(super) fn charts(systems: &[Evaluation]) -> Vec<(String, String)> {
    let Some(first) = systems.first() else { return Vec::new() };
    let mut charts = Vec::new();
    for (at, set) in first.sets.iter().enumerate() {
        let of_set = || systems.iter().filter_map(|s| Some((&s.system.name, s.sets.get(at)?)));
        let cmc: Vec<Series> = of_set()
            .map(|(name, set)| Series {
                name: name.clone(),
                points: (1..)
                    .zip(&set.cmc)
                    .take(CMC_RANKS)
                    .map(|(k, v)| (f64::from(k), 100.0 * v))
                    .collect(),
            })
            .collect();
        let det: Vec<Series> = of_set()
            .map(|(name, set)| Series {
                name: name.clone(),
                points: set.det.iter().map(|point| (point.fmr, point.fnmr)).collect(),
            })
            .collect();
        let histograms: Vec<Series> = of_set()
            .filter_map(|(name, set)| Some((name, set.histogram.as_ref()?)))
            .flat_map(|(name, histogram)| {
                let kinds = [("genuine", &histogram.genuine), ("impostor", &histogram.impostor)];
                kinds.map(|(kind, counts)| {
                    staircase(&format!("{name}, {kind}"), &histogram.edges, counts)
                })
            })
            .collect();
        let title = |what: &str| format!("{what}, {}", set.name);
        let linear = |title, x_label, y_label, legend| Frame {
            title,
            x_label,
            y_label,
            x: Scale::Linear,
            y: Scale::Linear,
            legend,
        };
        let (a, b, c) = (title("CMC"), title("DET"), title("Similarities"));
        let drawn = [
            ("cmc", lines(linear(&a, "rank", "% of probes found", Corner::LowerRight), &cmc)),
            (
                "det",
                lines(
                    Frame {
                        x: Scale::Log,
                        y: Scale::Log,
                        ..linear(&b, "FMR", "FNMR", Corner::LowerLeft)
                    },
                    &det,
                ),
            ),
            ("scores", lines(linear(&c, "similarity", "share", Corner::UpperLeft), &histograms)),
        ];
        let slug: String =
            set.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        for (name, svg) in drawn {
            if let Ok(svg) = svg {
                charts.push((format!("{name}_{slug}"), svg));
            }
        }
    }
    charts
}
