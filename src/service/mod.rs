//! What a caller can ask for, in the caller's words: galleries, enrolment, recognition, jobs. The command
//! line and the REST API hold nothing else. Knows no HTTP and prints nothing.

mod archive;
mod audit;
mod backup;
pub mod datasets;
mod deployment;
mod doubt;
mod enrolment;
mod error;
pub mod evaluate;
mod evaluations;
pub mod explain;
mod eyes;
pub mod fine_tune;
mod forget;
mod galleries;
mod gate;
mod jobs;
mod keys;
mod leak;
pub mod ledger;
mod measured;
mod models;
pub mod nano_card;
mod options;
pub mod pretrain;
mod recognition;
mod registry;
mod retention;
pub mod robustness;
mod room;
mod sources;
mod thresholds;
pub mod tools;
mod training_failure;
mod training_runs;
mod upkeep;
mod uploads;
mod views;
mod words;
mod workshop;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::ApiKeys;
use crate::gallery::{Galleries, GalleryOptions};
use crate::jobs::{Jobs, JobsOptions, Runner};
use crate::model::Embedder;
use crate::storage::{Failpoint, MasterKey, Store, StoreOptions};
use crate::tensor::DeviceChoice;

use audit::AuditLog;
use deployment::{Deployments, Keeper};
use eyes::Eyes;
use gate::Gate;
use registry::Registry;
use workshop::Workshop;

pub use crate::access::{Caller, KeyId, KeyIdError, NewKey, Refusal};
pub use crate::dataset::{DatasetError, LabelledImage, read as read_dataset};
pub use crate::jobs::{Event as JobEvent, JobId, JobIdError, Subscription as JobEvents};
pub use crate::storage::BackupInfo;
pub use audit::{
    AuditCheckView, AuditEntry, AuditHead, AuditLine, AuditPage, AuditProblemView, AuditQuery,
    check_exported,
};
pub use backup::{
    ErasureList, OfflineStore, Replace, Restore, RestoredView, change_master_key, check_backup,
    write_new,
};
pub use deployment::{
    ChallengerView, DeployRequest, DeploymentView, HistoryView, PreviousView, WithoutImages,
};
pub use error::ServiceError;
pub use evaluations::{EvaluationAsk, EvaluationView, ReportFile, default_selection};
pub use galleries::PageRequest;
pub use jobs::{JOB_KINDS, JobsRequest};
pub use keys::OfflineKeys;
pub use leak::LeakError;
pub use models::{Archive, ArchivePart, Upload};
pub use options::{KeySource, ModelChoice, ServiceOptions};
pub use recognition::MAX_RESULTS;
pub use registry::{
    Merit, ModelFile, OfflineRegistry, Origin, Parent, RegisteredModel, RegistryError, Training,
};
pub use sources::{DataRoot, DataRootError, ImageSource};
pub use training_runs::{TrainingAsk, TrainingRunView};
pub use uploads::DatasetView;
pub use views::*;

/// Requests that may wait for an explanation; one is made at a time, since each keeps a picture and a whole pass in memory.
const MOST_WAITING_FOR_EXPLANATIONS: usize = 16;

/// Requests that may wait for a model to be read or written.
const MOST_WAITING_FOR_MODELS: usize = 4;

/// How long a running job may take to heed a stop; it goes on after the next start either way.
const STOP_JOBS_WITHIN: Duration = Duration::from_secs(10);

/// Everything that is served. Cheap to clone; clones share all of it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    /// First, so that no job is left running when the rest goes. `None` where jobs are kept and not run.
    runner: Option<Runner>,
    jobs: Jobs,
    keys: ApiKeys,
    store: Store,
    audit: AuditLog,
    keeper: Keeper,
    workshop: Arc<Workshop>,
    galleries: Galleries,
    eyes: Eyes,
    explaining: Gate,
    /// Models on their way in or out.
    importing: Gate,
    nano: ModelView,
    notices: Vec<String>,
    /// When the model last answered a test picture, and what.
    readiness: tokio::sync::Mutex<Option<(Instant, Readiness)>>,
}

