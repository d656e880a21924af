use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use rayon::prelude::*;

use crate::dataset::LabelledImage;
use crate::model::{Embedder, Parameters, Trainable};
use crate::service::nano_card::{Figures, Label, embed, score};
use crate::training::TrainingError;
use crate::training::fine_tune::PictureFiles;

use super::FineTuneError;

/// Pictures embedded at a time when weights are scored.
const CHUNK: usize = 64;

/// Scores weights on some of the data set's images.
pub(super) struct Judge<'a> {
    pub(super) start: &'a Trainable,
    pub(super) files: &'a PictureFiles<'a>,
    pub(super) images: &'a [LabelledImage],
    pub(super) device: &'a Device,
    pub(super) cancel: &'a AtomicBool,
}

impl Judge<'_> {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// `None` where there is nothing to score on, or no time left for it.
    pub(super) fn figures(
        &self,
        parameters: &Parameters,
        on: &[usize],
    ) -> Result<Option<Figures>, FineTuneError> {
        let known: Vec<(usize, Label)> =
            on.iter().filter_map(|at| Some((*at, Label::of(&self.images[*at])?))).collect();
        if known.is_empty() {
            return Ok(None);
        }
        let embedder: Embedder = self.start.embedder(parameters, self.device)?;
        let (mut labels, mut embeddings) = (Vec::new(), Vec::new());
        for chunk in known.chunks(CHUNK) {
            if self.is_cancelled() {
                return Ok(None);
            }
            let pixels: Vec<Option<Vec<f32>>> = chunk
                .par_iter()
                .map(|(at, _)| {
                    let framed = self.files.pixels(*at)?;
                    Ok(framed.map(|framed| self.files.preprocessing().normalise(&framed)))
                })
                .collect::<Result<_, TrainingError>>()?;
            let mut usable = Vec::new();
            for ((_, label), pixels) in chunk.iter().zip(pixels) {
                if let Some(pixels) = pixels {
                    labels.push(*label);
                    usable.push(pixels);
                }
            }
            embeddings.extend(embed(&embedder, &usable)?);
        }
        Ok(Some(score(&embedder, &labels, &embeddings)?))
    }
}
