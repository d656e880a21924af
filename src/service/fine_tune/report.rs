//! What a run leaves for people to read.

use std::path::Path;

use serde_json::Value;

use crate::report::{Page, Series, line_chart};
use crate::service::ledger::data_name;
use crate::service::nano_card::{Figures, HandFigures};

use super::FineTuneSummary;

/// The run in Markdown.
pub(super) fn markdown(model: &str, summary: &FineTuneSummary) -> String {
    let mut text = format!(
        "# Fine-tuning {model}\n\nTrained on {} images of {} subjects, validated on {} subjects, {} steps, best epoch {}{}.\n",
        summary.images[0],
        summary.subjects[0],
        summary.subjects[1],
        summary.steps,
        summary.best_epoch,
        ending(summary),
    );
    if let (Some(before), Some(after)) = (&summary.before, &summary.after) {
        text.push_str(&format!(
            "\nOn {} held-out subjects, images without accessories, one image of each in the gallery, mean and standard deviation of ten draws, in %:\n\n\
             | hand | subjects | probes | Rank-1 before | after | mAP before | after |\n|---|---|---|---|---|---|---|\n",
            summary.subjects[2]
        ));
        for (b, a) in asked(before, after) {
            text.push_str(&format!(
                "| {} | {} | {} | {:.1} ± {:.1} | {:.1} ± {:.1} | {:.1} ± {:.1} | {:.1} ± {:.1} |\n",
                b.name(),
                b.subjects,
                b.probes,
                100.0 * b.rank1,
                100.0 * b.rank1_sd,
                100.0 * a.rank1,
                100.0 * a.rank1_sd,
                100.0 * b.map,
                100.0 * b.map_sd,
                100.0 * a.map,
                100.0 * a.map_sd
            ));
        }
        text.push_str(&format!(
            "| mean | | | {:.1} | {:.1} | {:.1} | {:.1} |\n",
            100.0 * before.rank1,
            100.0 * after.rank1,
            100.0 * before.map,
            100.0 * after.map,
        ));
        if let (Some(before), Some(after)) = (before.aspect_side, after.aspect_side) {
            text.push_str(&format!(
                "\nPrompts name aspect and side rightly for {:.1} % before, {:.1} % after.\n",
                100.0 * before,
                100.0 * after
            ));
        }
    }
    text
}

/// How a run ended, where it was not by itself.
fn ending(summary: &FineTuneSummary) -> &'static str {
    match (summary.cancelled, summary.stopped_early) {
        (true, _) => " (cancelled)",
        (false, true) => " (stopped early)",
        (false, false) => "",
    }
}

/// The run as a page with its curves. `recipe`: the whole recipe as TOML; `metrics`: the lines of
/// `metrics.jsonl`.
pub(super) fn html(model: &str, summary: &FineTuneSummary, recipe: &str, metrics: &str) -> String {
    let epochs: Vec<Value> =
        metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut page = Page::new(&format!("Fine-tuning {model}"));
    page.paragraph(&format!(
        "Trained on {} images of {} subjects, validated on {} subjects, tested on {}. {} steps, {} pictures seen, best epoch {}{}. The loop waited for pictures {:.1} % of the time.",
        summary.images[0],
        summary.subjects[0],
        summary.subjects[1],
        summary.subjects[2],
        summary.steps,
        summary.images_seen,
        summary.best_epoch,
        ending(summary),
        100.0 * summary.waiting
    ));
    if let (Some(before), Some(after)) = (&summary.before, &summary.after) {
        page.heading("Held-out subjects, before and after");
        page.paragraph(
            "Images without accessories, one image of each hand in the gallery; mean and standard deviation of ten draws, in %.",
        );
        let header =
            ["hand", "subjects", "probes", "Rank-1 before", "after", "mAP before", "after"];
        page.table(&header, &rows(before, after));
    }
    drawn(&epochs).iter().for_each(|(_, svg)| page.chart(svg));
    if !summary.skipped.is_empty() {
        page.heading("Files left out because they cannot be decoded");
        let names: Vec<String> = summary.skipped.iter().map(|path| data_name(path)).collect();
        page.preformatted(&names.join("\n"));
    }
    page.heading("Recipe");
    page.preformatted(recipe);
    page.finish()
}

/// The kinds of hand that somebody asks about: the others have no figures.
fn asked<'a>(
    before: &'a Figures,
    after: &'a Figures,
) -> impl Iterator<Item = (&'a HandFigures, &'a HandFigures)> {
    before.hands.iter().zip(&after.hands).filter(|(hand, _)| hand.probes > 0)
}

fn rows(before: &Figures, after: &Figures) -> Vec<Vec<String>> {
    let percent = |mean: f64, sd: f64| format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * sd);
    asked(before, after)
        .map(|(b, a)| {
            vec![
                b.name(),
                b.subjects.to_string(),
                b.probes.to_string(),
                percent(b.rank1, b.rank1_sd),
                percent(a.rank1, a.rank1_sd),
                percent(b.map, b.map_sd),
                percent(a.map, a.map_sd),
            ]
        })
        .collect()
}

/// The charts of the lines of a run's `metrics.jsonl`, by the names of their files.
pub(super) fn charts(metrics: &str) -> Vec<(String, String)> {
    let epochs: Vec<Value> =
        metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let file = |title: &str| {
        let word = title.split([' ', ',']).next().unwrap_or(title);
        format!("{}.svg", word.to_ascii_lowercase())
    };
    drawn(&epochs).into_iter().map(|(title, svg)| (file(title), svg)).collect()
}

/// An empty chart says nothing, so it is left out.
fn drawn(epochs: &[Value]) -> Vec<(&'static str, String)> {
    let charts = curves(epochs).into_iter();
    charts
        .filter_map(|(title, series)| Some((title, line_chart(title, "epoch", &series).ok()?)))
        .collect()
}

/// Each chart's title and lines.
fn curves(epochs: &[Value]) -> Vec<(&'static str, Vec<Series>)> {
    let line = |name: &str, value: &dyn Fn(&Value) -> Option<f64>| Series {
        name: name.to_owned(),
        points: epochs
            .iter()
            .filter_map(|epoch| Some((epoch["epoch"]["epoch"].as_f64()?, value(epoch)?)))
            .collect(),
    };
    let parts = epochs.first().and_then(|epoch| epoch["epoch"]["parts"].as_object());
    let mut losses = vec![line("sum", &|epoch| epoch["epoch"]["loss"].as_f64())];
    losses.extend(
        parts
            .into_iter()
            .flatten()
            .map(|(name, _)| line(name, &|epoch| epoch["epoch"]["parts"][name.as_str()].as_f64())),
    );
    vec![
        ("Losses, weighted", losses),
        (
            "Validation",
            vec![
                line("Rank-1", &|epoch| epoch["validation"]["rank1"].as_f64()),
                line("mAP", &|epoch| epoch["validation"]["map"].as_f64()),
            ],
        ),
        ("Learning rate", vec![line("rate", &|epoch| epoch["epoch"]["learning_rate"].as_f64())]),
        (
            "Gradient norm before clipping",
            vec![line("norm", &|epoch| epoch["epoch"]["gradient_norm"].as_f64())],
        ),
    ]
}

/// The lines of a run's `metrics.jsonl`; nothing where it was cancelled before the first epoch ended.
pub(super) fn metrics(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default()
}
