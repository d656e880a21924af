use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Device;

use crate::image::Preprocessing;
use crate::model::{Clip, ClipConfig, ModelError, Parameters, normalise};
use crate::tensor::backward;

use super::augment::Augment;
use super::average::Average;
use super::batch::Batch;
use super::config::PretrainConfig;
use super::dataset::LabelledPixels;
use super::error::TrainingError;
use super::heads::{Anchors, TraitHead};
use super::init::spatial_start;
use super::log::Epoch;
use super::loss::{sup_con, trait_error};
use super::optimizer::{Optimizer, OptimizerConfig};
use super::sampler::PkSampler;
use super::schedule::{Decay, Schedule};

/// Largest factor on the cosines of the image-text loss, as in CLIP.
pub(super) const MAX_LOGIT_SCALE: f32 = 100.0;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of this step.
    pub loss: f32,
    /// Pictures a second since the start.
    pub images_per_second: f64,
}

/// Scores averaged weights on people that training never sees; higher is better. Called every
/// `validate_every` steps and after the last.
pub type Validate<'a> = dyn FnMut(&Parameters, Epoch) -> Result<f64, TrainingError> + 'a;

/// What a run gives.
#[derive(Debug)]
pub struct Outcome {
    /// Averaged weights of the best validation: a copy, not the weights that trained on.
    pub best: Parameters,
    /// Its score.
    pub best_score: f64,
    /// Its step.
    pub best_step: usize,
    /// Steps taken; fewer than asked for when cancelled.
    pub steps: usize,
    /// Training pictures seen, repetitions counted.
    pub images: usize,
}

/// Turns prompts into token ids.
pub type Encode<'a> = dyn Fn(&[String]) -> Result<Vec<Vec<u32>>, ModelError> + Sync + 'a;

/// What a run reads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Shape of the model.
    pub model: &'a ClipConfig,
    /// Turns prompts into token ids with begin and end, not padded.
    pub encode: &'a Encode<'a>,
    /// Normalisation of pixels; the pictures have the model's size or more.
    pub preprocessing: &'a Preprocessing,
    /// The pictures.
    pub data: &'a LabelledPixels,
    /// How pictures vary.
    pub augment: Augment,
    /// Settings.
    pub config: &'a PretrainConfig,
}

