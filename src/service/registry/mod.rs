//! Models by name: a folder for each below the data directory, written once and never changed.
//!
//! ```text
//! models/NAME/model.json    what it is and where it comes from
//! models/NAME/files/        the model, as Hugging Face lays it out
//! models/NAME/data.json     what it was trained on, as hashes of images; recipe.toml: how
//! ```
//! Another process may look at the same folder. Whoever serves a model holds a shared lock on its `model.json`; whoever
//! imports holds one on `models/.lock`, so that nobody takes a half-written folder for one that a crash left.

mod import;
mod offline;
mod record;
mod source;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::domain::{ModelName, hex};
use crate::storage::file::{create_private_dir, lock_soon, sha256};

use super::archive::{ArchiveError, pack};
use super::fine_tune::{People, TRAINED_ON, TrainedOn, strike};
use super::options::ModelChoice;
use super::words::overwrite_words;

pub use offline::OfflineRegistry;
pub use record::{Merit, ModelFile, Origin, Parent, RegisteredModel, Training};

/// Names that mean something else.
pub(in crate::service) const RESERVED: [&str; 4] = ["nano", "champion", "challenger", "previous"];
const RECORD: &str = "model.json";
/// Where a model of the registry has its files, and a folder that the registry wrote.
pub(in crate::service) const FILES: &str = "files";
/// Folders that are being made or removed begin so; no name does.
const UNFINISHED: &str = ".unfinished-";

/// Why the registry cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is taken.
    #[error("there is a model `{0}` already")]
    Exists(ModelName),
    /// No such model.
    #[error("there is no model `{name}`; there are {there}")]
    NotFound {
        /// The name.
        name: String,
        /// Those there are.
        there: String,
    },
    /// The name means something else.
    #[error("`{0}` is no name for a model of the registry: it means something already")]
    Reserved(String),
    /// Somebody serves it.
    #[error("model `{0}` is deployed")]
    Deployed(ModelName),
    /// What was brought is no model.
    #[error("the model is refused: {0}")]
    Refused(String),
    /// What was brought is too large.
    #[error("the model is refused: {0}")]
    TooLarge(String),
    /// It would take more memory than there is to open it.
    #[error("opening the model may take {needed} bytes of memory and {available} are free")]
    Memory {
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A file is missing, or not what it was.
    #[error("model `{name}` is damaged: {problem}")]
    Damaged {
        /// The model.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk says no.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RegistryError {
    fn io(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl From<ArchiveError> for RegistryError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            ArchiveError::Refused(_) => Self::Refused(error.to_string()),
            ArchiveError::Io(source) => Self::Io { what: "unpack the model", source },
        }
    }
}

/// Keeps a model from being deleted, in this process and in others.
#[derive(Debug)]
pub(in crate::service) struct Held {
    _lock: File,
}

/// The models of a data directory.
#[derive(Debug, Clone)]
pub(in crate::service) struct Registry {
    root: PathBuf,
}

