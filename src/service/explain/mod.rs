//! Why is this image as similar as it is to another, to somebody enrolled, or to words?

mod curves;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::domain::Embedding;
use crate::image::{DecodeLimits, HeatMap, Picture, decode, encode_png, overlay};
use crate::model::{Embedder, PatchMap};

pub use crate::model::{ExplainMethod, UnknownMethod};
pub use curves::deletion_and_insertion;

use super::deployment::Seat;
use super::error::ServiceError;
use super::eyes::{Opened, micros};
use super::tools::{OfflineModel, read_image};
use super::views::{
    CurvesView, Explain, ExplainAnswer, ExplainExtras, ExplainTarget, TargetView, Timings,
};
use super::{Service, blocking};

/// Longest side of an overlay, in pixels; larger pictures are made smaller for it.
const MAX_OVERLAY_SIDE: u32 = 1600;

/// An explanation and, if it was asked for, its picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The figures.
    pub answer: ExplainAnswer,
    /// The picture under its heat map, a PNG.
    pub overlay: Option<Vec<u8>>,
}

/// What an image on the disk is compared with, without a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfflineTarget {
    /// Another image's file.
    Image(PathBuf),
    /// Words.
    Prompt(String),
}

/// What was computed of one picture.
struct Computed {
    map: PatchMap,
    curves: Option<CurvesView>,
    overlay: Option<Vec<u8>>,
}

impl Service {
    /// Which parts of an image make it as similar to a target as it is.
    ///
    /// # Errors
    /// [`ServiceError`]; [`ServiceError::Busy`] when too many wait for an explanation.
    pub async fn explain(&self, ask: Explain) -> Result<Explanation, ServiceError> {
        let started = Instant::now();
        // Before an image is decoded: an unknown subject costs nothing.
        let (live, gallery) = match &ask.target {
            ExplainTarget::Subject { gallery, subject } => {
                let Seat { serving, view, .. } = self.seat(gallery)?;
                view.gallery().samples_of(subject)?;
                (serving, Some(view))
            }
            ExplainTarget::Image(_) | ExplainTarget::Prompt(_) => {
                (Arc::clone(&self.deployment_now().live), None)
            }
        };
        // Held to the end: it bounds the pictures and the passes with gradients that are in memory.
        let permit = self.0.explaining.enter().await?;
        let mut timings = Timings::default();
        let known = match (ask.target, gallery) {
            (ExplainTarget::Image(file), _) => {
                let seen = self.0.eyes.see(&live, file, &mut timings).await?;
                Ok((seen.embedding, TargetView::Image { file: None }))
            }
            (ExplainTarget::Prompt(prompt), _) => {
                let embedding = Instant::now();
                let target = live.embed_prompt(prompt.clone()).await?;
                timings.embed_us += micros(embedding);
                Ok((target, TargetView::Prompt { prompt }))
            }
            (ExplainTarget::Subject { subject, .. }, Some(gallery)) => Err((subject, gallery)),
            (ExplainTarget::Subject { gallery, .. }, None) => {
                return Err(ServiceError::GalleryNotFound(gallery));
            }
        };
        let opening = Instant::now();
        let opened = self.0.eyes.open(&live, ask.image, |picture| picture).await?;
        let Opened { kept: picture, pixels, .. } = opened;
        timings.decode_us += micros(opening);
        let (target, view) = match known {
            Ok(known) => known,
            Err((subject, gallery)) => {
                let embedding = Instant::now();
                let probe = live.batcher.image(pixels.clone()).await?;
                timings.embed_us += micros(embedding);
                let searching = Instant::now();
                let missing = ServiceError::SubjectNotFound(subject.clone());
                let name = gallery.gallery().id().clone();
                let closest =
                    blocking(move || Ok(gallery.closest_template(&subject, &probe)?)).await?;
                timings.search_us += micros(searching);
                let (hit, template) = closest.ok_or(missing)?;
                let view =
                    TargetView::Subject { gallery: name, subject: hit.subject, sample: hit.sample };
                (template, view)
            }
        };
        let explaining = Instant::now();
        let (batcher, method, extras) = (live.batcher.clone(), ask.method, ask.extras);
        let computed = blocking(move || {
            let _permit = permit;
            compute(batcher.embedder(), (&picture, &pixels), &target, (method, extras))
        })
        .await?;
        timings.embed_us += micros(explaining);
        timings.total_us = micros(started);
        Ok(explanation(live.batcher.embedder(), computed, view, timings))
    }
}