/// Trains a CLIP model from scratch: a supervised contrastive loss over hands for identity, image-text
/// InfoNCE against prompts made of each picture's facts.
///
/// # Errors
/// [`TrainingError`]; a loss that is not a number stops the run.
pub fn pretrain(
    inputs: Inputs<'_>,
    device: &Device,
    validate: &mut Validate<'_>,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Outcome, TrainingError> {
    let config = inputs.config;
    check(config)?;
    let parameters = Parameters::init(inputs.model, config.seed, device)?;
    spatial_start(&parameters, inputs.model, config.seed)?;
    let clip = Clip::new(inputs.model, &parameters)?;
    let guess = TraitHead::new(
        inputs.data.trait_count(),
        inputs.model.projection_dim,
        config.seed,
        device,
    )?;
    let mut trained = parameters.vars();
    trained.extend(guess.vars());
    let anchors = Anchors::new(inputs.model.projection_dim, config.seed, device)?;
    trained.push(("heads.anchors".to_owned(), anchors.directions.clone()));
    let optimizer_config = OptimizerConfig {
        weight_decay: config.weight_decay,
        clip_norm: config.clip_norm,
        muon: Some(config.matrix_rate / config.learning_rate),
        heads: config.heads_rate,
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(&trained, optimizer_config)?;
    let schedule = Schedule {
        peak: config.learning_rate,
        warmup: config.warmup,
        steps: config.steps,
        decay: Decay::Cosine,
    };
    let pictures: Vec<(u32, usize)> = inputs
        .data
        .hands
        .iter()
        .zip(&inputs.data.facts)
        .map(|(hand, f)| (*hand, f.kind()))
        .collect();
    let mut sampler = PkSampler::new(&pictures, config.shape(), config.seed)?;
    let mut average = Average::of(&parameters)?;
    let mut best: Option<(f64, usize, Parameters)> = None;
    let mut window = Window::default();
    let started = Instant::now();
    let mut paused = 0.0;
    let mut taken = 0;

    for step in 0..config.steps {
        if cancel.load(Ordering::Relaxed) {
            break;
        }
        let batch = Batch::draw(&inputs, &mut sampler, device)?;
        let images = normalise(&clip.image_features(&batch.pixels)?)?;
        let texts = normalise(&clip.text_features(&batch.tokens)?)?;
        let identity = sup_con(&images, &batch.labels, config.temperature)?;
        let scale = clip.logit_scale().exp()?.minimum(f64::from(MAX_LOGIT_SCALE))?;
        let text = batch.text_loss(&images, &texts, &scale)?;
        let mut loss = ((&identity * config.identity_weight)? + (&text * config.text_weight)?)?;
        loss = (loss + (anchors.loss(&images, &batch.facts, &scale)? * config.text_weight)?)?;
        if !batch.traits.is_empty() {
            let error = trait_error(&guess.forward(&images)?, &batch.traits)?;
            loss = (loss + (error * config.trait_weight)?)?;
        }
        let value = loss.to_scalar::<f32>()?;
        let rate = schedule.at(step, 0);
        if !value.is_finite() {
            return Err(TrainingError::Diverged {
                step: step + 1,
                loss: value,
                learning_rate: rate,
            });
        }
        let norm = optimizer.step(&backward(&loss)?, rate)?;
        average.follow(&parameters, config.average_decay, step)?;
        taken = step + 1;
        window.add(value, identity.to_scalar()?, text.to_scalar()?, norm, batch.labels.len());
        let seconds = started.elapsed().as_secs_f64() - paused;
        let seen = taken * config.batch();
        progress(Progress {
            step: taken,
            steps: config.steps,
            loss: value,
            images_per_second: seen as f64 / seconds,
        });

        if taken.is_multiple_of(config.validate_every) || taken == config.steps {
            let pause = Instant::now();
            let epoch = window.close(taken, rate, seen as f64 / seconds);
            let averaged = average.parameters(&parameters)?;
            let score = validate(&averaged, epoch)?;
            if best.as_ref().is_none_or(|(top, ..)| score > *top) {
                best = Some((score, taken, averaged));
            }
            paused += pause.elapsed().as_secs_f64();
        }
    }
    // Cancelled before the first validation: what there is.
    let (best_score, best_step, best) = match best {
        Some(best) => best,
        None => (f64::NAN, taken, average.parameters(&parameters)?),
    };
    Ok(Outcome { best, best_score, best_step, steps: taken, images: taken * config.batch() })
}

fn check(config: &PretrainConfig) -> Result<(), TrainingError> {
    let positive = |setting: &'static str, ok: bool, got: String| {
        if ok { Ok(()) } else { Err(TrainingError::Setting { setting, rule: "more than 0", got }) }
    };
    positive("steps", config.steps > 0, config.steps.to_string())?;
    positive("prompts", config.prompts > 0, config.prompts.to_string())?;
    positive("validate_every", config.validate_every > 0, config.validate_every.to_string())?;
    positive("temperature", config.temperature > 0.0, config.temperature.to_string())?;
    positive("learning_rate", config.learning_rate > 0.0, config.learning_rate.to_string())
}

#[derive(Default)]
struct Window {
    sums: [f64; 4],
    steps: usize,
    images: usize,
}

impl Window {
    fn add(&mut self, loss: f32, identity: f32, text: f32, norm: f64, images: usize) {
        let values = [f64::from(loss), f64::from(identity), f64::from(text), norm];
        self.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        self.steps += 1;
        self.images += images;
    }

    fn close(&mut self, step: usize, learning_rate: f64, images_per_second: f64) -> Epoch {
        let [loss, identity, text, gradient_norm] =
            self.sums.map(|sum| sum / self.steps.max(1) as f64);
        *self = Self::default();
        Epoch {
            step,
            loss,
            identity,
            text,
            gradient_norm,
            learning_rate,
            images_per_second,
            score: f64::NAN,
        }
    }
}
