//! The measurement for people to read.

use std::fmt::Write as _;

use crate::evaluation::{Change, Damage, Estimate, GroupRow, GroupTable, Interval, Rate, Standing};
use crate::image::Severity;
use crate::report::{Page, Series, line_chart, markdown_table};

use super::{On, RobustnessReport};

/// A table: its heading, what to know of it, and its cells.
struct Table {
    heading: String,
    note: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn header(&self) -> Vec<&str> {
        self.header.iter().map(String::as_str).collect()
    }
}

pub(super) fn markdown(report: &RobustnessReport) -> String {
    let mut text = format!("# Robustness of {}\n\n{}\n", report.model.name, opening(report));
    for table in tables(report) {
        // Infallible: a String takes everything.
        let cells = markdown_table(&table.header(), &table.rows);
        let _ = write!(text, "\n## {}\n\n{}\n\n{cells}", table.heading, table.note);
    }
    text
}

pub(super) fn html(report: &RobustnessReport) -> String {
    let mut page = Page::new(&format!("Robustness of {}", report.model.name));
    page.paragraph(&opening(report));
    for (title, of) in
        [("Rank-1", rank1 as fn(&Damage) -> f64), ("FNMR at the clean threshold", fnmr)]
    {
        // Nothing to draw is nothing to show.
        if let Ok(svg) =
            line_chart(&format!("{title} by severity, %"), "severity", &lines(report, of))
        {
            page.chart(&svg);
        }
    }
    for table in tables(report) {
        page.heading(&table.heading);
        page.paragraph(&table.note);
        page.table(&table.header(), &table.rows);
    }
    page.finish()
}

fn rank1(damage: &Damage) -> f64 {
    damage.rank1.value
}

fn fnmr(damage: &Damage) -> f64 {
    damage.fnmr.value
}

fn opening(report: &RobustnessReport) -> String {
    let on = match report.on {
        On::Probe => "Pictures asked about are damaged, what is enrolled is clean.",
        On::Both => "Pictures asked about and pictures enrolled are damaged.",
    };
    let mut text = format!(
        "{} images of {} subjects without accessories; within each aspect and side one image of each subject is enrolled and the others, \
         {} in a run, are asked about; means of {} runs, seed {}. {on} Intervals are 95 % over subjects. The threshold {:.4} is fixed on clean \
         images for FMR {:.2} %. Images that the quality gate refuses count as misses, but not by group: there they are counted \
         apart. Model {}.",
        report.images,
        report.subjects,
        report.probes,
        report.runs,
        report.seed,
        report.threshold,
        100.0 * report.target_fmr,
        report.model.fingerprint,
    );
    for note in report.note.iter().chain(&report.data_notes) {
        let _ = write!(text, " {note}.");
    }
    text
}

fn tables(report: &RobustnessReport) -> Vec<Table> {
    let mut tables = Vec::new();
    if !report.conditions.is_empty() {
        tables.push(damage_table(report));
    }
    tables.extend(natural_table(report));
    tables.extend(report.groups.iter().map(group_table));
    tables
}

fn damage_table(report: &RobustnessReport) -> Table {
    let severities: Vec<Severity> = Severity::ALL
        .into_iter()
        .filter(|severity| report.conditions.iter().any(|row| row.severity == *severity))
        .collect();
    let mut header = vec!["damage".to_owned()];
    header.extend(severities.iter().map(|severity| format!("Rank-1 at {severity}")));
    header.extend(
        ["Rank-1", "change", "FNMR", "change", "FMR", "refused"].map(|name| format!("mean {name}")),
    );
    let clean = &report.clean;
    let mut first = vec!["clean".to_owned()];
    first.extend(severities.iter().map(|_| String::new()));
    first.extend([
        estimate(&clean.rank1),
        String::new(),
        estimate(&clean.fnmr),
        String::new(),
        share(clean.fmr),
        percent(clean.refused),
    ]);
    let mut rows = vec![first];
    let cells = |name: String, values: Vec<String>, damage: &Damage| {
        let mut row = vec![name];
        row.extend(values);
        row.extend([
            percent(damage.rank1.value),
            change(&damage.rank1),
            percent(damage.fnmr.value),
            change(&damage.fnmr),
            share(damage.fmr),
            percent(damage.refused),
        ]);
        row
    };
    for kind in &report.corruptions {
        let own = report.conditions.iter().filter(|row| row.corruption == kind.corruption);
        let own: Vec<_> = own.collect();
        let at = |severity: &Severity| {
            let found = own.iter().find(|row| row.severity == *severity);
            found.map_or(String::new(), |row| percent(row.damage.rank1.value))
        };
        let values = severities.iter().map(at).collect();
        rows.push(cells(kind.corruption.to_string(), values, &kind.damage));
    }
    for family in &report.families {
        let values = severities.iter().map(|_| String::new()).collect();
        rows.push(cells(format!("all of {}", family.family), values, &family.damage));
    }
    Table {
        heading: "Damaged pictures".to_owned(),
        note: "In %. Means are over severities, those of a family over its kinds; changes are against clean pictures, paired by probe."
            .to_owned(),
        header,
        rows,
    }
}

