use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use serde::Serialize;

use crate::domain::HandAttributes;
use crate::model::{Clip, ClipConfig, ModelError, Parameters, normalise};
use crate::training::augment::Augment;
use crate::training::average::Average;
use crate::training::error::TrainingError;
use crate::training::loss::matching_info_nce;
use crate::training::optimizer::{AdamW, AdamWConfig};
use crate::training::sampler::{BatchShape, PkSampler};
use crate::training::schedule::WarmupCosine;
use crate::training::trainer::MAX_LOGIT_SCALE;

use super::heads::IdentityHeads;
use super::loader::{Loaded, PictureFiles, prefetched};
use super::prompts::describe;
use super::recipe::{AugmentRecipe, Freeze, Recipe, block_of};
use super::state::{Checkpoint, RunState};

/// A picture to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainPicture {
    /// Its place in the [`PictureFiles`].
    pub file: usize,
    /// Its identity: a number for each hand of each subject, from 0 without gaps.
    pub hand: u32,
    /// Its kind of hand: a number for each aspect and side.
    pub kind: usize,
    /// What prompts may say of it.
    pub attributes: HandAttributes,
}

/// Turns prompts into token ids, all of one length.
pub type Tokens<'a> = dyn Fn(&[String]) -> Result<Vec<Vec<u32>>, ModelError> + 'a;

/// What a run reads.
#[derive(Clone, Copy)]
pub struct FineTuneInputs<'a> {
    /// Shape of the model.
    pub model: &'a ClipConfig,
    /// Where it starts; these are the weights that move.
    pub parameters: &'a Parameters,
    /// The model's tokenizer.
    pub tokens: &'a Tokens<'a>,
    /// The image files.
    pub files: &'a PictureFiles,
    /// Those that are trained on.
    pub pictures: &'a [TrainPicture],
    /// How.
    pub recipe: &'a Recipe,
    /// Where to compute.
    pub device: &'a Device,
    /// Where the run can go on from if the process dies; `None` keeps nothing.
    pub checkpoint: Option<Checkpoint<'a>>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineTuneProgress {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Optimiser steps taken.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of this step.
    pub loss: f32,
    /// Pictures a second since the start, validation left out.
    pub images_per_second: f64,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
}

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochReport {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Optimiser steps taken.
    pub step: usize,
    /// Mean of the weighted sum.
    pub loss: f64,
    /// Mean of each weighted part.
    pub parts: BTreeMap<String, f64>,
    /// Mean gradient norm before clipping.
    pub gradient_norm: f64,
    /// Rate of the last step.
    pub learning_rate: f64,
    /// Pictures a second since the start, validation left out.
    pub images_per_second: f64,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
    /// The best score of the epochs before.
    pub best_score: Option<f64>,
}

/// Scores weights on subjects that training never sees, after each epoch; higher is better.
pub type ValidateEpoch<'a> =
    dyn FnMut(&Parameters, &EpochReport) -> Result<f64, TrainingError> + 'a;

/// What a run gives.
#[derive(Debug)]
pub struct FineTuned {
    /// Weights of the best epoch: a copy, not the weights that trained on. `None` when the best epoch was
    /// before the run went on from a checkpoint: the caller was given its weights then.
    pub best: Option<Parameters>,
    /// The best score; `None` when cancelled before the first epoch ended, `best` being the last weights.
    pub best_score: Option<f64>,
    /// The best epoch, from 1; 0 when cancelled before the first ended.
    pub best_epoch: usize,
    /// Steps taken.
    pub steps: usize,
    /// Pictures seen, repetitions counted.
    pub images: usize,
    /// Whether it ended early because validation got no better.
    pub stopped_early: bool,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
}

