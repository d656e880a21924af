//! What an evaluation leaves in its folder.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::image::{DecodeLimits, Filter, decode, encode_jpeg};
use crate::service::ledger::RunRecord;
use crate::storage::file::write_atomic;

use super::compare::Comparison;
use super::plan::Plan;
use super::types::{Evaluation, SetFigures};
use super::{EvaluateError, html, markdown};

/// Side of a picture in a report, pixels.
const THUMBNAIL: u32 = 160;

/// A folder for a report, new or empty.
pub(super) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Before any work: a folder that cannot be used is found out at once.
    pub(super) fn prepare(folder: Option<&Path>) -> Result<Option<Self>, EvaluateError> {
        let Some(folder) = folder else { return Ok(None) };
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(EvaluateError::NotEmpty(folder.to_path_buf()));
        }
        std::fs::create_dir_all(folder)
            .map_err(|source| EvaluateError::Write { path: folder.to_path_buf(), source })?;
        Ok(Some(Self { folder: folder.to_path_buf() }))
    }

    pub(super) fn evaluation(
        &self,
        evaluation: &Evaluation,
        plan: &Plan,
        show_images: bool,
    ) -> Result<(), EvaluateError> {
        let pictures = |set: &SetFigures| pictures(set, plan, show_images);
        self.json("evaluation.json", evaluation)?;
        self.text("report.md", &markdown::evaluation(evaluation))?;
        self.text("report.html", &html::evaluation(evaluation, &pictures))?;
        for (name, svg) in html::charts(std::slice::from_ref(evaluation)) {
            self.text(&format!("{name}.svg"), &svg)?;
        }
        Ok(())
    }

    pub(super) fn comparison(
        &self,
        comparison: &Comparison,
        plan: &Plan,
        show_images: bool,
    ) -> Result<(), EvaluateError> {
        let pictures = |set: &SetFigures| pictures(set, plan, show_images);
        self.json("comparison.json", comparison)?;
        self.text("report.md", &markdown::comparison(comparison))?;
        self.text("report.html", &html::comparison(comparison, &pictures))?;
        for (name, svg) in html::charts(&comparison.systems) {
            self.text(&format!("{name}.svg"), &svg)?;
        }
        Ok(())
    }

    pub(super) fn record(&self, record: &RunRecord) -> Result<(), EvaluateError> {
        Ok(record.save(&self.folder)?)
    }

    pub(super) fn json(&self, name: &str, value: &impl Serialize) -> Result<(), EvaluateError> {
        let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other);
        let path = self.folder.join(name);
        self.text(name, &text.map_err(|source| EvaluateError::Write { path, source })?)
    }

    fn text(&self, name: &str, text: &str) -> Result<(), EvaluateError> {
        Ok(write_atomic(&self.folder.join(name), text.as_bytes())?)
    }
}

/// What decided an evaluation, for the ledger.
pub(super) fn settings(record: &mut RunRecord, evaluation: &Evaluation) {
    let selection = &evaluation.selection;
    record.set("model", &evaluation.system.name);
    if let Some(fingerprint) = evaluation.system.fingerprint {
        record.set("fingerprint", fingerprint);
    }
    record.set("data", &evaluation.data.name);
    record.set("data_sha256", &evaluation.data.sha256);
    record.set("protocol", selection.protocol);
    record.set("runs", selection.runs);
    record.set("seed", selection.seed);
    record.set("enrolled", selection.enrolled);
    record.set("accessories", selection.accessories);
    if let Some((share, seed)) = selection.hold_out {
        record.set("hold_out", format!("{share} (seed {seed})"));
    }
}

/// Small pictures of the worst probes and who came before their mates; none unless they were asked for.
fn pictures(set: &SetFigures, plan: &Plan, show: bool) -> Vec<Vec<(String, Vec<u8>)>> {
    if !show {
        return Vec::new();
    }
    set.failures
        .iter()
        .map(|failure| {
            let asked = format!("probe {}: {}", failure.subject, failure.file);
            let found = failure.candidates.iter().enumerate().map(|(rank, candidate)| {
                let mate = if candidate.mate { ", the mate" } else { "" };
                format!("{}. {} {:.3}{mate}", rank + 1, candidate.subject, candidate.similarity)
            });
            let captions = std::iter::once(asked).chain(found);
            let files = failure.rows.iter().filter_map(|row| plan.files.get(*row));
            captions
                .zip(files)
                .filter_map(|(caption, file)| Some((caption, thumbnail(&file.path)?)))
                .collect()
        })
        .collect()
}

fn thumbnail(path: &Path) -> Option<Vec<u8>> {
    let limits = DecodeLimits::default();
    let bytes = crate::service::tools::read_image(path, limits.max_file_bytes).ok()?;
    let picture = decode(&bytes, &limits).ok()?;
    let longest = picture.width().max(picture.height());
    let side = |side: u32| (side * THUMBNAIL / longest).max(1);
    let (width, height) = (side(picture.width()), side(picture.height()));
    let small = picture.resized(width, height, Filter::Bilinear);
    encode_jpeg(&small, 80).ok()
}
