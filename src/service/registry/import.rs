//! Bringing a model: copied, opened, and only then given its name.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{ModelName, now_ms};
use crate::model::Embedder;
use crate::storage::file::{create_private_dir, write_atomic};
use crate::tensor;

use super::record::{Merit, ModelFile, Origin, Parent, RegisteredModel, Training};
use super::{FILES, RECORD, RESERVED, Registry, RegistryError, UNFINISHED, digest};
use crate::service::archive::{ArchiveLimits, unpack};
use crate::service::error::chain;

/// Files of a model besides its weights.
const SMALL_FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "open_clip_config.json",
];
/// Files of a run that go with its model.
const OF_RUN: [&str; 2] = ["data.json", "recipe.toml"];
/// Largest of those that are read whole.
const MAX_TEXT: u64 = 64 << 20;
/// Most entries of an archive with a model.
const MAX_ENTRIES: usize = 1_000;

/// Where a model lies, and what lies beside it.
struct Source {
    files: PathBuf,
    run: Option<PathBuf>,
}

impl Source {
    /// A model's folder, a run's, or one that the registry wrote.
    fn find(path: &Path) -> Result<Self, RegistryError> {
        let has = |dir: &Path| {
            dir.join("config.json").is_file() || dir.join("open_clip_config.json").is_file()
        };
        for name in [FILES, "best"] {
            if !has(path) && has(&path.join(name)) {
                return Ok(Self { files: path.join(name), run: Some(path.to_path_buf()) });
            }
        }
        if !has(path) {
            let about = "it has no config.json, neither itself nor in `best` or `files`";
            return Err(RegistryError::Refused(about.to_owned()));
        }
        let path = path.canonicalize().map_err(RegistryError::io("find the model"))?;
        let run = path.parent().filter(|run| run.join("data.json").is_file());
        Ok(Self { run: run.map(Path::to_path_buf), files: path })
    }
}

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
    /// Takes a model from a folder: a model's, a run's, or one that was exported.
    pub(in crate::service) fn import_directory(
        &self,
        name: &ModelName,
        from: &Path,
        origin: Origin,
    ) -> Result<RegisteredModel, RegistryError> {
        self.check_name(name)?;
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(RegistryError::io("lock the registry"))?;
        let aside = self.aside()?;
        self.take(name, from, origin, &aside)
    }

    /// Takes a model from a tar archive.
    pub(in crate::service) fn import_archive(
        &self,
        name: &ModelName,
        archive: impl Read,
        max_bytes: u64,
    ) -> Result<RegisteredModel, RegistryError> {
        self.check_name(name)?;
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(RegistryError::io("lock the registry"))?;
        let unpacked = self.aside()?;
        unpack(archive, &unpacked.0, ArchiveLimits { bytes: max_bytes, entries: MAX_ENTRIES })?;
        let aside = self.aside()?;
        self.take(name, &only_folder(&unpacked.0), Origin::Imported, &aside)
    }

    fn check_name(&self, name: &ModelName) -> Result<(), RegistryError> {
        if RESERVED.contains(&name.as_str()) {
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

    fn take(
        &self,
        name: &ModelName,
        from: &Path,
        origin: Origin,
        aside: &Unfinished,
    ) -> Result<RegisteredModel, RegistryError> {
        let source = Source::find(from)?;
        let files = copy_model(&source, &aside.0)?;
        // What it is worth is known only once it opens.
        let (device, _) = tensor::open(tensor::DeviceChoice::Cpu);
        let opened = Embedder::open_as(name.as_str(), &aside.0.join(FILES), &device);
        let summary = opened.map_err(|error| RegistryError::Refused(chain(&error)))?.summary();
        let (parent, training) = match &source.run {
            Some(run) => lineage(run, &files),
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
        let text = serde_json::to_vec_pretty(&model)
            .map_err(|error| RegistryError::io("write a record")(std::io::Error::other(error)))?;
        write_atomic(&aside.0.join(RECORD), &text).map_err(|error| RegistryError::Io {
            what: "write a record",
            source: std::io::Error::other(error),
        })?;
        let what = "give the model its name";
        for dir in [aside.0.join(FILES), aside.0.clone()] {
            sync(&dir).map_err(RegistryError::io(what))?;
        }
        // Onto a folder that holds something this fails: of two imports of one name one wins.
        match std::fs::rename(&aside.0, self.dir(name)) {
            Ok(()) => {}
            Err(_) if self.dir(name).exists() => return Err(RegistryError::Exists(name.clone())),
            Err(error) => return Err(RegistryError::io(what)(error)),
        }
        sync(&self.root).map_err(RegistryError::io(what))?;
        Ok(model)
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

/// Copies what a model needs, and nothing else that lies there.
fn copy_model(source: &Source, to: &Path) -> Result<Vec<ModelFile>, RegistryError> {
    let what = "copy the model";
    std::fs::create_dir(to.join(FILES)).map_err(RegistryError::io(what))?;
    let mut copied = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&source.files).map_err(RegistryError::io(what))? {
        let name = entry.map_err(RegistryError::io(what))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if SMALL_FILES.contains(&name.as_str()) || name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let of_model = names.iter().map(|name| (source.files.join(name), format!("{FILES}/{name}")));
    let run = source.run.as_deref();
    let of_run = OF_RUN.iter().filter_map(|name| {
        let path = run?.join(name);
        path.is_file().then(|| (path, (*name).to_owned()))
    });
    for (from, name) in of_model.chain(of_run) {
        let target = to.join(&name);
        std::fs::copy(&from, &target).map_err(RegistryError::io(what))?;
        sync(&target).map_err(RegistryError::io(what))?;
        let (bytes, sha256) = digest(&target).map_err(RegistryError::io(what))?;
        copied.push(ModelFile { name, bytes, sha256 });
    }
    Ok(copied)
}

/// What a run, or an exported record, says of how the model was made. What cannot be read is not known.
fn lineage(run: &Path, files: &[ModelFile]) -> (Option<Parent>, Option<Training>) {
    let text = |name: &str| -> Option<Value> {
        let path = run.join(name);
        let small = path.metadata().is_ok_and(|about| about.is_file() && about.len() <= MAX_TEXT);
        small
            .then(|| std::fs::read(&path).ok())?
            .and_then(|text| serde_json::from_slice(&text).ok())
    };
    if let Some(exported) = text(RECORD).and_then(|v| serde_json::from_value(v).ok()) {
        let exported: RegisteredModel = exported;
        return (exported.parent, exported.training);
    }
    let Some(summary) = text("summary.json") else { return (None, None) };
    let Ok(summary) = serde_json::from_value::<Summary>(summary) else { return (None, None) };
    let hash =
        |name: &str| files.iter().find(|file| file.name == name).map(|file| file.sha256.clone());
    let training = Training {
        recipe_sha256: hash("recipe.toml"),
        data_sha256: hash("data.json"),
        subjects: summary.subjects,
        images: summary.images,
        before: summary.before,
        after: summary.after,
    };
    (summary.parent, Some(training))
}
