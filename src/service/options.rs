use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::ModelName;

use super::error::ServiceError;
use super::registry::{FILES, Registry};

/// Which model serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// The one inside the binary.
    Nano,
    /// A Hugging Face style directory.
    Directory(PathBuf),
    /// One of the registry.
    Registered {
        /// What it is called there.
        name: String,
        /// Where its files lie.
        files: PathBuf,
    },
}

impl ModelChoice {
    /// As [`ModelChoice::named`], or, where there is no such path, a name of the registry of a data directory. Whether
    /// there is one shows when it is opened: what a server was started with may be gone since another was deployed.
    #[must_use]
    pub fn named_in(name: &str, data_dir: &Path) -> Self {
        let is_path = name == "nano" || Path::new(name).exists();
        match ModelName::new(name) {
            Ok(name) if !is_path => Registry::at(data_dir).choice_of(&name),
            Ok(_) | Err(_) => Self::named(name),
        }
    }

    /// As [`ModelChoice::named_in`], for one that must be there.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`] with the names that there are.
    pub fn found_in(name: &str, data_dir: &Path) -> Result<Self, ServiceError> {
        match Self::named_in(name, data_dir) {
            Self::Registered { name, .. } => Ok(Registry::at(data_dir).choice(&name)?),
            found @ (Self::Nano | Self::Directory(_)) => Ok(found),
        }
    }

    /// Where its files lie, unless it is inside the binary.
    pub(super) fn files(&self) -> Option<&Path> {
        match self {
            Self::Nano => None,
            Self::Directory(files) | Self::Registered { files, .. } => Some(files),
        }
    }

    /// `nano`, the path of a model's directory, that of a run, whose best weights are meant, or that of a model that the
    /// registry wrote.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "nano" {
            return Self::Nano;
        }
        let path = PathBuf::from(name);
        let is_model = |dir: &Path| dir.join("config.json").is_file();
        let within = ["best", FILES].map(|name| path.join(name));
        let inner = within.into_iter().find(|dir| !is_model(&path) && is_model(dir));
        Self::Directory(inner.unwrap_or(path))
    }
}

/// Where the master key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file, made with mode 0600 at the first start.
    File(PathBuf),
    /// 64 hexadecimal digits.
    Hex(String),
    /// A command that prints them, as a key management service's client does.
    Command(String),
}

/// Everything that [`Service::open`](super::Service::open) needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceOptions {
    /// Folder of the store.
    pub data_dir: PathBuf,
    /// The key that seals it.
    pub master_key: KeySource,
    /// The model.
    pub model: ModelChoice,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Largest image file, in bytes.
    pub max_image_bytes: usize,
    /// Images decoded at a time.
    pub decoders: usize,
    /// Images that may wait for a decoder; one more is refused.
    pub decode_queue: usize,
    /// Embeddings computed together, at most.
    pub max_batch: usize,
    /// How long the first request of a batch waits for others.
    pub max_wait: Duration,
    /// Embeddings that may wait; one more is refused.
    pub queue: usize,
    /// Threads that a job computes on; with 0 jobs are kept and not run.
    pub job_threads: usize,
    /// Folders that requests may read labelled images from.
    pub data_roots: Vec<super::DataRoot>,
    /// How much worse than the model that serves a challenger may be.
    pub gate_margins: super::evaluate::GateMargins,
    /// Largest data set that is taken, in bytes.
    pub max_dataset_bytes: u64,
    /// Largest model that is taken into the registry, in bytes.
    pub max_model_bytes: u64,
    /// Most memory that a deployment may take, in bytes; `None` for what the system has.
    pub deploy_memory_bytes: Option<u64>,
    /// A step of a deployment or an erasure at which the process ends as if it crashed; for tests.
    pub failpoint: Option<String>,
}

impl ServiceOptions {
    /// Half the processors, at least one: the other half serves.
    #[must_use]
    pub fn default_job_threads() -> usize {
        std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
    }

    /// The defaults for a data directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            master_key: KeySource::File(data_dir.join("master.key")),
            data_dir,
            model: ModelChoice::Nano,
            device: "auto".to_owned(),
            max_image_bytes: 32 * 1024 * 1024,
            // Of one alone, a photograph of a telephone held upright would take more than its memory.
            decoders: std::thread::available_parallelism().map_or(2, |n| n.get().max(2)),
            decode_queue: 128,
            max_batch: 16,
            max_wait: Duration::from_micros(500),
            queue: 256,
            job_threads: Self::default_job_threads(),
            data_roots: Vec::new(),
            gate_margins: super::evaluate::GateMargins::default(),
            max_dataset_bytes: 2 << 30,
            max_model_bytes: 8 << 30,
            deploy_memory_bytes: None,
            failpoint: None,
        }
    }
}
