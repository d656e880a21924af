use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use rayon::prelude::*;

use crate::dataset::LabelledImage;
use crate::model::{Embedder, Parameters, Trainable};
use crate::service::nano_card::{Figures, Label, can_be_scored, embed, score};
use crate::training::TrainingError;
use crate::training::fine_tune::{PictureFiles, Recipe};

use super::divide::Parts;
use super::{FineTuneError, FineTuneEvent, FineTuneRequest};

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

    /// Says which part cannot be scored, and refuses a recipe that goes by scores where the validation part is it.
    pub(super) fn check(
        &self,
        parts: &Parts,
        request: &FineTuneRequest,
        recipe: &Recipe,
        progress: &dyn Fn(FineTuneEvent),
    ) -> Result<(), FineTuneError> {
        const TAKES: &str =
            "that takes two subjects with the same kind of hand, and two images of one of them";
        let scored = |on: &[usize]| can_be_scored(&self.labels(on));
        let notice = |text: String| progress(FineTuneEvent::Notice(text));
        if !scored(&parts.validation) {
            if let Some(setting) = recipe.goes_by_validation() {
                return Err(FineTuneError::NoValidation(setting));
            }
            if recipe.validation > 0.0 {
                notice(format!(
                    "nothing can be validated on: {TAKES}. The last epoch counts as the best; with validation = 0 all subjects that are not held out are trained on"
                ));
            }
        }
        if request.hold_out > 0.0 && !scored(&parts.held_out) {
            notice(format!(
                "nobody who is held out can be scored: {TAKES}. There are no figures before and after"
            ));
        }
        Ok(())
    }

    fn labels(&self, on: &[usize]) -> Vec<Label> {
        Label::of_all(on.iter().map(|at| &self.images[*at]))
    }

    /// `None` where there is nothing that can be scored, or no time left for it.
    pub(super) fn figures(
        &self,
        parameters: &Parameters,
        on: &[usize],
    ) -> Result<Option<Figures>, FineTuneError> {
        let known = self.labels(on);
        if !can_be_scored(&known) {
            return Ok(None);
        }
        let known: Vec<(usize, Label)> = on.iter().copied().zip(known).collect();
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
        // Those that cannot be read may have been what it takes.
        if !can_be_scored(&labels) {
            return Ok(None);
        }
        Ok(Some(score(&embedder, &labels, &embeddings)?))
    }
}
