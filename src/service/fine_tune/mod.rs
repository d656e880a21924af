//! Fine-tuning a model on a data set, from files to a run's folder.

mod divide;
mod gallery_images;
mod judge;
mod report;
mod trained_on;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::dataset::{self, DatasetError, LabelledImage};
use crate::domain::{Fingerprint, GalleryId};
use crate::model::{ModelError, Parameters, Trainable};
use crate::storage::file::write_atomic;
use crate::tensor::{self, DeviceError};
use crate::training::fine_tune::{
    Checkpoint, EpochReport, FineTuneInputs, FineTuneProgress, PictureFiles, Precision, Recipe,
    TrainPicture, Unreadable, fine_tune,
};
use crate::training::{EventLog, RunLog, TrainingError};

pub use crate::training::fine_tune::Stage;

use super::ledger::{RunKind, RunRecord, data_name};
use super::nano_card::{CardError, Figures};
use super::options::ModelChoice;
use super::registry::Parent;
use super::room::check_disk;
pub(in crate::service) use divide::held_out;
use divide::{Parts, divide, drawn};
pub use gallery_images::GalleryImages;
pub(in crate::service) use gallery_images::gallery_images;
use judge::Judge;
pub(in crate::service) use trained_on::{
    FILE as TRAINED_ON, People, strike, strike_all_but, strike_as,
};
pub use trained_on::{TrainedOn, TrainedOnError};

/// Bytes of the disk that a run may need, in bytes of its weights: the best and the last of them, the optimizer's state and an average
/// beside, each once more while it is replaced, and what the registry takes.
const DISK_TIMES: u64 = 10;

/// Images with labels.
#[derive(Clone)]
pub enum TrainingData {
    /// A data set in any layout that can be enrolled.
    Directory(PathBuf),
    /// The images that a gallery retained; see [`Service::training_data`](super::Service::training_data).
    Gallery(GalleryImages),
}

/// What to train on what.
#[derive(Clone)]
pub struct FineTuneRequest {
    /// Where to start.
    pub model: ModelChoice,
    /// What to train on.
    pub data: TrainingData,
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
    /// Whether it ended early because the caller cancelled it; then there are no figures of what it came to.
    pub cancelled: bool,
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
    /// The model that it started from.
    pub parent: Parent,
}

