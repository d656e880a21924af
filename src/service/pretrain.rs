//! Pre-training of the embedded model on generated hands, and the figures of its model card.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::domain::{Aspect, Side};
use crate::evaluation::{RankFigures, one_a_label, rank_figures};
use crate::image::{Framing, Preprocessing};
use crate::model::{Clip, ClipConfig, ModelError, Parameters, Tokenizer, normalise};
use crate::storage::file::write_atomic;
use crate::synth::{SynthSample, SynthSpec};
use crate::training::{
    Augment, Facts, Inputs, LabelledPixels, PretrainConfig, Progress, Prompts, RunLog,
    TrainingError, pretrain, train_tokenizer,
};

/// Side of the embedded model's input, pixels.
const SIZE: u32 = 96;
/// Pictures are kept a little larger than the input, so that augmentation does not read over the edge.
const STORED: u32 = 104;
/// The people of validation and of the model card are drawn from populations of their own.
const VALIDATION_SEED: u64 = 0x7a11;
/// Population of the model card's figures.
pub const CARD_SEED: u64 = 0xca4d;

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
#[derive(Debug, Clone, Copy)]
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
        figures: Figures,
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

/// Figures of a model on people it never saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// People.
    pub subjects: u64,
    /// Pictures.
    pub images: usize,
    /// Identification within one aspect and side, mean of the four: one picture of each subject
    /// enrolled, the rest asked about.
    pub rank1: f64,
    /// Mean average precision of the same (standard).
    pub map: f64,
    /// Share of pictures whose most similar of four prompts names their aspect and side.
    pub aspect_side: f64,
    /// Share of pictures whose more similar of two prompts says rightly whether accessories are worn.
    pub accessories: f64,
}

impl Figures {
    /// What validation maximises: identity, as far as the prompts hold up too.
    fn score(&self) -> f64 {
        self.rank1 + 0.5 * self.aspect_side.min(0.98) + 0.5 * self.accessories.min(0.95)
    }
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
            let figures = figures_of(&config, parameters, &preprocessing, &validation, &encode)
                .map_err(|error| match error {
                    PretrainError::Model(error) => TrainingError::Model(error),
                    other => TrainingError::Callback(Box::new(other)),
                })?;
            epoch.score = figures.score();
            log.write(&serde_json::json!({"epoch": epoch, "validation": figures}))?;
            progress(PretrainProgress::Validated { step: epoch.step, figures });
            if best.is_none_or(|best| figures.score() > best.score()) {
                best = Some(figures);
                save(&best_dir, &config, parameters, &tokenizer_json, &preprocessing)
                    .map_err(|error| TrainingError::Callback(Box::new(error)))?;
            }
            Ok(figures.score())
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
    let rendered: Vec<(Vec<u8>, Facts)> = (0..spec.len())
        .into_par_iter()
        .map(|index| {
            let sample = spec.sample(index);
            (sample.render(spec.size).rgb, facts(&sample))
        })
        .collect();
    let images = spec.images.max(1) as usize;
    let mut data = LabelledPixels { size: spec.size as usize, ..LabelledPixels::default() };
    for (index, (pixels, facts)) in rendered.into_iter().enumerate() {
        data.pixels.extend_from_slice(&pixels);
        data.hands.push((index / images) as u32);
        data.facts.push(facts);
    }
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

/// Unit rows, `[n, dim]`.
type Rows = Vec<Vec<f32>>;

fn figures_of(
    config: &ClipConfig,
    parameters: &Parameters,
    preprocessing: &Preprocessing,
    data: &LabelledPixels,
    encode: &dyn Fn(&[String]) -> Result<Vec<Vec<u32>>, ModelError>,
) -> Result<Figures, PretrainError> {
    let clip = Clip::frozen(config, parameters)?;
    let (n, size) = (data.len(), data.size);
    let mut images: Rows = Vec::with_capacity(n);
    for start in (0..n).step_by(64) {
        let batch: Vec<f32> = (start..(start + 64).min(n))
            .into_par_iter()
            .flat_map_iter(|index| preprocessing.normalise(data.picture(index)))
            .collect();
        let count = batch.len() / (3 * size * size);
        let pixels = Tensor::from_vec(batch, (count, 3, size, size), &Device::Cpu)
            .map_err(ModelError::from)?;
        let rows = normalise(&clip.image_features(&pixels)?).and_then(|rows| rows.to_vec2());
        images.extend(rows.map_err(ModelError::from)?);
    }
    let text = |prompt: &str| -> Result<Vec<f32>, PretrainError> {
        let ids = encode(&[prompt.to_owned()])?.concat();
        let ids = Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu)
            .map_err(ModelError::from)?;
        let rows =
            normalise(&clip.text_features(&ids)?).and_then(|rows| rows.flatten_all()?.to_vec1());
        Ok(rows.map_err(ModelError::from)?)
    };
    card(&images, &data.hands, &data.facts, &text)
}

