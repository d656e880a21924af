//! Backups of a store, and what is done with a data directory that no server has open.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::ApiKeys;
use crate::domain::now_ms;
use crate::gallery::{Erasure, apply_erasures, erasures};
use crate::storage::{
    BackupInfo, MasterKey, StorageError, Store, StoreOptions, backup_of, rotate_master_key, stage,
    verify_backup,
};

use super::audit::{
    AuditCheckView, AuditHead, AuditLog, AuditPage, AuditQuery, Deed, Outcome, author,
};
use super::error::ServiceError;
use super::models::{Archive, Parts};
use super::options::KeySource;
use super::{Service, blocking, master_key, open_store};

/// Everything that was ever erased from a store, for whoever puts back a backup without it. Names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErasureList {
    /// The store.
    pub store: String,
    /// When this was asked for, milliseconds since 1970.
    pub made_at_ms: u64,
    /// The erasures.
    #[schema(value_type = Vec<Object>)]
    pub erasures: Vec<Erasure>,
}

fn erasure_list(store: &Store) -> Result<ErasureList, ServiceError> {
    let (of, made_at_ms) = (store.id().to_owned(), now_ms());
    Ok(ErasureList { store: of, made_at_ms, erasures: erasures(store)? })
}

impl Service {
    /// A backup of the whole store, sealed, as parts. Everything goes on meanwhile. A part that is an error is the last one.
    ///
    /// # Errors
    /// [`ServiceError::StorageFull`] where it cannot be written down that one is made.
    pub async fn backup(&self) -> Result<Archive, ServiceError> {
        let (log, by) = (self.0.audit.clone(), author(&crate::access::Caller::current()));
        let deed = Deed::new("backup");
        let (begun, log) = blocking(move || Ok((log.begin(&by, &deed)?, log))).await?;
        let (mut writer, parts) = Parts::channel();
        let store = self.0.store.clone();
        tokio::task::spawn_blocking(move || {
            let made = store.backup(&mut writer);
            log.end(&begun, &[Outcome::of(made.is_ok())]);
            if let Err(error) = made {
                // Nobody must take what came for all of it; whoever checks it sees that, too.
                tracing::warn!(%error, "a backup was not made to its end");
                writer.fail(error.into());
            }
        });
        Ok(parts)
    }

    /// Everything that was ever erased.
    ///
    /// # Errors
    /// The store's.
    pub async fn erasures(&self) -> Result<ErasureList, ServiceError> {
        let store = self.0.store.clone();
        blocking(move || erasure_list(&store)).await
    }
}

/// The store of a data directory that no server has open.
#[derive(Clone)]
pub struct OfflineStore {
    store: Store,
    audit: AuditLog,
}

impl std::fmt::Debug for OfflineStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OfflineStore({:?})", self.store)
    }
}

impl OfflineStore {
    /// Opens a store, or makes one. Gives what a person should be told, too.
    ///
    /// # Errors
    /// [`ServiceError::StoreInUse`] while a server runs, [`ServiceError::Damaged`].
    pub fn open(
        data_dir: &Path,
        master_key: &KeySource,
    ) -> Result<(Self, Vec<String>), ServiceError> {
        let mut notices = Vec::new();
        let store = open_store(data_dir, master_key, &mut notices)?;
        let audit = AuditLog::new(store.clone());
        Ok((Self { store, audit }, notices))
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn audited<T>(
        &self,
        deed: &Deed,
        work: impl FnOnce() -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        self.audit.around("local", deed, work)
    }

    /// As [`Service::audit_lines`].
    ///
    /// # Errors
    /// As there.
    pub fn audit_lines(&self, query: &AuditQuery) -> Result<AuditPage, ServiceError> {
        self.audit.page(query)
    }

    /// As [`Service::check_audit`].
    ///
    /// # Errors
    /// As there.
    pub fn check_audit(&self, expected: &[AuditHead]) -> Result<AuditCheckView, ServiceError> {
        self.audit.check(expected)
    }

    /// As [`Service::erasures`].
    ///
    /// # Errors
    /// As there.
    pub fn erasures(&self) -> Result<ErasureList, ServiceError> {
        erasure_list(&self.store)
    }

    /// Writes a backup to a file that is not there yet, and is there only when it is whole.
    ///
    /// # Errors
    /// [`ServiceError::Backup`].
    pub fn backup(&self, to: &Path) -> Result<BackupInfo, ServiceError> {
        self.audited(&Deed::new("backup"), || write_new(to, |file| Ok(self.store.backup(file)?)))
    }
}

/// Writes a file that is not there yet, for its owner only: under another name until it is whole.
///
/// # Errors
/// [`ServiceError::Backup`] when it is there or cannot be written.
pub fn write_new<T>(
    to: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let failed = |error: std::io::Error| {
        ServiceError::Backup(format!("cannot write `{}`: {error}", to.display()))
    };
    if to.exists() {
        return Err(ServiceError::Backup(format!("`{}` is there already", to.display())));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let aside = to.with_file_name(name);
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&aside).map_err(failed).and_then(|file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let made = write(&mut file)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
        std::fs::rename(&aside, to).map_err(failed)?;
        Ok(made)
    });
    if written.is_err() {
        // The error says what is amiss; half a backup helps nobody.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Reads a whole backup and opens every record in it.
///
/// # Errors
/// [`ServiceError::Backup`] saying what is wrong with it.
pub fn check_backup(file: &Path, key: &KeySource) -> Result<BackupInfo, ServiceError> {
    Ok(verify_backup(file, &existing_key(key)?)?)
}

/// A backup is put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// The data directory that it is put into.
    pub data_dir: PathBuf,
    /// The master key that opens the store, before and after.
    pub master_key: KeySource,
    /// The master key of the time when the backup was made, if that was another.
    pub backup_key: Option<KeySource>,
    /// What becomes of the store that is there.
    pub replace: Replace,
    /// What was erased from a store that is lost.
    pub erasures: Vec<ErasureList>,
}

/// What becomes of the store that is there when a backup is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It stays, and the backup is not put back.
    Never,
    /// It is asked who was erased, and replaced.
    Sound,
    /// It cannot be opened any more, and is replaced without being asked.
    Damaged,
}

