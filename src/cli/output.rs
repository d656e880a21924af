//! Progress for people, tables for people, JSON for machines.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::service::HitView;

use super::Failure;

/// A bar on standard error; hidden where that is not a terminal.
pub(super) fn bar(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    let template = "{msg} {bar:30} {pos}/{len} {per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

pub(super) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// One line about a hit.
pub(super) fn hit_line(rank: usize, hit: &HitView) -> String {
    let attributes = &hit.attributes;
    let known = [
        attributes.aspect.map(|aspect| aspect.to_string()),
        attributes.side.map(|side| side.to_string()),
        attributes
            .accessories
            .map(|worn| if worn { "accessories" } else { "no accessories" }.to_owned()),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    format!("{rank:>4}  {:.4}  {:<20}  {}", hit.similarity, hit.subject.as_str(), known.join(" "))
}