impl Service {
    /// Opens the store, loads the model and starts its thread. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`ServiceError`] saying what to do, for a store in use or damaged, a wrong key, a model that
    /// cannot be loaded.
    pub fn open(options: &ServiceOptions) -> Result<Self, ServiceError> {
        let mut notices = Vec::new();
        let master_key = key_of(&options.data_dir, &options.master_key, &mut notices)?;
        let failpoint = Failpoint::new(options.failpoint.clone());
        let store_options = StoreOptions {
            failpoint: failpoint.clone(),
            ..StoreOptions::new(&options.data_dir, master_key)
        };
        // Galleries are most of what there is to read.
        let (store, galleries) = Store::open_with(store_options, |store| {
            let galleries = Galleries::open(store.clone(), GalleryOptions::default());
            galleries.map_err(ServiceError::from)
        })?;
        let keys = ApiKeys::open(store.clone())?;
        let jobs = Jobs::open(store.clone(), JobsOptions::default())?;
        let audit = AuditLog::new(store.clone());
        let registry = Registry::open(&options.data_dir)?;
        let deployments =
            Deployments::open(options, galleries.clone(), registry.clone(), &mut notices)?;
        let nano = deployments.nano()?;
        let workshop =
            Arc::new(Workshop::new(galleries.clone(), deployments, registry, failpoint, options));
        let runner = match options.job_threads {
            0 => None,
            threads => {
                // One device, one heavy job at a time.
                let slots = [options.device.clone()];
                Some(Runner::start(jobs.clone(), jobs::handlers(&workshop), &slots, threads)?)
            }
        };
        let keeping = runner.as_ref().map(|_| (Arc::clone(&workshop), jobs.clone(), audit.clone()));
        Ok(Self(Arc::new(Inner {
            runner,
            keeper: Keeper::start(keeping)?,
            jobs,
            keys,
            store,
            audit,
            workshop,
            galleries,
            eyes: Eyes::new(options),
            explaining: Gate::new(1, MOST_WAITING_FOR_EXPLANATIONS),
            importing: Gate::new(2, MOST_WAITING_FOR_MODELS),
            nano,
            notices,
            readiness: tokio::sync::Mutex::default(),
        })))
    }

    /// What a person should be told once: a new master key, a device that was not there.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.0.notices
    }

    /// Embeddings that wait or are being computed.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.0.workshop.deployments.load().live.batcher.queue_depth()
    }

    /// Has running jobs leave off, to go on after the next start; writes snapshots of the indexes and closes the store.
    /// Nothing acknowledged depends on it: it makes the next start quicker.
    ///
    /// # Errors
    /// [`ServiceError`] when a snapshot cannot be written.
    pub async fn close(&self) -> Result<(), ServiceError> {
        let service = self.clone();
        blocking(move || {
            let Inner { runner, keeper, galleries, .. } = &*service.0;
            keeper.stop();
            if let Some(runner) = runner {
                runner.stop(STOP_JOBS_WITHIN);
            }
            for gallery in galleries.list() {
                gallery.save_interactions()?;
            }
            Ok(galleries.close()?)
        })
        .await
    }
}

impl Service {
    /// The models in use: load once a request.
    fn deployment_now(&self) -> Arc<deployment::Deployment> {
        self.0.workshop.deployments.load()
    }
}

/// Opens the store of a data directory, with its master key.
fn open_store(
    data_dir: &Path,
    master_key: &KeySource,
    notices: &mut Vec<String>,
) -> Result<Store, ServiceError> {
    let master_key = key_of(data_dir, master_key, notices)?;
    Ok(Store::open(StoreOptions::new(data_dir, master_key))?)
}

/// The key of the store in a data directory: one is made only with the store. Later it would open nothing, and lie where the right one is
/// looked for.
fn key_of(
    data_dir: &Path,
    source: &KeySource,
    notices: &mut Vec<String>,
) -> Result<MasterKey, ServiceError> {
    if Store::exists(data_dir)? {
        backup::existing_key(source)
    } else {
        master_key(source, notices)
    }
}

/// A master key; one of a file that is not there is made.
fn master_key(source: &KeySource, notices: &mut Vec<String>) -> Result<MasterKey, ServiceError> {
    Ok(match source {
        KeySource::Hex(text) => MasterKey::from_hex(text)?,
        KeySource::Command(command) => MasterKey::from_command(command)?,
        KeySource::File(path) => {
            let (key, created) = MasterKey::load_or_create(path)?;
            if created {
                notices.push(format!(
                    "made a new master key at {}: keep a copy apart from the data, nothing can be read without it",
                    path.display()
                ));
            }
            key
        }
    })
}

/// Loads a model.
pub(crate) fn open_model(
    model: &ModelChoice,
    device: &str,
    notices: &mut Vec<String>,
) -> Result<Embedder, ServiceError> {
    let choice: DeviceChoice = device.parse()?;
    let (device, notice) = crate::tensor::open(choice);
    notices.extend(notice);
    let precision = choice.precision();
    let opened = match model {
        ModelChoice::Nano => Embedder::nano_in(precision, &device),
        ModelChoice::Directory(path) => Embedder::open_in(None, path, precision, &device),
        ModelChoice::Registered { name, files } => {
            Embedder::open_in(Some(name), files, precision, &device)
        }
    };
    opened.map_err(|error| {
        let why = error::chain(&error);
        // Several may be opened, and the folder's name is none that anybody gave.
        ServiceError::Model(match model {
            ModelChoice::Registered { name, .. } => format!("{name}: {why}"),
            ModelChoice::Nano | ModelChoice::Directory(_) => why,
        })
    })
}

/// Runs work that computes or waits for the disk away from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(ServiceError::Stopping),
        Err(_) => Err(ServiceError::Internal("a worker failed; the log says where".to_owned())),
    }
}