impl Registry {
    /// Opens the registry of a data directory, and removes what interrupted imports left. Makes nothing: the first import
    /// does.
    pub(in crate::service) fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        let registry = Self::at(data_dir);
        if registry.unfinished().is_empty() {
            return Ok(registry);
        }
        // Nobody is importing if nobody else holds it; held until all is removed, so that nobody begins meanwhile.
        let lock = registry.lock_file()?;
        if lock.try_lock().is_ok() {
            for dir in registry.unfinished() {
                if let Err(error) = std::fs::remove_dir_all(&dir) {
                    tracing::warn!(%error, "what an interrupted import left is not removed");
                }
            }
        }
        Ok(registry)
    }

    /// The registry of a data directory, to look at only.
    pub(in crate::service) fn at(data_dir: &Path) -> Self {
        Self { root: data_dir.join("models") }
    }

    fn lock_file(&self) -> Result<File, RegistryError> {
        create_private_dir(&self.root).map_err(|error| RegistryError::Io {
            what: "make the registry's folder",
            source: std::io::Error::other(error),
        })?;
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        options.open(self.root.join(".lock")).map_err(RegistryError::io("lock the registry"))
    }

    /// While the answer lives nobody takes an unfinished folder for one that a crash left.
    fn lock_shared(&self) -> Result<File, RegistryError> {
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(RegistryError::io("lock the registry"))?;
        Ok(lock)
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let left = entries.filter(|e| e.file_name().to_string_lossy().starts_with(UNFINISHED));
        left.map(|entry| entry.path()).collect()
    }

    fn dir(&self, name: &ModelName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Strikes people from the lists of what models were trained on, those on their way in too.
    pub(in crate::service) fn strike(&self, who: &People<'_>) -> std::io::Result<()> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        for dir in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            if strike(&dir, who)? {
                say_what_list(&dir)?;
            }
        }
        Ok(())
    }

    fn not_found(&self, name: &str) -> RegistryError {
        let mut there = vec!["nano".to_owned()];
        there.extend(self.names().iter().map(ToString::to_string));
        RegistryError::NotFound { name: name.to_owned(), there: there.join(", ") }
    }

    fn names(&self) -> Vec<ModelName> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<ModelName> = entries
            .filter(|entry| entry.path().join(RECORD).is_file())
            .filter_map(|entry| ModelName::new(entry.file_name().to_string_lossy()).ok())
            .collect();
        names.sort();
        names
    }

    /// Every model, by name. One whose record is damaged is left out of the list and named in the log.
    pub(in crate::service) fn list(&self) -> Vec<RegisteredModel> {
        let read = |name: ModelName| match self.read(name.as_str()) {
            Ok(model) => Some(model),
            Err(error) => {
                tracing::warn!(%error, "a model is left out of the list");
                None
            }
        };
        self.names().into_iter().filter_map(read).collect()
    }

    /// One model.
    pub(in crate::service) fn read(&self, name: &str) -> Result<RegisteredModel, RegistryError> {
        let name = ModelName::new(name).map_err(|_| self.not_found(name))?;
        let text = match std::fs::read(self.dir(&name).join(RECORD)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.not_found(name.as_str()));
            }
            Err(error) => return Err(RegistryError::io("read a model's record")(error)),
        };
        let damaged = |problem: String| RegistryError::Damaged { name: name.to_string(), problem };
        let model: RegisteredModel =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if model.name != name || model.format != 1 {
            return Err(damaged("its record is another model's".to_owned()));
        }
        Ok(model)
    }

    /// What opens a model.
    pub(in crate::service) fn choice(&self, name: &str) -> Result<ModelChoice, RegistryError> {
        if name == "nano" {
            return Ok(ModelChoice::Nano);
        }
        Ok(self.choice_of(&self.read(name)?.name))
    }

    /// What opens a model if there is one of that name.
    pub(in crate::service) fn choice_of(&self, name: &ModelName) -> ModelChoice {
        ModelChoice::Registered { name: name.to_string(), files: self.dir(name).join(FILES) }
    }

    /// Keeps a model from being deleted for as long as the answer lives.
    pub(in crate::service) fn hold(&self, name: &str) -> Result<Held, RegistryError> {
        let model = self.read(name)?;
        let what = "lock a model";
        let lock =
            File::open(self.dir(&model.name).join(RECORD)).map_err(RegistryError::io(what))?;
        lock.lock_shared().map_err(RegistryError::io(what))?;
        // Deleted between the two looks.
        self.read(name)?;
        Ok(Held { _lock: lock })
    }

    /// Reads every file again and compares.
    pub(in crate::service) fn verify(&self, name: &str) -> Result<RegisteredModel, RegistryError> {
        let model = self.read(name)?;
        let dir = self.dir(&model.name);
        for file in &model.files {
            let damaged = |problem: String| RegistryError::Damaged {
                name: model.name.to_string(),
                problem: format!("{} {problem}", file.name),
            };
            let (bytes, sha256) = digest(&dir.join(&file.name))
                .map_err(|error| damaged(format!("cannot be read: {error}")))?;
            if bytes != file.bytes {
                return Err(damaged(format!("has {bytes} bytes, it had {}", file.bytes)));
            }
            // Who is erased is struck from the list first, and its hash is written down after: a crash may come between.
            let list_was_struck = || {
                let list = TrainedOn::beside(&dir.join(FILES)).ok().flatten();
                file.name == TRAINED_ON && list.is_some_and(|list| list.lacks_somebody())
            };
            if sha256 != file.sha256 && !list_was_struck() {
                return Err(damaged("has another content than it had".to_owned()));
            }
        }
        Ok(model)
    }

    /// Removes a model that nobody serves.
    pub(in crate::service) fn delete(&self, name: &str) -> Result<(), RegistryError> {
        let model = self.read(name)?;
        let dir = self.dir(&model.name);
        let what = "delete a model";
        let record = File::open(dir.join(RECORD)).map_err(RegistryError::io(what))?;
        match lock_soon(&record) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RegistryError::Deployed(model.name)),
            Err(TryLockError::Error(error)) => return Err(RegistryError::io(what)(error)),
        }
        let _lock = self.lock_shared()?;
        // Gone from the list at once, whatever becomes of the files.
        let aside = self.root.join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
        std::fs::rename(&dir, &aside).map_err(RegistryError::io(what))?;
        std::fs::remove_dir_all(&aside).map_err(RegistryError::io(what))
    }

    /// A model whose files are all there and as long as they were; what is in them only [`Registry::verify`] tells.
    pub(in crate::service) fn whole(&self, name: &str) -> Result<RegisteredModel, RegistryError> {
        let model = self.read(name)?;
        let dir = self.dir(&model.name);
        for file in &model.files {
            let about = std::fs::metadata(dir.join(&file.name));
            if !about.is_ok_and(|about| about.is_file() && about.len() == file.bytes) {
                let problem = format!("{} is missing or of another size than it had", file.name);
                return Err(RegistryError::Damaged { name: model.name.to_string(), problem });
            }
        }
        Ok(model)
    }

    /// A model, kept from being deleted while it is exported.
    pub(in crate::service) fn export(&self, name: &str) -> Result<Export, RegistryError> {
        let held = self.hold(name)?;
        let model = self.whole(name)?;
        say_what_list(&self.dir(&model.name))
            .map_err(RegistryError::io("look at what the model was trained on"))?;
        let model = self.read(model.name.as_str())?;
        Ok(Export { dir: self.dir(&model.name), model, _held: held })
    }
}

