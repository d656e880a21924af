use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::image::Preprocessing;
use crate::model::{Clip, ClipConfig, ModelError, Parameters, normalise};

use super::augment::Augment;
use super::config::PretrainConfig;
use super::dataset::LabelledPixels;
use super::error::TrainingError;
use super::init::spatial_start;
use super::log::Epoch;
use super::loss::{contradiction_info_nce, matching_info_nce, sup_con, trait_error};
use super::optimizer::{AdamW, AdamWConfig};
use super::prompts::{Claim, Facts, Feature, Prompts, Question};
use super::sampler::PkSampler;
use super::schedule::WarmupCosine;

/// Largest factor on the cosines of the image-text loss, as in CLIP.
const MAX_LOGIT_SCALE: f32 = 100.0;

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
    trained.push(("anchors.scale".to_owned(), anchors.directions.clone()));
    let optimizer_config = AdamWConfig {
        weight_decay: config.weight_decay,
        clip_norm: config.clip_norm,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(&trained, optimizer_config);
    let schedule =
        WarmupCosine { peak: config.learning_rate, warmup: config.warmup, steps: config.steps };
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
        let rate = schedule.at(step);
        if !value.is_finite() {
            return Err(TrainingError::Diverged {
                step: step + 1,
                loss: value,
                learning_rate: rate,
            });
        }
        let norm = optimizer.step(&loss.backward()?, rate)?;
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

/// Predicts what describes a hand from its embedding. It shows the image tower what to look at long
/// before telling people apart does, and is thrown away after training.
struct TraitHead {
    weight: Var,
    bias: Var,
}

impl TraitHead {
    /// Weights start at random: from zero, neither they nor the tower would get a gradient for what the
    /// tower does not see yet.
    fn new(traits: usize, dim: usize, seed: u64, device: &Device) -> Result<Self, TrainingError> {
        let traits = traits.max(1);
        let bound = 0.5 * (3.0 / dim as f32).sqrt();
        let weight = uniform(&[traits, dim], bound, seed ^ 0x7a17, device)?;
        Ok(Self { weight, bias: Var::zeros(traits, DType::F32, device)? })
    }

    fn vars(&self) -> [(String, Var); 2] {
        [
            ("traits.scale".to_owned(), self.weight.clone()),
            ("traits.bias".to_owned(), self.bias.clone()),
        ]
    }

    /// embeddings: [batch, dim], unit rows; the result is [batch, traits].
    fn forward(&self, embeddings: &Tensor) -> candle_core::Result<Tensor> {
        let size = (embeddings.dim(1)? as f64).sqrt();
        ((embeddings * size)?.matmul(&self.weight.t()?)?).broadcast_add(&self.bias)
    }
}

fn uniform(shape: &[usize], bound: f32, seed: u64, device: &Device) -> Result<Var, TrainingError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
    Ok(Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?)
}

/// A learned direction for each answer to each question, in the place of prompts: the text tower starts
/// with nearly one direction for all prompts and the image tower with one for all hands, and while neither
/// tells sides apart neither gets a gradient to. Thrown away after training.
struct Anchors {
    directions: Var,
    sets: Vec<(Vec<Claim>, f64)>,
}

impl Anchors {
    fn new(dim: usize, seed: u64, device: &Device) -> Result<Self, TrainingError> {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut claims = |question| -> Vec<Claim> {
            Prompts::contradicting(question, rng).into_iter().map(|(_, claim)| claim).collect()
        };
        let mut sets = vec![(claims(Question::Kind), 1.0)];
        for feature in Feature::ALL {
            let weight = if feature == Feature::Accessories { 1.0 } else { 0.3 };
            sets.push((claims(Question::Worn(feature)), weight));
        }
        let count = sets.iter().map(|(claims, _)| claims.len()).sum();
        Ok(Self { directions: uniform(&[count, dim], 1.0, seed ^ 0xa2c4, device)?, sets })
    }

    fn loss(
        &self,
        images: &Tensor,
        facts: &[Facts],
        scale: &Tensor,
    ) -> Result<Tensor, TrainingError> {
        let directions = normalise(self.directions.as_tensor())?;
        let mut loss = Tensor::new(0.0_f32, images.device())?;
        let mut start = 0;
        for (claims, weight) in &self.sets {
            let matches = matches(facts, claims, images.device())?;
            let set = directions.narrow(0, start, claims.len())?;
            let part = contradiction_info_nce(images, &set, &matches, scale)?;
            loss = (loss + (part * *weight)?)?;
            start += claims.len();
        }
        Ok(loss)
    }
}

/// `[facts, claims]`, 1 where a claim is true.
fn matches(facts: &[Facts], claims: &[Claim], device: &Device) -> candle_core::Result<Tensor> {
    let holds = |facts: &Facts, claim: &Claim| f32::from(u8::from(claim.holds(facts)));
    let values: Vec<f32> = facts
        .iter()
        .flat_map(|facts| claims.iter().map(move |claim| holds(facts, claim)))
        .collect();
    Tensor::from_vec(values, (facts.len(), claims.len()), device)
}

struct Batch {
    /// `[batch, 3, size, size]`
    pixels: Tensor,
    /// The hand of each picture.
    labels: Vec<u32>,
    /// What is true of each picture.
    facts: Vec<Facts>,
    /// `[batch, traits]`, not a number where unknown.
    traits: Vec<f32>,
    /// `[prompts, tokens]`
    tokens: Tensor,
    /// `[batch, prompts]`, 1 where a prompt is true of a picture.
    matches: Tensor,
    /// How many prompts describe pictures of the batch; the contradicting ones follow.
    described: usize,
    /// How many prompts each set of contradicting ones has.
    sets: Vec<usize>,
}