impl OfflineModel {
    /// As [`Service::explain`], of files. The quality gate is not asked: this only computes.
    ///
    /// # Errors
    /// [`ServiceError`] for a file that cannot be read or decoded, or a prompt that cannot be embedded.
    pub fn explain(
        &self,
        image: &Path,
        target: &OfflineTarget,
        how: (ExplainMethod, ExplainExtras),
    ) -> Result<Explanation, ServiceError> {
        let started = Instant::now();
        let mut timings = Timings::default();
        let (line, view) = match target {
            OfflineTarget::Image(path) => {
                let file = Some(path.display().to_string());
                (self.image(path)?, TargetView::Image { file })
            }
            OfflineTarget::Prompt(prompt) => {
                (self.text(prompt)?, TargetView::Prompt { prompt: prompt.clone() })
            }
        };
        let target = Embedding::from_unit(line.embedding)
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        timings.embed_us = micros(started);
        let opening = Instant::now();
        let limits = DecodeLimits::default();
        let picture = decode(&read_image(image, limits.max_file_bytes)?, &limits)?;
        let pixels = self.embedder().preprocessing().apply(&picture);
        timings.decode_us = micros(opening);
        let explaining = Instant::now();
        let computed = compute(self.embedder(), (&picture, &pixels), &target, how)?;
        timings.embed_us += micros(explaining);
        timings.total_us = micros(started);
        Ok(explanation(self.embedder(), computed, view, timings))
    }
}

/// seen: a picture, and what the model is given of it.
fn compute(
    embedder: &Embedder,
    seen: (&Picture, &[f32]),
    target: &Embedding,
    (method, extras): (ExplainMethod, ExplainExtras),
) -> Result<Computed, ServiceError> {
    let (picture, pixels) = seen;
    let map = embedder.explain(pixels, target, method)?;
    let curves = match extras.curves {
        true => Some(deletion_and_insertion(embedder, picture, target, &map)?),
        false => None,
    };
    let overlay = match extras.overlay {
        true => {
            let heat = HeatMap::new(&map.values, map.rows, map.cols)
                .ok_or_else(|| ServiceError::Internal("a map without finite values".to_owned()))?;
            let place = embedder.preprocessing().placement(picture);
            Some(encode_png(&overlay(picture, &heat, &place, MAX_OVERLAY_SIDE))?)
        }
        false => None,
    };
    Ok(Computed { map, curves, overlay })
}

/// As shares of the largest, with two digits. At full precision each value would measure the template of somebody who is
/// enrolled, as an exact similarity would.
fn coarse(values: &mut [f32]) {
    let largest = values.iter().copied().fold(0.0, f32::max);
    for value in values {
        *value = if largest > 0.0 { (*value / largest * 100.0).round() / 100.0 } else { 0.0 };
    }
}

fn explanation(
    embedder: &Embedder,
    computed: Computed,
    target: TargetView,
    timings: Timings,
) -> Explanation {
    let Computed { mut map, curves, overlay } = computed;
    if matches!(target, TargetView::Subject { .. }) {
        coarse(&mut map.values);
    }
    let answer = ExplainAnswer {
        method: map.method,
        target,
        similarity: map.similarity,
        rows: map.rows,
        cols: map.cols,
        map: map.values.chunks(map.cols.max(1)).map(<[f32]>::to_vec).collect(),
        curves,
        model: embedder.name().to_owned(),
        fingerprint: embedder.fingerprint(),
        timings,
    };
    Explanation { answer, overlay }
}