/// What putting back did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredView {
    /// What was put back.
    pub backup: BackupInfo,
    /// People who were erased after it was made and did not come back.
    pub erased_again: usize,
    /// Whether the API keys of the store that was replaced were kept: a key that was revoked since stays so.
    pub keys_kept: bool,
}

impl Restore {
    /// Puts the backup back. Whoever was erased since, by what the store that is there and the lists say, does not come back, and
    /// keys that were revoked since stay revoked. Nothing is changed until all of that is done beside it.
    ///
    /// # Errors
    /// [`ServiceError::Backup`], [`ServiceError::StoreInUse`], [`ServiceError::Damaged`].
    pub fn run(&self) -> Result<RestoredView, ServiceError> {
        let master_key = existing_key(&self.master_key)?;
        let backup_key = self.backup_key.as_ref().map(existing_key).transpose()?;
        let of = backup_of(&self.file)?;
        let mut gone: Vec<Erasure> = Vec::new();
        for list in &self.erasures {
            if list.store != of {
                let text = format!("a list is of store {}, the backup of {of}", list.store);
                return Err(ServiceError::Backup(text));
            }
            gone.extend(list.erasures.iter().cloned());
        }
        let mut present = None;
        let dir = self.data_dir.display();
        let there = Store::exists(&self.data_dir)?;
        if there && self.replace == Replace::Never {
            let text = format!("there is a store in {dir}: say --replace, or name another folder");
            return Err(ServiceError::Backup(text));
        }
        if there && self.replace == Replace::Sound {
            let opened = Store::open(StoreOptions::new(&self.data_dir, master_key.clone()));
            let store = opened.map_err(|error| {
                let damaged = matches!(
                    error,
                    StorageError::Damaged { .. } | StorageError::OpenTimeout { .. }
                );
                if damaged {
                    return ServiceError::Backup(format!(
                        "the store in {dir} cannot tell who was erased since the backup was made ({error}): say --damaged to replace it all the same, and give what is known of erasures with --erasures"
                    ));
                }
                error.into()
            })?;
            if store.id() != of {
                let text = format!("the store in {dir} is another one than the backup is of");
                return Err(ServiceError::Backup(text));
            }
            gone.extend(erasures(&store)?);
            // A backup's keys are better than none: a store that has had one lets nobody in without.
            present = Some(ApiKeys::records(&store)?).filter(|keys| !keys.is_empty());
            store.close();
        }
        let staged = stage(&self.file, &self.data_dir, backup_key.as_ref().unwrap_or(&master_key))?;
        let prepared = (|| {
            if let Some(backup_key) = &backup_key {
                rotate_master_key(&staged.dir(), backup_key, &master_key)?;
            }
            let store = Store::open(StoreOptions {
                ballast_bytes: 0,
                ..StoreOptions::new(staged.dir(), master_key)
            })?;
            let log = AuditLog::new(store.clone());
            let deed = Deed::erasing("restore").about(&staged.info().backup);
            let erased_again = log.around("local", &deed, || {
                if let Some(keys) = &present {
                    ApiKeys::replace_records(&store, keys)?;
                }
                Ok(apply_erasures(&store, &gone)?)
            })?;
            store.close();
            Ok(erased_again)
        })();
        let erased_again = match prepared {
            Ok(erased_again) => erased_again,
            Err(error) => {
                staged.discard()?;
                return Err(error);
            }
        };
        let backup = staged.install()?;
        Ok(RestoredView { backup, erased_again, keys_kept: present.is_some() })
    }
}

/// Has another master key open a store, and the one before no more.
///
/// # Errors
/// [`ServiceError::StoreInUse`], [`ServiceError::Damaged`] for a key that is not the store's.
pub fn change_master_key(
    data_dir: &Path,
    old: &KeySource,
    new: &KeySource,
) -> Result<Vec<String>, ServiceError> {
    let mut notices = Vec::new();
    let old = existing_key(old)?;
    let new = master_key(new, &mut notices)?;
    rotate_master_key(data_dir, &old, &new)?;
    Ok(notices)
}

/// A key that must be there: one that is made now opens nothing.
pub(super) fn existing_key(source: &KeySource) -> Result<MasterKey, ServiceError> {
    if let KeySource::File(path) = source
        && !path.exists()
    {
        return Err(ServiceError::Damaged(format!(
            "there is no master key at {}: put the copy there that was kept, or say where it is",
            path.display()
        )));
    }
    master_key(source, &mut Vec::new())
}
