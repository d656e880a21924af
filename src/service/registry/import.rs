//! Bringing a model: copied, opened, and only then given its name.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{ModelName, now_ms};
use crate::model::{Embedder, ModelSummary};
use crate::storage::file::{create_private_dir, write_atomic};
use crate::tensor;
use crate::urgency::{FAR_BACK, give_way};

use super::record::{Merit, ModelFile, Origin, Parent, RegisteredModel, Training};
use super::source::{Bounds, MAX_TEXT, Source, without};
use super::{FILES, RECORD, RESERVED, Registry, RegistryError, UNFINISHED};
use crate::service::archive::{ArchiveLimits, unpack};
use crate::service::error::chain;
use crate::service::fine_tune::{TRAINED_ON, TrainedOn};
use crate::service::room::available_memory;

/// Most entries of an archive with a model.
const MAX_ENTRIES: usize = 1_000;
/// Memory for what is not weights when a model is opened, in bytes.
const SLACK: u64 = 64 << 20;

/// A folder that is removed unless it got its name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Nothing is there once it was renamed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a run says of itself.
#[derive(Deserialize)]
struct Summary {
    subjects: [usize; 3],
    images: [usize; 3],
    before: Option<Merit>,
    after: Option<Merit>,
    parent: Option<Parent>,
}

impl Registry {
    /// Takes a model from a folder that is our own, or named by whoever sits at the machine: a model's, a run's, or one that
    /// was exported.
    pub(in crate::service) fn import_directory(
        &self,
        name: &ModelName,
        from: &Path,
        origin: Origin,
    ) -> Result<RegisteredModel, RegistryError> {
        let bounds = Bounds { bytes: u64::MAX, may_read: &|_| true, take: false };
        self.import(name, from, origin, &bounds)
    }

    /// Takes a model of at most `max_bytes` from a folder that a caller named. Files that `may_read` says no to, by where they
    /// lie when every link is followed, are refused.
    pub(in crate::service) fn import_named_directory(
        &self,
        name: &ModelName,
        from: &Path,
        max_bytes: u64,
        may_read: &dyn Fn(&Path) -> bool,
    ) -> Result<RegisteredModel, RegistryError> {
        let bounds = Bounds { bytes: max_bytes, may_read, take: false };
        self.import(name, from, Origin::Imported, &bounds)
    }

    fn import(
        &self,
        name: &ModelName,
        from: &Path,
        origin: Origin,
        bounds: &Bounds<'_>,
    ) -> Result<RegisteredModel, RegistryError> {
        self.check_name(name)?;
        let _lock = self.lock_shared()?;
        self.bring(name, from, origin, bounds)
    }

    /// Takes a model from a tar archive.
    pub(in crate::service) fn import_archive(
        &self,
        name: &ModelName,
        archive: impl Read,
        max_bytes: u64,
    ) -> Result<RegisteredModel, RegistryError> {
        self.check_name(name)?;
        let _lock = self.lock_shared()?;
        let unpacked = self.aside()?;
        unpack(archive, &unpacked.0, ArchiveLimits { bytes: max_bytes, entries: MAX_ENTRIES })?;
        let bounds = Bounds { bytes: max_bytes, may_read: &|_| true, take: true };
        self.bring(name, &only_folder(&unpacked.0), Origin::Imported, &bounds)
    }

    fn check_name(&self, name: &ModelName) -> Result<(), RegistryError> {
        if RESERVED.iter().any(|reserved| name.as_str().eq_ignore_ascii_case(reserved)) {
            return Err(RegistryError::Reserved(name.to_string()));
        }
        if self.dir(name).exists() {
            return Err(RegistryError::Exists(name.clone()));
        }
        Ok(())
    }

    fn aside(&self) -> Result<Unfinished, RegistryError> {
        let dir = self.root.join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
        create_private_dir(&dir).map_err(|error| RegistryError::Io {
            what: "make a folder for the model",
            source: std::io::Error::other(error),
        })?;
        Ok(Unfinished(dir))
    }

    fn bring(
        &self,
        name: &ModelName,
        from: &Path,
        origin: Origin,
        bounds: &Bounds<'_>,
    ) -> Result<RegisteredModel, RegistryError> {
        let aside = self.aside()?;
        let source = Source::find(from)?;
        let files = source.bring(&aside.0, bounds)?;
        // What it is worth is known only once it opens.
        let summary = opened(name, &aside.0, &files)?;
        let (parent, training) = match &source.run {
            Some(run) => lineage(run, &files, bounds)?,
            None => (None, None),
        };
        let model = RegisteredModel {
            format: 1,
            name: name.clone(),
            created_at_ms: now_ms(),
            fingerprint: summary.fingerprint,
            dim: summary.dim,
            image_size: [summary.image_size.0, summary.image_size.1],
            patch_size: summary.patch_size,
            max_tokens: summary.max_tokens,
            parameters: summary.parameters,
            files,
            origin,
            parent,
            training,
        };
        self.name(&aside, &model)?;
        Ok(model)
    }