fn natural_table(report: &RobustnessReport) -> Option<Table> {
    let natural = report.natural.as_ref()?;
    let row = |name: &str, standing: &Standing| {
        vec![
            name.to_owned(),
            estimate(&standing.rank1),
            estimate(&standing.fnmr),
            percent(standing.refused),
        ]
    };
    let mut rows = vec![row("with accessories", &natural.worn)];
    rows.extend(natural.bare.as_ref().map(|bare| row("same hands without", bare)));
    Some(Table {
        heading: "Accessories as they are worn".to_owned(),
        note: format!(
            "{} images with accessories of {} subjects, asked of the same galleries without. In %.",
            natural.probes, natural.subjects
        ),
        header: ["images", "Rank-1", "FNMR", "refused"].map(str::to_owned).to_vec(),
        rows,
    })
}

fn group_table(table: &GroupTable) -> Table {
    let row = |row: &GroupRow| {
        let counts = [row.subjects, row.probes, row.refused].map(|count| count.to_string());
        let figures = match &row.figures {
            Some(figures) => [
                with(figures.rank1, figures.rank1_interval),
                rate(&figures.fnmr),
                figures.fmr.as_ref().map_or_else(|| "-".to_owned(), rate),
                format!("{:.2}", 100.0 * figures.lowest_fmr),
            ],
            None => {
                let reason = row.no_verdict.clone().unwrap_or_default();
                [format!("no verdict: {reason}"), String::new(), String::new(), String::new()]
            }
        };
        std::iter::once(row.group.clone()).chain(counts).chain(figures).collect()
    };
    let mut note = "Clean pictures, in %, at the one threshold of everybody; refused ones are left out of Rank-1 and FNMR. FMR is of pairs within the group, with exact (Clopper-Pearson) \
         intervals for FMR and FNMR, which take comparisons for independent; those of Rank-1 are over subjects."
        .to_owned();
    if let Some(gap) = table.rank1_gap {
        let _ = write!(note, " Lowest less highest Rank-1: {:.1} points.", 100.0 * gap);
    }
    let ratios = [("FNMR", table.fnmr_ratio), ("FMR", table.fmr_ratio)];
    for (name, ratio) in ratios.into_iter().filter_map(|(name, ratio)| Some((name, ratio?))) {
        let _ = write!(note, " Highest over lowest {name}: {ratio:.2}.");
    }
    if table.unknown > 0 {
        let _ = write!(note, " {} probes of a run are of no known group.", table.unknown);
    }
    Table {
        heading: format!("By {}", table.attribute),
        note,
        header: [
            table.attribute.as_str(),
            "subjects",
            "probes",
            "refused",
            "Rank-1",
            "FNMR",
            "FMR within",
            "lowest FMR supported",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: table.groups.iter().map(row).collect(),
    }
}

/// A line for each family: the mean of its kinds at each severity.
fn lines(report: &RobustnessReport, of: fn(&Damage) -> f64) -> Vec<Series> {
    let line = |family: &super::FamilyRow| {
        let mean = |severity: Severity| {
            let own = report
                .conditions
                .iter()
                .filter(|row| row.corruption.family() == family.family && row.severity == severity);
            let values: Vec<f64> = own.map(|row| 100.0 * of(&row.damage)).collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            (!values.is_empty()).then_some((f64::from(severity.get()), mean))
        };
        let points = Severity::ALL.into_iter().filter_map(mean).collect();
        Series { name: family.family.to_string(), points }
    };
    report.families.iter().map(line).collect()
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}", 100.0 * share))
}

fn with(value: f64, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high, .. }) => {
            format!("{} ({} to {})", percent(value), percent(low), percent(high))
        }
        None => percent(value),
    }
}

fn estimate(estimate: &Estimate) -> String {
    with(estimate.value, estimate.interval)
}

fn change(change: &Change) -> String {
    let signed = |share: f64| format!("{:+.1}", 100.0 * share);
    match change.interval {
        Some(Interval { low, high, .. }) => {
            format!("{} ({} to {})", signed(change.change), signed(low), signed(high))
        }
        None => signed(change.change),
    }
}

fn rate(rate: &Rate) -> String {
    let Interval { low, high, .. } = rate.exact;
    format!("{:.2} ({:.2} to {:.2})", 100.0 * rate.value, 100.0 * low, 100.0 * high)
}
