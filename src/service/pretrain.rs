//! Pre-training of the embedded model on generated hands.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::image::{Framing, Preprocessing};
use crate::model::{ClipConfig, Embedder, ModelError, ModelParts, Parameters, Tokenizer};
use crate::storage::file::write_atomic;
use crate::synth::{HANDS, SynthSample, SynthSpec};
use crate::training::{
    Augment, Facts, Inputs, LabelledPixels, PretrainConfig, Progress, Prompts, RunLog,
    TrainingError, pretrain, train_tokenizer,
};

use super::nano_card::{CardError, Figures, Label, embed, score};

/// Side of the embedded model's input, pixels.
const SIZE: u32 = 96;
/// Pictures are kept a little larger than the input, so that augmentation does not read over the edge.
const STORED: u32 = 104;
/// Pictures validated at a time.
const CHUNK: usize = 64;
/// The people of validation are drawn from a population of their own.
const VALIDATION_SEED: u64 = 0x7a11;

/// What to train and where to put it.
#[derive(Debug, Clone)]
pub struct PretrainOptions {
    /// Settings of the run.
    pub config: PretrainConfig,
    /// Generated people to train on.
    pub subjects: u64,
    /// Pictures of each of a person's four hands.
    pub images: u64,
    /// Generated people that validation is done on.
    pub validation_subjects: u64,
    /// Folder of the run: `metrics.jsonl` and `best/`, a Hugging Face directory.
    pub out: PathBuf,
}

impl PretrainOptions {
    /// What the embedded model was made with.
    #[must_use]
    pub fn nano(out: impl Into<PathBuf>) -> Self {
        Self {
            config: PretrainConfig::default(),
            subjects: 5000,
            images: 4,
            validation_subjects: 100,
            out: out.into(),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct PretrainSummary {
    /// Steps taken.
    pub steps: usize,
    /// Training pictures seen, repetitions counted.
    pub images_seen: usize,
    /// Different training pictures.
    pub images: usize,
    /// Step of the best weights.
    pub best_step: usize,
    /// Figures of the best weights on the validation people.
    pub best: Option<Figures>,
    /// Where the best weights lie.
    pub model: PathBuf,
}

/// What happens, for a progress bar.
#[derive(Debug, Clone)]
pub enum PretrainProgress {
    /// Pictures are being drawn.
    Drawing {
        /// Pictures in all.
        total: usize,
    },
    /// A step was taken.
    Training(Progress),
    /// The averaged weights were scored.
    Validated {
        /// Steps taken.
        step: usize,
        /// The figures.
        figures: Box<Figures>,
    },
}

/// Why pre-training failed.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// The run's folder holds something already.
    #[error("{path} is not empty: name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// The training room stopped.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The model room refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Preprocessing or a photograph was refused.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A file could not be written.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    /// A folder could not be made.
    #[error("cannot make {path}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What validation maximises: identity, as far as the prompts hold up too.
fn merit(figures: &Figures) -> f64 {
    let upto = |share: Option<f64>, most: f64| share.unwrap_or(0.0).min(most);
    figures.rank1 + 0.5 * upto(figures.aspect_side, 0.98) + 0.5 * upto(figures.accessories, 0.95)
}

/// Shape of the embedded model.
#[must_use]
pub fn nano_config(vocabulary: usize) -> String {
    let end = vocabulary - 1;
    serde_json::json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 128,
        "logit_scale_init_value": 2.6592,
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 512,
            "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIZE, "patch_size": 16,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 128,
        },
        "text_config": {
            "model_type": "clip_text_model", "hidden_size": 96, "intermediate_size": 384,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": vocabulary,
            "max_position_embeddings": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end, "projection_dim": 128,
        },
    })
    .to_string()
}