impl FineTuneSummary {
    /// The run in the ledger's words.
    #[must_use]
    pub fn record(&self, request: &FineTuneRequest, command: &str) -> RunRecord {
        let mut record = RunRecord::new(RunKind::Train, command);
        record.set(
            "model",
            match &request.model {
                ModelChoice::Nano => "nano".to_owned(),
                ModelChoice::Directory(path) => path.display().to_string(),
                ModelChoice::Registered { name, .. } => name.clone(),
            },
        );
        record.set(
            "data",
            match &request.data {
                TrainingData::Directory(path) => data_name(path),
                TrainingData::Gallery(_) => "a gallery's images".to_owned(),
            },
        );
        record.set("recipe_sha256", trained_on::hash(request.recipe.as_bytes()));
        record.set("hold_out", format!("{} (seed {})", request.hold_out, request.split_seed));
        record.set("subjects", format!("{:?}", self.subjects));
        record.set("images", format!("{:?}", self.images));
        record.figure("steps", self.steps as f64);
        record.figure("best_epoch", self.best_epoch as f64);
        for (name, figures) in [("before", &self.before), ("after", &self.after)] {
            if let Some(figures) = figures {
                record.figure(format!("{name}/rank1"), figures.rank1);
                record.figure(format!("{name}/map"), figures.map);
            }
        }
        if let Some(after) = &self.after {
            record.figure("rank1", after.rank1);
            record.figure("map", after.map);
        }
        record
    }
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
    /// The gallery kept no image.
    #[error("gallery `{0}` holds no image: make a gallery with --retain-images and enrol into it")]
    NoImages(GalleryId),
    /// Whom the model was trained on before is not known.
    #[error(transparent)]
    TrainedOn(#[from] TrainedOnError),
    /// The recipe goes by scores that there are none of.
    #[error(
        "`{0}` goes by validation, and nothing can be validated on: that takes two subjects with the same kind of hand, and two images of one of them; give the data more, raise `validation`, or leave `{0}` out"
    )]
    NoValidation(&'static str),
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
    /// The disk has no room for the run, or the run would leave none.
    #[error("the run would fill the disk")]
    Disk(#[source] std::io::Error),
    /// A folder could not be made.
    #[error("cannot make {path}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Fine-tunes a model and writes `recipe.toml`, `metrics.jsonl`, `tensorboard/`, `best/`, `last/`, `summary.json`,
/// `report.md` and `report.html` under the run's folder.
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
    if recipe.compute.precision == Precision::Bf16 && device.is_cpu() {
        let text = "bf16 is slower than f32 on a CPU: it is meant for CUDA";
        progress(FineTuneEvent::Notice(text.to_owned()));
    }
    let start = match &request.model {
        ModelChoice::Nano => Trainable::nano(&device)?,
        ModelChoice::Directory(dir) => Trainable::open(dir, &device)?,
        ModelChoice::Registered { name, files } => Trainable::open_as(name, files, &device)?,
    };
    // Before training changes the weights in place.
    let fingerprint = start.fingerprint()?;
    let parent = Parent { name: start.name.clone(), fingerprint };
    let images = match &request.data {
        TrainingData::Directory(path) => dataset::read_to_train(path)?,
        TrainingData::Gallery(gallery) => gallery.images()?,
    };
    let parts = divide(&images, request, &recipe)?;
    let pictures = pictures(&images, &parts.train);
    let drawn = drawn(&pictures, &recipe, progress)?;
    let unreadable = if request.skip_unreadable { Unreadable::Skip } else { Unreadable::Fatal };
    let paths = images.iter().map(|image| image.path.clone()).collect();
    let (preprocessing, cache) = (start.preprocessing.clone(), request.cache_bytes);
    let files = match &request.data {
        TrainingData::Directory(_) => PictureFiles::new(paths, preprocessing, cache, unreadable),
        TrainingData::Gallery(gallery) => {
            PictureFiles::reading(paths, gallery.reader(), preprocessing, cache, unreadable)
        }
    };
    let before = request.model.files().map(TrainedOn::beside).transpose()?.flatten();
    let seen = trained_on(&request.data, &images, &parts).inheriting(before);
    let judge = Judge { start: &start, files: &files, images: &images, device: &device, cancel };
    judge.check(&parts, request, &recipe, progress)?;
    let before = judge.figures(&start.parameters, &parts.held_out)?;

    let folders = ["best", "last", "tensorboard"].map(|name| out.join(name));
    for path in &folders {
        std::fs::create_dir_all(path)
            .map_err(|source| FineTuneError::Folder { path: path.clone(), source })?;
    }
    let [best_dir, last_dir, board_dir] = folders;
    let has_room = || check_disk(out, DISK_TIMES * 4 * start.parameters.count() as u64);
    has_room().map_err(FineTuneError::Disk)?;
    // Before the first weights are there: no model of this run is without it.
    seen.save(out)?;
    write_atomic(&out.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
    let mut log: Option<RunLog> = None;
    let mut board = EventLog::create(&board_dir)?;
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
            about: &about(fingerprint, &recipe, &images, &parts)?,
            resume: request.resume,
        }),
    };
    let callback = |error: FineTuneError| TrainingError::Callback(Box::new(error));
    let tuned = fine_tune(
        inputs,
        &mut |parameters, report| {
            has_room().map_err(|error| callback(FineTuneError::Disk(error)))?;
            let figures = judge.figures(parameters, &parts.validation).map_err(callback)?;
            // Half a validation says nothing: the epoch before stays the last.
            if judge.is_cancelled() && !parts.validation.is_empty() {
                return Err(TrainingError::Cancelled);
            }
            let merit = match (&figures, recipe.goes_by_validation()) {
                (Some(figures), _) => figures.rank1 + figures.map,
                (None, Some(by)) => return Err(callback(FineTuneError::NoValidation(by))),
                // Without validation subjects the last epoch is as good as any.
                (None, None) => report.epoch as f64,
            };
            let log = match &mut log {
                Some(log) => log,
                // What a process that died wrote of this epoch and later ones did not count.
                None => log.insert(RunLog::open_before(out, report.epoch)?),
            };
            log.write(&serde_json::json!({"epoch": report, "validation": figures}))?;
            board.write(report.epoch, &scalars(report, figures.as_ref()))?;
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
    let Parts { validation, held_out, .. } = &parts;
    let summary = FineTuneSummary {
        subjects: [subjects(&drawn), subjects(validation), subjects(held_out)],
        images: [drawn.len(), validation.len(), held_out.len()],
        steps: tuned.steps,
        images_seen: tuned.images,
        best_epoch: tuned.best_epoch,
        stopped_early: tuned.stopped_early,
        cancelled: judge.is_cancelled(),
        waiting: tuned.waiting,
        before,
        after: judge.figures(&best, held_out)?,
        skipped: match &request.data {
            TrainingData::Directory(_) => files.skipped(),
            // Whose they are is not written down.
            TrainingData::Gallery(_) => {
                files.skipped().iter().map(|_| PathBuf::from("an enrolled image")).collect()
            }
        },
        model: best_dir,
        parent,
    };
    let json = serde_json::to_vec_pretty(&summary).map_err(std::io::Error::other);
    let json = json.map_err(|source| FineTuneError::Folder { path: out.clone(), source })?;
    write_atomic(&out.join("summary.json"), &json)?;
    write_atomic(&out.join("report.md"), report::markdown(&start.name, &summary).as_bytes())?;
    let page = report::html(&start.name, &summary, &recipe.to_toml()?, &report::metrics(out));
    write_atomic(&out.join("report.html"), page.as_bytes())?;
    Ok(summary)
}

/// Hashes the images of every part. One that cannot be read is left out: it is not trained on either.
fn trained_on(data: &TrainingData, images: &[LabelledImage], parts: &Parts) -> TrainedOn {
    let hash = |at: &usize| match data {
        TrainingData::Directory(_) => dataset::sha256(&images[*at].path).ok(),
        TrainingData::Gallery(gallery) => gallery.reader()(*at).ok().map(|b| trained_on::hash(&b)),
    };
    let hashes = |of: &Vec<usize>| of.par_iter().filter_map(hash).collect();
    let seen = parts.train.iter().chain(&parts.validation);
    TrainedOn::new(
        [&parts.train, &parts.validation, &parts.held_out].map(hashes),
        seen.map(|at| images[*at].subject.as_str()),
        match data {
            TrainingData::Directory(_) => None,
            TrainingData::Gallery(gallery) => Some(gallery.id().clone()),
        },
    )
}

/// What TensorBoard shows of an epoch.
fn scalars(report: &EpochReport, figures: Option<&Figures>) -> Vec<(String, f64)> {
    let validation = figures.map(|of| [("validation/rank1", of.rank1), ("validation/map", of.map)]);
    let of_loop = [
        ("loss/sum", report.loss),
        ("loop/learning_rate", report.learning_rate),
        ("loop/gradient_norm", report.gradient_norm),
        ("loop/images_per_second", report.images_per_second),
        ("loop/waiting", report.waiting),
    ];
    let named = of_loop.into_iter().chain(validation.into_iter().flatten());
    let parts = report.parts.iter().map(|(name, value)| (format!("loss/{name}"), *value));
    named.map(|(name, value)| (name.to_owned(), value)).chain(parts).collect()
}

/// The charts of a run as far as it is, by the names of their files.
pub(in crate::service) fn charts(run: &Path) -> Vec<(String, String)> {
    report::charts(&report::metrics(run))
}

fn open_device(choice: &str, progress: &dyn Fn(FineTuneEvent)) -> Result<Device, FineTuneError> {
    let (device, notice) = tensor::open(choice.parse()?);
    if let Some(notice) = notice {
        progress(FineTuneEvent::Notice(notice));
    }
    Ok(device)
}

/// Names everything that decides a run: the start, the recipe and the images with their labels and sides.
fn about(
    start: Fingerprint,
    recipe: &Recipe,
    images: &[LabelledImage],
    parts: &Parts,
) -> Result<String, FineTuneError> {
    let mut hash = Sha256::new();
    hash.update(start.0);
    hash.update(recipe.to_toml()?);
    for (side, of) in [&parts.train, &parts.validation, &parts.held_out].into_iter().enumerate() {
        for at in of {
            let image = &images[*at];
            hash.update(format!("{side} {at} {} {:?}\n", image.key(), image.attributes));
        }
    }
    Ok(crate::domain::hex(&hash.finalize()))
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

/// Reads a recipe file.
///
/// # Errors
/// [`TrainingError::Recipe`] naming the file.
pub fn read_recipe(path: &Path) -> Result<String, TrainingError> {
    std::fs::read_to_string(path)
        .map_err(|error| TrainingError::Recipe(format!("{}: {error}", path.display())))
}
