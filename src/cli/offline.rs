//! Opening the store from the command line, without a server.

use std::future::Future;
use std::path::Path;

use crate::config::{ModelArgs, StoreArgs};
use crate::service::tools::has_store;
use crate::service::{KeySource, ModelChoice, Service, ServiceError, ServiceOptions};

use super::Failure;

pub(super) fn options(
    store: &StoreArgs,
    model: &ModelArgs,
) -> Result<ServiceOptions, ServiceError> {
    let mut options = ServiceOptions::new(&store.data_dir);
    options.master_key = master_key(store);
    // A store may have another model than is asked for here; a new one is not made for a model that is not there.
    options.model = if has_store(&store.data_dir)? {
        ModelChoice::named_in(&model.model, &store.data_dir)
    } else {
        ModelChoice::found_in(&model.model, &store.data_dir)?
    };
    options.device.clone_from(&model.device);
    Ok(options)
}

/// Where the master key comes from.
pub(super) fn master_key(store: &StoreArgs) -> KeySource {
    let StoreArgs { data_dir, master_key_file, master_key_command, .. } = store;
    match (store.master_key_from_env(), master_key_command, master_key_file) {
        (Some(hex), _, _) => KeySource::Hex(hex),
        (None, Some(command), _) => KeySource::Command(command.clone()),
        (None, None, Some(file)) => KeySource::File(file.clone()),
        (None, None, None) => ServiceOptions::new(data_dir).master_key,
    }
}

/// What to do where there is no store yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Make one.
    Make,
    /// Say so: a mistyped folder is not to be filled with an empty store and a new key.
    Refuse,
}

impl Absent {
    /// Refuses a folder without a store, if that is asked for.
    pub(super) fn check(self, store: &StoreArgs) -> Result<(), Failure> {
        if self == Self::Make || has_store(&store.data_dir)? {
            return Ok(());
        }
        let dir = store.data_dir.display();
        let advice = "name another with --data-dir, or make one with `handclip enrol --create`";
        Err(format!("there is no store in {dir}: {advice}").into())
    }
}

/// Opens the store, does the work, closes the store.
pub(super) fn with_service<T, F>(
    absent: Absent,
    store: &StoreArgs,
    model: &ModelArgs,
    work: impl FnOnce(Service) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    absent.check(store)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // What a server left to be done is the server's: a command is not to stay for it.
    let service = Service::open(&ServiceOptions { job_threads: 0, ..options(store, model)? })?;
    for notice in service.notices() {
        note!("note: {notice}");
    }
    runtime.block_on(async {
        let result = work(service.clone()).await;
        // A failed command's error matters more than a snapshot that could not be written.
        let closed = service.close().await;
        let result = result?;
        closed?;
        Ok(result)
    })
}

pub(super) fn read_image(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(crate::service::tools::read_image(path, 32 * 1024 * 1024)?)
}
