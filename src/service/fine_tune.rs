//! Fine-tuning a model on a data set, from files to a run's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::dataset::{self, DatasetError, LabelledImage, Protocol};
use crate::model::{Embedder, ModelError, Parameters, Trainable};
use crate::storage::file::write_atomic;
use crate::tensor::{self, DeviceError};
use crate::training::fine_tune::{
    Checkpoint, EpochReport, FineTuneInputs, FineTuneProgress, PictureFiles, Recipe, TrainPicture,
    Unreadable, fine_tune,
};
use crate::training::{RunLog, TrainingError};

use super::nano_card::{CardError, Figures, Label, embed, score};
use super::options::ModelChoice;

/// Pictures embedded at a time when weights are scored.
const CHUNK: usize = 64;
/// What separates the draw of validation subjects from that of test subjects.
const VALIDATION_SALT: u64 = 0x5a17;

/// What to train on what.
#[derive(Debug, Clone)]
pub struct FineTuneRequest {
    /// Where to start.
    pub model: ModelChoice,
    /// The data set, in any layout that can be enrolled.
    pub data: PathBuf,
    /// The recipe, as TOML.
    pub recipe: String,
    /// Share of the subjects that are held out and scored before and after; 0 trains on all.
    pub hold_out: f64,
    /// Names the draw of the held-out subjects.
    pub split_seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Most memory for decoded pictures, bytes.
    pub cache_bytes: usize,
    /// Whether images that cannot be decoded are left out instead of ending the run.
    pub skip_unreadable: bool,
    /// A new folder for the run.
    pub out: PathBuf,
    /// Goes on with the run that lies there: all else must be as it was.
    pub resume: bool,
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct FineTuneSummary {
    /// Subjects trained on, validated on and held out.
    pub subjects: [usize; 3],
    /// Images trained on, validated on and held out.
    pub images: [usize; 3],
    /// Optimiser steps taken.
    pub steps: usize,
    /// Pictures seen, repetitions counted.
    pub images_seen: usize,
    /// The best epoch, from 1.
    pub best_epoch: usize,
    /// Whether it ended early because validation got no better.
    pub stopped_early: bool,
    /// Share of the time spent waiting for pictures.
    pub waiting: f64,
    /// Figures on the held-out subjects before training.
    pub before: Option<Figures>,
    /// Figures of the best weights on the same subjects.
    pub after: Option<Figures>,
    /// Files that were left out because they cannot be decoded.
    pub skipped: Vec<PathBuf>,
    /// Where the best weights lie, a Hugging Face directory.
    pub model: PathBuf,
}

/// What happens, for a progress bar.
#[derive(Debug, Clone)]
pub enum FineTuneEvent {
    /// Something a person should know.
    Notice(String),
    /// A step was taken.
    Step(FineTuneProgress),
    /// An epoch was validated.
    Epoch {
        /// What it came to.
        report: EpochReport,
        /// The figures; `None` without validation subjects.
        figures: Option<Box<Figures>>,
    },
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum FineTuneError {
    /// The run's folder holds something already.
    #[error("{path} is not empty: name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// The data set cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// No figures could be taken.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The training room stopped.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The model room refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
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

/// Who is trained on, validated on and held out: indices of the data set's images.
struct Parts {
    train: Vec<usize>,
    validation: Vec<usize>,
    held_out: Vec<usize>,
}

/// Fine-tunes a model and writes `recipe.toml`, `metrics.jsonl`, `best/`, `last/`, `summary.json` and
/// `report.md` under the run's folder.
///
/// # Errors
/// [`FineTuneError`].
pub fn fine_tune_model(
    request: &FineTuneRequest,
    progress: &dyn Fn(FineTuneEvent),
    cancel: &AtomicBool,
) -> Result<FineTuneSummary, FineTuneError> {
    let out = &request.out;
    let is_there = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if is_there && !request.resume {
        return Err(FineTuneError::NotEmpty(out.clone()));
    }
    let recipe = Recipe::from_toml(&request.recipe)?;
    recipe.warnings().into_iter().for_each(|warning| progress(FineTuneEvent::Notice(warning)));
    let device = open_device(&request.device, progress)?;
    let start = match &request.model {
        ModelChoice::Nano => Trainable::nano(&device)?,
        ModelChoice::Directory(dir) => Trainable::open(dir, &device)?,
    };
    let images = dataset::read(&request.data)?;
    let parts = divide(&images, request, &recipe)?;
    let unreadable = if request.skip_unreadable { Unreadable::Skip } else { Unreadable::Fatal };
    let paths = images.iter().map(|image| image.path.clone()).collect();
    let files =
        PictureFiles::new(paths, start.preprocessing.clone(), request.cache_bytes, unreadable);
    let judge = Judge { start: &start, files: &files, images: &images, device: &device };
    let before = judge.figures(&start.parameters, &parts.held_out)?;

    let folders = ["best", "last"].map(|name| out.join(name));
    for path in &folders {
        std::fs::create_dir_all(path)
            .map_err(|source| FineTuneError::Folder { path: path.clone(), source })?;
    }
    let [best_dir, last_dir] = folders;
    write_atomic(&out.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
    let mut log: Option<RunLog> = None;
    let pictures = pictures(&images, &parts.train);
    let tokens = |texts: &[String]| start.tokenizer.encode_batch(texts);
    let inputs = FineTuneInputs {
        model: &start.config,
        parameters: &start.parameters,
        tokens: &tokens,
        files: &files,
        pictures: &pictures,
        recipe: &recipe,
        device: &device,
        checkpoint: Some(Checkpoint {
            path: &last_dir.join("state.safetensors"),
            about: &about(&start, &device, &recipe, &images, &parts)?,
            resume: request.resume,
        }),
    };
    let callback = |error: FineTuneError| TrainingError::Callback(Box::new(error));
    let tuned = fine_tune(
        inputs,
        &mut |parameters, report| {
            let figures = judge.figures(parameters, &parts.validation).map_err(callback)?;
            // Without validation subjects the last epoch is as good as any.
            let merit = figures.map_or(report.epoch as f64, |f| f.rank1 + f.map);
            let log = match &mut log {
                Some(log) => log,
                // What a process that died wrote of this epoch and later ones did not count.
                None => log.insert(RunLog::open_before(out, report.epoch)?),
            };
            log.write(&serde_json::json!({"epoch": report, "validation": figures}))?;
            if report.best_score.is_none_or(|top| merit > top) {
                start.save(parameters, &best_dir, DType::F32)?;
            }
            start.save(parameters, &last_dir, DType::F32)?;
            let figures = figures.map(Box::new);
            progress(FineTuneEvent::Epoch { report: report.clone(), figures });
            Ok(merit)
        },
        &|step| progress(FineTuneEvent::Step(step)),
        cancel,
    )?;
    let best = match tuned.best {
        Some(best) => best,
        None => Parameters::load(&start.config, &best_dir, &device)?,
    };
    if tuned.best_epoch == 0 {
        start.save(&best, &best_dir, DType::F32)?;
    }
    let subjects = |of: &[usize]| {
        let mut keys: Vec<String> = of.iter().map(|at| images[*at].key()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    let Parts { train, validation, held_out } = &parts;
    let summary = FineTuneSummary {
        subjects: [subjects(train), subjects(validation), subjects(held_out)],
        images: [train.len(), validation.len(), held_out.len()],
        steps: tuned.steps,
        images_seen: tuned.images,
        best_epoch: tuned.best_epoch,
        stopped_early: tuned.stopped_early,
        waiting: tuned.waiting,
        before,
        after: judge.figures(&best, held_out)?,
        skipped: files.skipped(),
        model: best_dir,
    };
    let json = serde_json::to_vec_pretty(&summary).map_err(std::io::Error::other);
    let json = json.map_err(|source| FineTuneError::Folder { path: out.clone(), source })?;
    write_atomic(&out.join("summary.json"), &json)?;
    write_atomic(&out.join("report.md"), report(&start.name, &summary).as_bytes())?;
    Ok(summary)
}

fn open_device(choice: &str, progress: &dyn Fn(FineTuneEvent)) -> Result<Device, FineTuneError> {
    let (device, notice) = tensor::open(choice.parse()?)?;
    if let Some(notice) = notice {
        progress(FineTuneEvent::Notice(notice));
    }
    Ok(device)
}

/// Names everything that decides a run: the start, the recipe and the images with their labels and sides.
fn about(
    start: &Trainable,
    device: &Device,
    recipe: &Recipe,
    images: &[LabelledImage],
    parts: &Parts,
) -> Result<String, FineTuneError> {
    let mut hash = Sha256::new();
    hash.update(start.embedder(&start.parameters, device)?.fingerprint().0);
    hash.update(recipe.to_toml()?);
    for (side, of) in [&parts.train, &parts.validation, &parts.held_out].into_iter().enumerate() {
        for at in of {
            let image = &images[*at];
            hash.update(format!("{side} {at} {} {:?}\n", image.key(), image.attributes));
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Subjects are held out first, then set apart for validation; none is on two sides. Held-out images with
/// accessories are left out, as the published protocol has it.
fn divide(
    images: &[LabelledImage],
    request: &FineTuneRequest,
    recipe: &Recipe,
) -> Result<Parts, FineTuneError> {
    let all: Vec<usize> = (0..images.len()).collect();
    let (rest, mut held_out) = share(images, all, request.hold_out, request.split_seed)?;
    held_out.retain(|at| images[*at].attributes.accessories != Some(true));
    let seed = request.split_seed ^ VALIDATION_SALT;
    let (train, validation) = share(images, rest, recipe.validation, seed)?;
    Ok(Parts { train, validation, held_out })
}

/// Takes `share` of the subjects of `from` out.
fn share(
    images: &[LabelledImage],
    from: Vec<usize>,
    share: f64,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), FineTuneError> {
    if share == 0.0 {
        return Ok((from, Vec::new()));
    }
    let of: Vec<LabelledImage> = from.iter().map(|at| images[*at].clone()).collect();
    let split = dataset::split(&of, Protocol::Subjects { train: 1.0 - share }, seed)?;
    let mut sides = (Vec::new(), Vec::new());
    for split in split {
        sides.0.extend(split.train.iter().chain(&split.val).map(|at| from[*at]));
        sides.1.extend(split.test.iter().map(|at| from[*at]));
    }
    sides.0.sort_unstable();
    sides.1.sort_unstable();
    Ok(sides)
}

/// A number for each hand of each subject, and for each kind of hand.
fn pictures(images: &[LabelledImage], train: &[usize]) -> Vec<TrainPicture> {
    let mut hands = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    train
        .iter()
        .map(|at| {
            let image = &images[*at];
            let kind = (image.attributes.aspect, image.attributes.side);
            let (next_hand, next_kind) = (hands.len() as u32, kinds.len());
            TrainPicture {
                file: *at,
                hand: *hands.entry((image.key(), kind)).or_insert(next_hand),
                kind: *kinds.entry(kind).or_insert(next_kind),
                attributes: image.attributes.clone(),
            }
        })
        .collect()
}

/// Scores weights on some of the data set's images.
struct Judge<'a> {
    start: &'a Trainable,
    files: &'a PictureFiles,
    images: &'a [LabelledImage],
    device: &'a Device,
}

impl Judge<'_> {
    /// `None` where there is nothing to score on.
    fn figures(
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

fn report(model: &str, summary: &FineTuneSummary) -> String {
    let mut text = format!(
        "# Fine-tuning {model}\n\nTrained on {} images of {} subjects, validated on {} subjects, {} steps, best epoch {}{}.\n",
        summary.images[0],
        summary.subjects[0],
        summary.subjects[1],
        summary.steps,
        summary.best_epoch,
        if summary.stopped_early { " (stopped early)" } else { "" },
    );
    if let (Some(before), Some(after)) = (&summary.before, &summary.after) {
        text.push_str(&format!(
            "\nOn {} held-out subjects, images without accessories, one image of each in the gallery, mean and standard deviation of ten draws, in %:\n\n\
             | hand | subjects | probes | Rank-1 before | after | mAP before | after |\n|---|---|---|---|---|---|---|\n",
            summary.subjects[2]
        ));
        for (b, a) in before.hands.iter().zip(&after.hands) {
            text.push_str(&format!(
                "| {} {} | {} | {} | {:.1} ± {:.1} | {:.1} ± {:.1} | {:.1} ± {:.1} | {:.1} ± {:.1} |\n",
                b.aspect,
                b.side,
                b.subjects,
                b.probes,
                100.0 * b.rank1,
                100.0 * b.rank1_sd,
                100.0 * a.rank1,
                100.0 * a.rank1_sd,
                100.0 * b.map,
                100.0 * b.map_sd,
                100.0 * a.map,
                100.0 * a.map_sd
            ));
        }
        text.push_str(&format!(
            "| mean | | | {:.1} | {:.1} | {:.1} | {:.1} |\n\nPrompts name aspect and side rightly for {:.1} % before, {:.1} % after.\n",
            100.0 * before.rank1,
            100.0 * after.rank1,
            100.0 * before.map,
            100.0 * after.map,
            100.0 * before.aspect_side,
            100.0 * after.aspect_side
        ));
    }
    text
}

/// Reads a recipe file.
///
/// # Errors
/// [`TrainingError::Recipe`] naming the file.
pub fn read_recipe(path: &Path) -> Result<String, TrainingError> {
    std::fs::read_to_string(path)
        .map_err(|error| TrainingError::Recipe(format!("{}: {error}", path.display())))
}