impl Batch {
    fn draw(
        inputs: &Inputs<'_>,
        sampler: &mut PkSampler,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let indices = sampler.batch();
        let seed = sampler.draw_seed();
        let data = inputs.data;
        let size = inputs.augment.size;
        let pixels: Vec<Vec<f32>> = indices
            .par_iter()
            .enumerate()
            .map(|(i, &index)| {
                let seed = seed.wrapping_add(i as u64);
                let changed = inputs.augment.apply(data.picture(index), data.size, seed);
                inputs.preprocessing.normalise(&changed)
            })
            .collect();
        let n = indices.len();
        let pixels = Tensor::from_vec(pixels.concat(), (n, 3, size, size), device)?;
        let labels: Vec<u32> = indices.iter().map(|i| data.hands[*i]).collect();
        let facts: Vec<Facts> = indices.iter().map(|i| data.facts[*i]).collect();
        let (mut texts, mut claims) = prompts(&facts, inputs.config.prompts, seed);
        let described = texts.len();
        let sets: Vec<Vec<(String, Claim)>> = questions(seed);
        let sizes = sets.iter().map(Vec::len).collect();
        for (text, claim) in sets.into_iter().flatten() {
            texts.push(text);
            claims.push(claim);
        }
        Ok(Self {
            pixels,
            labels,
            traits: indices.iter().flat_map(|i| data.traits_of(*i)).copied().collect(),
            tokens: padded(&(inputs.encode)(&texts)?, device)?,
            matches: matches(&facts, &claims, device)?,
            described,
            sets: sizes,
            facts,
        })
    }

    /// InfoNCE against the prompts that describe pictures of the batch, and within each set of
    /// contradicting ones: the first alone is slow to learn what two prompts differ in, because most
    /// prompts are true of many pictures.
    fn text_loss(
        &self,
        images: &Tensor,
        texts: &Tensor,
        scale: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let part = |start: usize, len: usize| -> candle_core::Result<(Tensor, Tensor)> {
            let matches = self.matches.narrow(1, start, len)?.contiguous()?;
            Ok((texts.narrow(0, start, len)?, matches))
        };
        let (prompts, matches) = part(0, self.described)?;
        let mut loss = matching_info_nce(images, &prompts, &matches, scale)?;
        let mut start = self.described;
        for &len in &self.sets {
            let (prompts, matches) = part(start, len)?;
            loss = (loss + contradiction_info_nce(images, &prompts, &matches, scale)?)?;
            start += len;
        }
        Ok(loss)
    }
}

/// `[texts, tokens]`, short ones filled up with their last token.
pub(super) fn padded(ids: &[Vec<u32>], device: &Device) -> candle_core::Result<Tensor> {
    let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
    let values: Vec<u32> = ids
        .iter()
        .flat_map(|row| (0..longest).map(move |i| row.get(i).or(row.last()).copied().unwrap_or(0)))
        .collect();
    Tensor::from_vec(values, (ids.len(), longest), device)
}

/// Prompts of randomly picked pictures, no claim twice.
fn prompts(facts: &[Facts], wanted: usize, seed: u64) -> (Vec<String>, Vec<Claim>) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x7e47);
    let (mut texts, mut claims) = (Vec::new(), Vec::new());
    for _ in 0..wanted * 4 {
        if texts.len() == wanted {
            break;
        }
        let (text, claim) = Prompts::describe(&facts[rng.random_range(0..facts.len())], rng);
        if !claims.contains(&claim) {
            texts.push(text);
            claims.push(claim);
        }
    }
    (texts, claims)
}

/// Contradicting prompts for a batch: always about the kind of hand and about accessories, and one more
/// question at random.
fn questions(seed: u64) -> Vec<Vec<(String, Claim)>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9e57);
    let feature = Feature::ALL[rng.random_range(0..Feature::ALL.len())];
    let third = match rng.random_range(0..4) {
        0 => Question::Aspect,
        1 => Question::Side,
        2 => Question::Worn(feature),
        _ => Question::KindAndWorn(feature),
    };
    [Question::Kind, Question::Worn(Feature::Accessories), third]
        .into_iter()
        .map(|question| Prompts::contradicting(question, rng))
        .collect()
}

/// Moving average of the weights: generalises better than the last step's.
struct Average(Vec<Vec<f32>>);

impl Average {
    fn of(parameters: &Parameters) -> Result<Self, TrainingError> {
        let values = parameters
            .vars()
            .iter()
            .map(|(_, var)| var.flatten_all()?.to_vec1())
            .collect::<candle_core::Result<_>>()?;
        Ok(Self(values))
    }

    fn follow(
        &mut self,
        parameters: &Parameters,
        decay: f64,
        step: usize,
    ) -> Result<(), TrainingError> {
        // Young averages forget faster, or they would hold the random start for long.
        let decay = decay.min((step as f64 + 1.0) / (step as f64 + 10.0)) as f32;
        for (mean, (_, var)) in self.0.iter_mut().zip(parameters.vars()) {
            let now = var.flatten_all()?.to_vec1::<f32>()?;
            for (m, v) in mean.iter_mut().zip(now) {
                *m += (v - *m) * (1.0 - decay);
            }
        }
        Ok(())
    }

    fn parameters(&self, like: &Parameters) -> Result<Parameters, TrainingError> {
        let copy = like.snapshot()?;
        for (mean, (_, var)) in self.0.iter().zip(copy.vars()) {
            var.set(&Tensor::from_vec(mean.clone(), var.dims(), var.device())?)?;
        }
        Ok(copy)
    }
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