/// Trains the embedded model.
///
/// # Errors
/// [`PretrainError`].
pub fn pretrain_nano(
    options: &PretrainOptions,
    progress: &dyn Fn(PretrainProgress),
    cancel: &AtomicBool,
) -> Result<PretrainSummary, PretrainError> {
    let out = &options.out;
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PretrainError::NotEmpty(out.clone()));
    }
    let best_dir = out.join("best");
    std::fs::create_dir_all(&best_dir)
        .map_err(|source| PretrainError::Folder { path: best_dir.clone(), source })?;
    let seed = options.config.seed;
    let corpus = Prompts::corpus(&mut ChaCha8Rng::seed_from_u64(seed));
    let tokenizer = train_tokenizer(&corpus, 400);
    let config = ClipConfig::from_json(&nano_config(tokenizer.vocabulary))?;
    let tokenizer_json = tokenizer.json.to_string();
    let tokenizer = Tokenizer::from_bytes(tokenizer_json.as_bytes(), &config)?;
    let preprocessing = Preprocessing::clip(SIZE).with_framing(Framing::Squash);

    let train = SynthSpec {
        first: 0,
        subjects: options.subjects,
        images: options.images,
        seed,
        size: STORED,
    };
    let held_out = SynthSpec {
        subjects: options.validation_subjects,
        images: 3,
        seed: VALIDATION_SEED,
        size: SIZE,
        ..train
    };
    progress(PretrainProgress::Drawing { total: train.len() + held_out.len() });
    let (data, validation) = (draw(&train), draw(&held_out));
    let mut log = RunLog::open(out)?;
    let encode = |texts: &[String]| -> Result<Vec<Vec<u32>>, ModelError> {
        texts.iter().map(|text| tokenizer.encode(text)).collect()
    };
    let inputs = Inputs {
        model: &config,
        encode: &encode,
        preprocessing: &preprocessing,
        data: &data,
        augment: Augment::standard(SIZE as usize),
        config: &options.config,
    };
    let mut best: Option<Figures> = None;
    let outcome = pretrain(
        inputs,
        &Device::Cpu,
        &mut |parameters, mut epoch| {
            let parts = ModelParts {
                config: &config,
                parameters,
                tokenizer: tokenizer_json.as_bytes(),
                preprocessing: preprocessing.clone(),
                device: &Device::Cpu,
            };
            let embedder = Embedder::from_parts("nano", parts)?;
            let figures = validate(&embedder, &validation)
                .map_err(|error| TrainingError::Callback(Box::new(error)))?;
            epoch.score = merit(&figures);
            log.write(&serde_json::json!({"epoch": epoch, "validation": figures}))?;
            let step = epoch.step;
            let shown = Box::new(figures.clone());
            progress(PretrainProgress::Validated { step, figures: shown });
            if best.as_ref().is_none_or(|best| epoch.score > merit(best)) {
                best = Some(figures);
                save(&best_dir, &config, parameters, &tokenizer_json, &preprocessing)
                    .map_err(|error| TrainingError::Callback(Box::new(error)))?;
            }
            Ok(epoch.score)
        },
        &|step| progress(PretrainProgress::Training(step)),
        cancel,
    )?;
    if best.is_none() {
        save(&best_dir, &config, &outcome.best, &tokenizer_json, &preprocessing)?;
    }
    Ok(PretrainSummary {
        steps: outcome.steps,
        images_seen: outcome.images,
        images: data.len(),
        best_step: outcome.best_step,
        best,
        model: best_dir,
    })
}

/// Draws a set in parallel.
fn draw(spec: &SynthSpec) -> LabelledPixels {
    let rendered: Vec<(Vec<u8>, Facts, Vec<f32>)> = (0..spec.len())
        .into_par_iter()
        .map(|index| {
            let sample = spec.sample(index);
            let traits = sample.person.traits(sample.shot.aspect, sample.shot.side);
            (sample.render(spec.size).rgb, facts(&sample), traits)
        })
        .collect();
    let images = spec.images.max(1) as usize;
    let mut data = LabelledPixels { size: spec.size as usize, ..LabelledPixels::default() };
    for (index, (pixels, facts, traits)) in rendered.into_iter().enumerate() {
        data.pixels.extend_from_slice(&pixels);
        data.hands.push((index / images) as u32);
        data.facts.push(facts);
        data.traits.extend(traits);
    }
    data.standardise_traits();
    data
}

fn facts(sample: &SynthSample) -> Facts {
    let shot = &sample.shot;
    Facts {
        aspect: shot.aspect,
        side: shot.side,
        ring: shot.ring(),
        bracelet: shot.bracelet(),
        watch: shot.watch(),
        polish: shot.nail_polish(),
        sleeve: shot.sleeved(),
    }
}

/// Scores weights on pictures of the model's own size.
fn validate(embedder: &Embedder, data: &LabelledPixels) -> Result<Figures, CardError> {
    let labels: Vec<Label> = data
        .hands
        .iter()
        .zip(&data.facts)
        .map(|(hand, facts)| Label {
            subject: hand / HANDS.len() as u32,
            kind: Some((facts.aspect, facts.side)),
            accessories: Some(facts.accessories()),
        })
        .collect();
    let mut embeddings = Vec::with_capacity(data.len());
    for start in (0..data.len()).step_by(CHUNK) {
        let pixels: Vec<Vec<f32>> = (start..(start + CHUNK).min(data.len()))
            .into_par_iter()
            .map(|index| embedder.preprocessing().normalise(data.picture(index)))
            .collect();
        embeddings.extend(embed(embedder, &pixels)?);
    }
    score(embedder, &labels, &embeddings)
}

/// Writes a Hugging Face directory, weights in f16.
fn save(
    dir: &Path,
    config: &ClipConfig,
    parameters: &Parameters,
    tokenizer: &str,
    preprocessing: &Preprocessing,
) -> Result<(), PretrainError> {
    parameters.save(&dir.join("model.safetensors"), DType::F16)?;
    write_atomic(&dir.join("config.json"), config.to_json().as_bytes())?;
    write_atomic(&dir.join("tokenizer.json"), tokenizer.as_bytes())?;
    write_atomic(&dir.join("preprocessor_config.json"), preprocessing.to_json().as_bytes())?;
    Ok(())
}