/// Fine-tunes a CLIP model on labelled images.
///
/// # Errors
/// [`TrainingError`]; a loss that is not a number stops the run and names the batch's files.
pub fn fine_tune(
    inputs: FineTuneInputs<'_>,
    validate: &mut ValidateEpoch<'_>,
    progress: &dyn Fn(FineTuneProgress),
    cancel: &AtomicBool,
) -> Result<FineTuned, TrainingError> {
    let recipe = inputs.recipe;
    let shape = BatchShape {
        hands: recipe.batch.hands,
        images: recipe.batch.images,
        kinds: recipe.batch.kinds,
    };
    let labels: Vec<(u32, usize)> =
        inputs.pictures.iter().map(|picture| (picture.hand, picture.kind)).collect();
    let mut sampler = PkSampler::new(&labels, shape, recipe.seed)?;
    let an_epoch = (labels.len() / (shape.hands * shape.images)).max(1);
    let steps = an_epoch * recipe.epochs;
    let mut run = Run::new(inputs, an_epoch, steps)?;
    // A run that goes on draws what it drew before, and sees the same pictures from there on.
    let mut planned = 0;
    while planned < run.taken {
        sampler.batch();
        sampler.draw_seed();
        planned += 1;
    }
    let pictures = inputs.pictures;
    let over = run.is_stuck();
    let plan = move || {
        if over || planned >= steps || cancel.load(Ordering::Relaxed) {
            return None;
        }
        planned += 1;
        let batch = sampler.batch().into_iter().map(|at| pictures[at].file).collect();
        Some((batch, sampler.draw_seed()))
    };
    let augment = augment(&recipe.augment, inputs.model.vision.image_size);
    prefetched(inputs.files, &augment, plan, move |queue| {
        loop {
            let waited = Instant::now();
            let Ok(batch) = queue.recv() else { break };
            run.waited += waited.elapsed();
            run.step(batch?, progress)?;
            if run.taken.is_multiple_of(an_epoch) && run.end_epoch(validate)? {
                break;
            }
        }
        run.finish()
    })
}

fn augment(recipe: &AugmentRecipe, size: usize) -> Augment {
    let AugmentRecipe { rotation, scale, shift, light, color, erase } = *recipe;
    Augment {
        rotation: rotation.to_radians(),
        scale,
        shift,
        light,
        color,
        erase,
        ..Augment::none(size)
    }
}

/// A run between its first and its last step.
struct Run<'a> {
    inputs: FineTuneInputs<'a>,
    clip: Clip,
    heads: IdentityHeads,
    optimizer: AdamW,
    schedule: WarmupCosine,
    average: Option<Average>,
    /// Score, epoch, and the weights unless they are older than this process.
    best: Option<(f64, usize, Option<Parameters>)>,
    by_file: HashMap<usize, usize>,
    an_epoch: usize,
    taken: usize,
    images: usize,
    /// Of them, seen by the process that this one goes on from.
    seen_before: usize,
    started: Instant,
    paused: Duration,
    waited: Duration,
    window: Window,
}

/// Sums since the last epoch ended.
#[derive(Default)]
struct Window {
    loss: f64,
    norm: f64,
    parts: BTreeMap<String, f64>,
    steps: usize,
}

