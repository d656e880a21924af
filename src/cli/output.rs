//! Progress for people, tables for people, JSON for machines.

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::service::HitView;

use super::Failure;

fn styled(bar: ProgressBar, what: &'static str, template: &str) -> ProgressBar {
    let bar = bar.with_message(what);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar on standard error; hidden where that is not a terminal.
pub(super) fn bar(total: u64, what: &'static str) -> ProgressBar {
    styled(ProgressBar::new(total), what, "{msg} {bar:30} {pos}/{len} {per_sec} ETA {eta}")
}

/// Bytes as they come, where nobody knows how many there will be.
pub(super) fn bytes(what: &'static str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), what, "{msg} {spinner} {bytes} {bytes_per_sec}")
}

/// That something goes on.
pub(super) fn spinner(what: &'static str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), what, "{msg} {spinner} {elapsed}")
}

/// Whoever read standard output closed it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(super) struct ReaderLeft;

/// Writes a line to standard output.
pub(super) fn line(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderLeft.into()),
        Err(error) => Err(error.into()),
    }
}

/// Writes a line to standard error. What a command does never depends on whether somebody reads its notes.
pub(super) fn note(text: fmt::Arguments<'_>) {
    // In one piece: standard error is not buffered, and lines of others may come between.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    say!("{}", serde_json::to_string_pretty(value)?)
}

pub(super) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    say!("{}", serde_json::to_string(value)?)
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
