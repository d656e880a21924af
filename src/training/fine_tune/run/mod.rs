mod epoch;
mod resume;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use crate::model::{Adapters, Clip, Parameters, normalise};
use crate::tensor::backward;
use crate::training::average::Average;
use crate::training::error::TrainingError;
use crate::training::loss::matching_info_nce;
use crate::training::optimizer::Optimizer;
use crate::training::schedule::Schedule;
use crate::training::trainer::MAX_LOGIT_SCALE;

use super::features::{Features, Memory, absorb};
use super::heads::IdentityHeads;
use super::loader::{Loaded, PictureFiles, Shot, prefetched};
use super::plan::{augment, depth, draw_flip, moves, optimizer_config, sampler, schedule};
use super::prompt_learning::learn_prompts;
use super::prompts::{Said, describe, tell_apart};
use super::recipe::Precision;
use super::state::RunState;
use super::types::{FineTuneInputs, FineTuneProgress, FineTuned, Stage, ValidateEpoch};

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
    let mut sampler = sampler(inputs.pictures, recipe)?;
    let of_a_step = recipe.batch.hands * recipe.batch.images * recipe.batch.accumulate;
    let drawn = inputs.pictures.len() - sampler.left_out().len();
    let an_epoch = (drawn / of_a_step).max(1);
    let steps = an_epoch * recipe.epochs;
    let mut run = Run::new(inputs, an_epoch, steps, progress, cancel)?;
    // A run that goes on draws what it drew before, and sees the same pictures from there on.
    let mut planned = 0;
    while planned < run.taken * recipe.batch.accumulate {
        sampler.batch();
        sampler.draw_seed();
        planned += 1;
    }
    let pictures = inputs.pictures;
    let over = run.is_stuck();
    let plan = move || {
        if over || planned >= steps * recipe.batch.accumulate || cancel.load(Ordering::Relaxed) {
            return None;
        }
        planned += 1;
        let (batch, seed) = (sampler.batch(), sampler.draw_seed());
        let shot = |at: usize| Shot {
            file: pictures[at].file,
            flip: draw_flip(&recipe.augment, seed, pictures[at].hand),
        };
        Some((batch.into_iter().map(shot).collect(), seed))
    };
    let augment = augment(&recipe.augment, inputs.model.vision.image_size);
    prefetched(inputs.files, &augment, plan, move |queue| {
        loop {
            let waited = Instant::now();
            let Ok(batch) = queue.recv() else { break };
            run.waited += waited.elapsed();
            // Batches that were made ahead are not waited for.
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            let stepped = run.batch(batch?, progress)?;
            if stepped && run.taken.is_multiple_of(an_epoch) {
                match run.end_epoch(validate) {
                    Ok(false) => {}
                    Ok(true) | Err(TrainingError::Cancelled) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        run.finish()
    })
}

/// Value of each weighted loss, by name.
type LossValues = Vec<(&'static str, f64)>;

/// A run between its first and its last step.
struct Run<'a> {
    inputs: FineTuneInputs<'a>,
    clip: Clip,
    adapters: Option<Adapters>,
    heads: IdentityHeads,
    /// Text features of the learned prompts.
    prompts: Option<Tensor>,
    optimizer: Optimizer,
    schedule: Schedule,
    /// How often the plateau schedule cut the rate, and the epoch of the last time.
    cuts: usize,
    last_cut: usize,
    average: Option<Average>,
    /// Score, epoch, and the weights unless they are older than this process.
    best: Option<(f64, usize, Option<Parameters>)>,
    by_file: HashMap<usize, usize>,
    an_epoch: usize,
    /// Hands; a mirrored hand has a number beyond them.
    hands: u32,
    taken: usize,
    /// Gradients of the batches since the last step, and how many those were.
    gathered: (GradStore, usize),
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
    parts: BTreeMap<String, f64>,
    batches: usize,
    /// Loss of the last batch.
    last: f64,
    norm: f64,
    steps: usize,
}

impl<'a> Run<'a> {
    fn new(
        inputs: FineTuneInputs<'a>,
        an_epoch: usize,
        steps: usize,
        progress: &dyn Fn(FineTuneProgress),
        cancel: &AtomicBool,
    ) -> Result<Self, TrainingError> {
        let recipe = inputs.recipe;
        let FineTuneInputs { parameters, device, .. } = inputs;
        let settings = &recipe.optimizer;
        let hands = inputs.pictures.iter().map(|picture| picture.hand + 1).max().unwrap_or(0);
        let mirrors = recipe.augment.horizontal_flip > 0.0 || recipe.augment.vertical_flip > 0.0;
        let classes = hands as usize * if mirrors { 2 } else { 1 };
        let dim = inputs.model.projection_dim;
        let heads = IdentityHeads::new(&recipe.losses, classes, dim, recipe.seed, device)?;
        let with_text = recipe.losses.info_nce.is_some();
        let mut said = inputs.pictures.iter().map(|picture| &picture.attributes);
        if with_text && !tell_apart(&recipe.prompts, &mut said) {
            return Err(TrainingError::NoPrompts);
        }
        let wanted = |name: &str| moves(name, &recipe.freeze, with_text);
        let adapters = match &recipe.lora {
            Some(lora) => {
                let (rank, alpha) = (lora.rank, lora.alpha);
                Some(Adapters::on_attention(parameters, rank, alpha, recipe.seed, &wanted)?)
            }
            None => None,
        };
        // With adapters the towers themselves stay.
        let learns = |name: &str| wanted(name) && (adapters.is_none() || name == "logit_scale");
        let mut trained: Vec<_> = parameters.vars();
        trained.retain(|(name, _)| learns(name));
        trained.extend(adapters.iter().flat_map(Adapters::vars));
        // Heads are thrown away, and the factor on cosines alone changes no embedding.
        if trained.iter().all(|(name, _)| name == "logit_scale") {
            return Err(TrainingError::NothingLearns);
        }
        trained.extend(heads.vars());
        let mut optimizer = Optimizer::new(&trained, optimizer_config(settings))?;
        let blocks = inputs.model.vision.num_hidden_layers;
        optimizer.scale_rates(|name| settings.layer_decay.powi(depth(name, blocks)));
        let dtype = match recipe.compute.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let clip = Clip::learning(inputs.model, parameters, &learns, adapters.as_ref(), dtype)?;
        let mut run = Self {
            clip,
            adapters,
            heads,
            prompts: None,
            optimizer,
            schedule: schedule(settings, an_epoch, steps),
            cuts: 0,
            last_cut: 0,
            average: match settings.average > 0.0 {
                true => Some(Average::of(parameters)?),
                false => None,
            },
            best: None,
            by_file: inputs.pictures.iter().enumerate().map(|(at, p)| (p.file, at)).collect(),
            an_epoch,
            hands,
            taken: 0,
            gathered: (GradStore::default(), 0),
            images: 0,
            seen_before: 0,
            started: Instant::now(),
            paused: Duration::ZERO,
            waited: Duration::ZERO,
            window: Window::default(),
            inputs,
        };
        // Of the start, also where the run goes on from weights that have moved since.
        let scale = f64::from(run.clip.logit_scale().exp()?.to_scalar::<f32>()?);
        if let Some(checkpoint) = &inputs.checkpoint
            && let Some(state) = RunState::load(checkpoint)?
        {
            run.go_on(checkpoint, state, scale)?;
        } else if let Some(stage) = &recipe.prompt_learning {
            run.compare_with(learn_prompts(inputs, stage, progress, cancel)?, scale);
        }
        run.started = Instant::now();
        Ok(run)
    }

    /// scale: what cosines with learned prompts are multiplied by.
    fn compare_with(&mut self, prompts: Tensor, scale: f64) {
        self.heads.compare_with(prompts.clone(), scale);
        self.prompts = Some(prompts);
    }

    /// Takes a batch; says whether that made a step complete.
    fn batch(
        &mut self,
        batch: Loaded,
        progress: &dyn Fn(FineTuneProgress),
    ) -> Result<bool, TrainingError> {
        let accumulate = self.inputs.recipe.batch.accumulate;
        // Skipped files may leave too little to compare.
        if batch.shots.len() >= 2 {
            let (parts, grads) = self.gradients(&batch)?;
            for (name, value) in &parts {
                *self.window.parts.entry((*name).to_owned()).or_default() += value;
            }
            self.window.last = parts.iter().map(|(_, value)| value).sum();
            self.window.loss += self.window.last;
            self.window.batches += 1;
            self.images += batch.shots.len();
            match accumulate {
                1 => self.gathered.0 = grads,
                _ => absorb(&mut self.gathered.0, grads, self.optimizer.vars())?,
            }
        }
        self.gathered.1 += 1;
        if self.gathered.1 < accumulate {
            return Ok(false);
        }
        let (grads, _) = std::mem::take(&mut self.gathered);
        self.step(&grads, &batch)?;
        progress(FineTuneProgress {
            stage: Stage::Towers,
            epoch: (self.taken - 1) / self.an_epoch + 1,
            step: self.taken,
            steps: self.an_epoch * self.inputs.recipe.epochs,
            loss: self.window.last as f32,
            images_per_second: self.pace(),
            waiting: self.waiting(),
        });
        Ok(true)
    }

    fn step(&mut self, grads: &GradStore, batch: &Loaded) -> Result<(), TrainingError> {
        let rate = self.schedule.at(self.taken, self.cuts);
        let norm = self.optimizer.step(grads, rate)?;
        self.taken += 1;
        if !norm.is_finite() {
            return Err(self.not_a_number(self.taken, batch));
        }
        if let Some(average) = &mut self.average {
            let decay = self.inputs.recipe.optimizer.average;
            average.follow(self.inputs.parameters, decay, self.taken - 1)?;
        }
        self.window.norm += norm;
        self.window.steps += 1;
        Ok(())
    }

    fn not_a_number(&self, step: usize, batch: &Loaded) -> TrainingError {
        TrainingError::NotANumber {
            step,
            learning_rate: self.schedule.at(step - 1, self.cuts),
            files: self.inputs.files.names(&batch.files()),
        }
    }

    /// Weighted losses of a batch and the gradients of their sum, divided by the batches of a step.
    fn gradients(&self, batch: &Loaded) -> Result<(LossValues, GradStore), TrainingError> {
        let FineTuneInputs { recipe, device, model, .. } = self.inputs;
        let memory = Memory { micro: recipe.batch.micro, recompute: recipe.compute.recompute };
        let side = model.vision.image_size;
        let shape = (batch.shots.len(), 3, side, side);
        let pixels = Tensor::from_slice(&batch.pixels, shape, device)?;
        let images =
            Features::compute(memory, &pixels, |part| self.clip.image_stages(part.clone()))?;
        let texts = match &recipe.losses.info_nce {
            Some(loss) => Some((self.texts(batch, memory)?, loss.weight)),
            None => None,
        };
        let unit = normalise(images.tensor())?;
        let labels: Vec<u32> = batch.shots.iter().map(|shot| self.label(*shot)).collect();
        let mut parts = self.heads.losses(images.tensor(), &unit, &labels)?;
        if let Some(((texts, matches), weight)) = &texts {
            let scale = self.clip.logit_scale().exp()?.minimum(f64::from(MAX_LOGIT_SCALE))?;
            let part = matching_info_nce(&unit, &normalise(texts.tensor())?, matches, &scale)?;
            parts.push(("info_nce", (part * *weight)?));
        }
        let mut sum = Tensor::new(0.0_f32, device)?;
        let mut values = Vec::with_capacity(parts.len());
        for (name, part) in parts {
            values.push((name, f64::from(part.to_scalar::<f32>()?)));
            sum = (sum + part)?;
        }
        if !values.iter().all(|(_, value)| value.is_finite()) {
            return Err(self.not_a_number(self.taken + 1, batch));
        }
        let mut grads = backward(&(sum * (recipe.batch.accumulate as f64).recip())?)?;
        let vars: Vec<Var> = self.optimizer.vars().cloned().collect();
        images.backward(&mut grads, vars.iter())?;
        if let Some(((texts, _), _)) = texts {
            texts.backward(&mut grads, vars.iter())?;
        }
        Ok((values, grads))
    }

    /// Features of the batch's prompts, and which are whose.
    fn texts(
        &self,
        batch: &Loaded,
        memory: Memory,
    ) -> Result<(Features<'_>, Tensor), TrainingError> {
        let FineTuneInputs { recipe, device, pictures, .. } = self.inputs;
        let said: Vec<Said<'_>> = batch
            .shots
            .iter()
            .map(|shot| {
                let picture = &pictures[self.by_file[&shot.file]];
                Said::of(&picture.attributes, shot.flip.mirrors())
            })
            .collect();
        let number = self.taken * recipe.batch.accumulate + self.gathered.1 + 1;
        let seed = recipe.seed.wrapping_add(number as u64);
        let (texts, matches) = describe(&recipe.prompts, &said, seed, device)?;
        let tokens = Tensor::new((self.inputs.tokens)(&texts)?, device)?;
        Ok((Features::compute(memory, &tokens, |ids| self.clip.text_stages(ids))?, matches))
    }

    fn label(&self, shot: Shot) -> u32 {
        let hand = self.inputs.pictures[self.by_file[&shot.file]].hand;
        if shot.flip.mirrors() { self.hands + hand } else { hand }
    }
}

impl PictureFiles<'_> {
    fn names(&self, files: &[usize]) -> Vec<PathBuf> {
        files.iter().map(|file| self.path(*file).to_path_buf()).collect()
    }
}