    /// Makes a folder's content durable, and then gives it its name.
    fn name(&self, aside: &Unfinished, model: &RegisteredModel) -> Result<(), RegistryError> {
        let text = serde_json::to_vec_pretty(model)
            .map_err(|error| RegistryError::io("write a record")(std::io::Error::other(error)))?;
        write_atomic(&aside.0.join(RECORD), &text).map_err(|error| RegistryError::Io {
            what: "write a record",
            source: std::io::Error::other(error),
        })?;
        let what = "give the model its name";
        for dir in [aside.0.join(FILES), aside.0.clone()] {
            sync(&dir).map_err(RegistryError::io(what))?;
        }
        let named = self.dir(&model.name);
        // Onto a folder that holds something this fails: of two imports of one name one wins.
        match std::fs::rename(&aside.0, &named) {
            Ok(()) => sync(&self.root).map_err(RegistryError::io(what)),
            Err(_) if named.exists() => Err(RegistryError::Exists(model.name.clone())),
            Err(error) => Err(RegistryError::io(what)(error)),
        }
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The one folder that an archive holds, or all of it.
fn only_folder(unpacked: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(unpacked).into_iter().flatten().flatten();
    match (entries.next(), entries.next()) {
        (Some(only), None) if only.path().is_dir() => only.path(),
        _ => unpacked.to_path_buf(),
    }
}

/// Opens a model that was copied, and the list of images beside it.
fn opened(
    name: &ModelName,
    dir: &Path,
    files: &[ModelFile],
) -> Result<ModelSummary, RegistryError> {
    // As errors name it, whatever links lead there.
    let dir = dir.canonicalize().map_err(RegistryError::io("find the model"))?;
    let model = dir.join(FILES);
    // The folder's name is a secret of the server, and gone by the time that anybody reads it.
    let refused = |error: &dyn std::error::Error| {
        RegistryError::Refused(without(&without(&chain(error), &model), &dir))
    };
    // Weights are read whole before they are placed.
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let held = Embedder::bytes(&model).map_err(|error| refused(&error))?;
    let needed = bytes.saturating_add(held.max(bytes)).saturating_add(SLACK);
    if let Some(available) = available_memory().filter(|available| needed > *available) {
        return Err(RegistryError::Memory { needed, available });
    }
    let (device, _) = tensor::open(tensor::DeviceChoice::Cpu);
    // A pool of its own: on the shared one, whoever asks would wait until all weights are hashed and placed.
    let pool = rayon::ThreadPoolBuilder::new()
        .thread_name(|at| format!("model-import-{at}"))
        .start_handler(|_| give_way(FAR_BACK))
        .build()
        .map_err(|error| RegistryError::io("start threads")(std::io::Error::other(error)))?;
    let embedder = pool
        .install(|| Embedder::open_as(name.as_str(), &model, &device))
        .map_err(|error| refused(&error))?;
    // A list that cannot be read would keep the model from ever being measured.
    TrainedOn::beside(&model).map_err(|error| refused(&error))?;
    Ok(embedder.summary())
}

/// What a run, or an exported record, says of how the model was made. What is not there is not known.
fn lineage(
    run: &Path,
    files: &[ModelFile],
    bounds: &Bounds<'_>,
) -> Result<(Option<Parent>, Option<Training>), RegistryError> {
    let text = |name: &str| -> Option<Value> {
        let path = run.join(name).canonicalize().ok().filter(|path| (bounds.may_read)(path))?;
        let small = path.metadata().is_ok_and(|about| about.is_file() && about.len() <= MAX_TEXT);
        let text = small.then(|| std::fs::read(&path).ok())??;
        serde_json::from_slice(&text).ok()
    };
    if let Some(exported) = text(RECORD).and_then(|v| serde_json::from_value(v).ok()) {
        let exported: RegisteredModel = exported;
        // Without this a model could leave behind the list of those whom it was trained on.
        if let Some(file) = exported.files.iter().find(|file| !files.contains(file)) {
            let about = format!("{} is missing or not what {RECORD} says", file.name);
            return Err(RegistryError::Refused(about));
        }
        return Ok((exported.parent, exported.training));
    }
    let Some(summary) = text("summary.json") else { return Ok((None, None)) };
    let Ok(summary) = serde_json::from_value::<Summary>(summary) else { return Ok((None, None)) };
    let hash =
        |name: &str| files.iter().find(|file| file.name == name).map(|file| file.sha256.clone());
    let training = Training {
        recipe_sha256: hash("recipe.toml"),
        data_sha256: hash(TRAINED_ON),
        subjects: summary.subjects,
        images: summary.images,
        before: summary.before,
        after: summary.after,
    };
    Ok((summary.parent, Some(training)))
}