impl<'a> Run<'a> {
    fn new(
        inputs: FineTuneInputs<'a>,
        an_epoch: usize,
        steps: usize,
    ) -> Result<Self, TrainingError> {
        let recipe = inputs.recipe;
        let settings = &recipe.optimizer;
        let classes = inputs.pictures.iter().map(|picture| picture.hand + 1).max().unwrap_or(0);
        let heads = IdentityHeads::new(
            &recipe.losses,
            classes as usize,
            inputs.model.projection_dim,
            recipe.seed,
            inputs.device,
        )?;
        let mut trained: Vec<_> = inputs.parameters.vars();
        let with_text = recipe.losses.info_nce.is_some();
        trained.retain(|(name, _)| moves(name, &recipe.freeze, with_text));
        trained.extend(heads.vars());
        let config = AdamWConfig {
            beta2: 0.999,
            weight_decay: settings.weight_decay,
            clip_norm: settings.clip_norm,
            heads: settings.heads,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(&trained, config)?;
        let blocks = inputs.model.vision.num_hidden_layers;
        optimizer.scale_rates(|name| settings.layer_decay.powi(depth(name, blocks)));
        let mut run = Self {
            clip: Clip::new(inputs.model, inputs.parameters)?,
            heads,
            optimizer,
            schedule: WarmupCosine {
                peak: settings.learning_rate,
                warmup: (settings.warmup_epochs * an_epoch as f64) as usize,
                steps,
            },
            average: match settings.average > 0.0 {
                true => Some(Average::of(inputs.parameters)?),
                false => None,
            },
            best: None,
            by_file: inputs.pictures.iter().enumerate().map(|(at, p)| (p.file, at)).collect(),
            an_epoch,
            taken: 0,
            images: 0,
            seen_before: 0,
            started: Instant::now(),
            paused: Duration::ZERO,
            waited: Duration::ZERO,
            window: Window::default(),
            inputs,
        };
        if let Some(checkpoint) = &inputs.checkpoint
            && let Some(state) = RunState::load(checkpoint)?
        {
            run.go_on(checkpoint, state)?;
        }
        Ok(run)
    }

    /// Weights and heads by name, in a fixed order.
    fn vars(&self) -> Vec<(String, Var)> {
        let mut vars = self.inputs.parameters.vars();
        vars.extend(self.heads.vars());
        vars
    }

    fn go_on(
        &mut self,
        checkpoint: &Checkpoint<'_>,
        mut state: RunState,
    ) -> Result<(), TrainingError> {
        for (name, var) in self.vars() {
            let values = state.take(checkpoint, &name, var.elem_count())?;
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        let steps = state.optimizer_steps;
        self.optimizer.restore(steps, |name, count| state.take(checkpoint, name, count))?;
        if self.average.is_some() {
            let vars = self.inputs.parameters.vars();
            let means = vars.iter().map(|(name, var)| {
                state.take(checkpoint, &format!("{name}.average"), var.elem_count())
            });
            self.average = Some(Average::from_means(means.collect::<Result<_, _>>()?));
        }
        self.taken = state.step;
        self.images = state.images;
        self.seen_before = state.images;
        self.best = state.best.map(|(score, epoch)| (score, epoch, None));
        Ok(())
    }

    fn keep(&self, checkpoint: &Checkpoint<'_>) -> Result<(), TrainingError> {
        let mut arrays = BTreeMap::new();
        for (name, var) in self.vars() {
            arrays.insert(name, var.flatten_all()?.to_vec1()?);
        }
        let (optimizer_steps, moments) = self.optimizer.state();
        arrays.extend(moments.into_iter().map(|(name, values)| (name, values.to_vec())));
        if let Some(average) = &self.average {
            let names = self.inputs.parameters.vars().into_iter();
            let names = names.map(|(name, _)| format!("{name}.average"));
            arrays.extend(names.zip(average.means().iter().cloned()));
        }
        let state = RunState {
            step: self.taken,
            images: self.images,
            optimizer_steps,
            best: self.best.as_ref().map(|(score, epoch, _)| (*score, *epoch)),
            arrays,
        };
        state.save(checkpoint)
    }

    /// Whether validation got no better for as long as the recipe has patience.
    fn is_stuck(&self) -> bool {
        let patience = self.inputs.recipe.patience;
        let epoch = self.taken / self.an_epoch;
        let since = self.best.as_ref().map_or(0, |(_, best, _)| epoch - best);
        patience > 0 && since >= patience
    }

    fn step(
        &mut self,
        batch: Loaded,
        progress: &dyn Fn(FineTuneProgress),
    ) -> Result<(), TrainingError> {
        let rate = self.schedule.at(self.taken);
        self.taken += 1;
        let FineTuneInputs { recipe, pictures, device, .. } = self.inputs;
        let shown: Vec<&TrainPicture> =
            batch.files.iter().map(|file| &pictures[self.by_file[file]]).collect();
        // Skipped files may leave too little to compare.
        if shown.len() >= 2 {
            let parts = self.losses(&batch, &shown, device)?;
            let mut loss = Tensor::new(0.0_f32, device)?;
            for (name, part) in &parts {
                let value = f64::from(part.to_scalar::<f32>()?);
                *self.window.parts.entry((*name).to_owned()).or_default() += value;
                loss = (loss + part)?;
            }
            let value = loss.to_scalar::<f32>()?;
            let norm = if value.is_finite() {
                self.optimizer.step(&loss.backward()?, rate)?
            } else {
                f64::NAN
            };
            if !norm.is_finite() {
                return Err(TrainingError::NotANumber {
                    step: self.taken,
                    learning_rate: rate,
                    files: self.inputs.files.names(&batch.files),
                });
            }
            if let Some(average) = &mut self.average {
                average.follow(self.inputs.parameters, recipe.optimizer.average, self.taken - 1)?;
            }
            self.window.loss += f64::from(value);
            self.window.norm += norm;
            self.window.steps += 1;
            self.images += shown.len();
            progress(FineTuneProgress {
                epoch: (self.taken - 1) / self.an_epoch + 1,
                step: self.taken,
                steps: self.an_epoch * recipe.epochs,
                loss: value,
                images_per_second: self.pace(),
                waiting: self.waiting(),
            });
        }
        Ok(())
    }

    fn losses(
        &self,
        batch: &Loaded,
        shown: &[&TrainPicture],
        device: &Device,
    ) -> Result<Vec<(&'static str, Tensor)>, TrainingError> {
        let side = self.inputs.model.vision.image_size;
        let pixels = Tensor::from_slice(&batch.pixels, (shown.len(), 3, side, side), device)?;
        let features = self.clip.image_features(&pixels)?;
        let unit = normalise(&features)?;
        let labels: Vec<u32> = shown.iter().map(|picture| picture.hand).collect();
        let mut parts = self.heads.losses(&features, &unit, &labels)?;
        if let Some(loss) = &self.inputs.recipe.losses.info_nce {
            let attributes: Vec<&HandAttributes> =
                shown.iter().map(|picture| &picture.attributes).collect();
            let seed = self.inputs.recipe.seed.wrapping_add(self.taken as u64);
            let (texts, matches) = describe(&attributes, seed, device)?;
            let tokens = Tensor::new((self.inputs.tokens)(&texts)?, device)?;
            let texts = normalise(&self.clip.text_features(&tokens)?)?;
            let scale = self.clip.logit_scale().exp()?.minimum(f64::from(MAX_LOGIT_SCALE))?;
            let part = matching_info_nce(&unit, &texts, &matches, &scale)?;
            parts.push(("info_nce", (part * loss.weight)?));
        }
        Ok(parts)
    }

    /// Validates; says whether to stop because nothing got better for long enough.
    fn end_epoch(&mut self, validate: &mut ValidateEpoch<'_>) -> Result<bool, TrainingError> {
        let pause = Instant::now();
        let epoch = self.taken / self.an_epoch;
        let window = std::mem::take(&mut self.window);
        let steps = window.steps.max(1) as f64;
        let report = EpochReport {
            epoch,
            step: self.taken,
            loss: window.loss / steps,
            parts: window.parts.into_iter().map(|(name, sum)| (name, sum / steps)).collect(),
            gradient_norm: window.norm / steps,
            learning_rate: self.schedule.at(self.taken - 1),
            images_per_second: self.pace(),
            waiting: self.waiting(),
            best_score: self.best.as_ref().map(|(score, ..)| *score),
        };
        let now = self.weights()?;
        let score = validate(&now, &report)?;
        if self.best.as_ref().is_none_or(|(top, ..)| score > *top) {
            self.best = Some((score, epoch, Some(now)));
        }
        if let Some(checkpoint) = &self.inputs.checkpoint {
            self.keep(checkpoint)?;
        }
        self.paused += pause.elapsed();
        Ok(self.is_stuck())
    }

    fn weights(&self) -> Result<Parameters, TrainingError> {
        match &self.average {
            Some(average) => average.parameters(self.inputs.parameters),
            None => Ok(self.inputs.parameters.snapshot()?),
        }
    }

    fn pace(&self) -> f64 {
        let seconds = self.started.elapsed().saturating_sub(self.paused).as_secs_f64();
        (self.images - self.seen_before) as f64 / seconds.max(1e-9)
    }

    fn waiting(&self) -> f64 {
        let seconds = self.started.elapsed().saturating_sub(self.paused).as_secs_f64();
        self.waited.as_secs_f64() / seconds.max(1e-9)
    }

    fn finish(mut self) -> Result<FineTuned, TrainingError> {
        let waiting = self.waiting();
        let stopped_early = self.is_stuck();
        let (best_score, best_epoch, best) = match self.best.take() {
            Some((score, epoch, weights)) => (Some(score), epoch, weights),
            None => (None, 0, Some(self.weights()?)),
        };
        Ok(FineTuned {
            best,
            best_score,
            best_epoch,
            steps: self.taken,
            images: self.images,
            stopped_early,
            waiting,
        })
    }
}

/// Whether a parameter is handed to the optimiser: not frozen, and reached by a loss.
fn moves(name: &str, freeze: &Freeze, with_text: bool) -> bool {
    let of_text = name.starts_with("text_") || name == "logit_scale";
    !freeze.holds(name) && (with_text || !of_text)
}

/// How far from the image tower's end a parameter lies, in blocks; 0 for what is not in a block.
fn depth(name: &str, blocks: usize) -> i32 {
    let depth = match block_of(name) {
        Some(block) => blocks - block,
        None if name.starts_with("vision_model.embeddings.")
            || name.starts_with("vision_model.pre_layrnorm.") =>
        {
            blocks + 1
        }
        None => 0,
    };
    i32::try_from(depth).unwrap_or(i32::MAX)
}

impl PictureFiles {
    fn names(&self, files: &[usize]) -> Vec<PathBuf> {
        files.iter().map(|file| self.path(*file).to_path_buf()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_near_the_start_are_the_deepest() {
        assert_eq!(depth("vision_model.embeddings.class_embedding", 12), 13);
        assert_eq!(depth("vision_model.encoder.layers.0.mlp.fc1.weight", 12), 12);
        assert_eq!(depth("vision_model.encoder.layers.11.mlp.fc1.weight", 12), 1);
        assert_eq!(depth("visual_projection.weight", 12), 0);
        assert_eq!(depth("heads.classifier", 12), 0);
    }

    #[test]
    fn what_no_loss_reaches_is_left_alone() {
        let none = Freeze::default();
        assert!(!moves("text_projection.weight", &none, false));
        assert!(!moves("logit_scale", &none, false));
        assert!(moves("logit_scale", &none, true));
        assert!(moves("visual_projection.weight", &none, false));
        assert!(!moves("text_projection.weight", &Freeze { text: true, ..none }, true));
    }
}