/// The prompts that the model card's figures are taken with.
#[must_use]
pub fn hand_prompt(aspect: Aspect, side: Side) -> String {
    format!("a photo of a {aspect} {side} hand")
}

/// The prompts for accessories, without and with.
pub const ACCESSORY_PROMPTS: [&str; 2] =
    ["a photo of a hand without accessories", "a photo of a hand with accessories"];

/// Works out the figures from unit embeddings of pictures and a way to embed prompts.
fn card(
    images: &Rows,
    hands: &[u32],
    facts: &[Facts],
    text: &dyn Fn(&str) -> Result<Vec<f32>, PretrainError>,
) -> Result<Figures, PretrainError> {
    let classes = [
        (Aspect::Dorsal, Side::Right),
        (Aspect::Dorsal, Side::Left),
        (Aspect::Palmar, Side::Right),
        (Aspect::Palmar, Side::Left),
    ];
    let hand_rows =
        classes.iter().map(|(a, s)| text(&hand_prompt(*a, *s))).collect::<Result<Rows, _>>()?;
    let accessory_rows = ACCESSORY_PROMPTS.iter().map(|p| text(p)).collect::<Result<Rows, _>>()?;
    let share = |right: &dyn Fn(usize) -> bool| {
        (0..images.len()).filter(|i| right(*i)).count() as f64 / images.len().max(1) as f64
    };
    let aspect_side =
        share(&|i| classes[nearest(&images[i], &hand_rows)] == (facts[i].aspect, facts[i].side));
    let accessories =
        share(&|i| (nearest(&images[i], &accessory_rows) == 1) == facts[i].accessories());
    let per_hand: Vec<RankFigures> = classes
        .iter()
        .enumerate()
        .map(|(number, class)| {
            let members: Vec<usize> = (0..images.len())
                .filter(|i| (facts[*i].aspect, facts[*i].side) == *class)
                .collect();
            let labels: Vec<u32> = members.iter().map(|i| hands[*i]).collect();
            let draw = one_a_label(&labels, number as u64);
            let pick = |of: &[usize]| -> Vec<(&[f32], u32)> {
                of.iter().map(|i| (images[members[*i]].as_slice(), labels[*i])).collect()
            };
            rank_figures(&pick(&draw.query), &pick(&draw.gallery))
        })
        .collect();
    let mean = |f: &dyn Fn(&RankFigures) -> f64| {
        per_hand.iter().map(f).sum::<f64>() / per_hand.len() as f64
    };
    let subjects = hands.iter().max().map_or(0, |top| u64::from(*top / 4 + 1));
    Ok(Figures {
        subjects,
        images: images.len(),
        rank1: mean(&|f| f.rank1),
        map: mean(&|f| f.map),
        aspect_side,
        accessories,
    })
}

fn nearest(row: &[f32], candidates: &Rows) -> usize {
    let dot = |c: &Vec<f32>| row.iter().zip(c).map(|(a, b)| a * b).sum::<f32>();
    let scores: Vec<f32> = candidates.iter().map(dot).collect();
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0)
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