/// A model on its way out.
pub(in crate::service) struct Export {
    model: RegisteredModel,
    dir: PathBuf,
    _held: Held,
}

impl Export {
    fn names(&self) -> Vec<String> {
        let files = self.model.files.iter().map(|file| file.name.clone());
        std::iter::once(RECORD.to_owned()).chain(files).collect()
    }

    /// Writes a tar archive that an import takes.
    pub(in crate::service) fn write(&self, writer: impl std::io::Write) -> std::io::Result<()> {
        pack(writer, &self.dir, &self.names(), self.model.name.as_str())
    }

    /// Writes a folder that an import takes; it must not be there yet.
    fn write_folder(&self, to: &Path) -> std::io::Result<()> {
        std::fs::create_dir(to)?;
        let copy = |name: &String| {
            let target = to.join(name);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(self.dir.join(name), &target)?;
            File::open(&target)?.sync_all()
        };
        let copied = self.names().iter().try_for_each(copy);
        if copied.is_err() {
            // Half a model is of no use; the error says why.
            let _ = std::fs::remove_dir_all(to);
        }
        copied
    }
}

/// Has a model's record say which list of what it was trained on lies beside it, if another than it says.
fn say_what_list(dir: &Path) -> std::io::Result<()> {
    let list = dir.join(TRAINED_ON);
    if !list.is_file() {
        return Ok(());
    }
    let (_, now) = digest(&list)?;
    overwrite_words(&dir.join(RECORD), |text| {
        let record: Option<RegisteredModel> = serde_json::from_slice(text).ok();
        let files = record.into_iter().flat_map(|record| record.files);
        files
            .filter(|file| file.name == TRAINED_ON)
            .map(|file| (file.sha256, now.clone()))
            .take(1)
            .collect()
    })?;
    Ok(())
}

/// Size and SHA-256 of a file, a part of it in memory at a time.
fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let (bytes, hash) = sha256(File::open(path)?)?;
    Ok((bytes, hex(&hash)))
}
