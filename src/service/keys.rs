//! API keys: who may ask for what.

use std::time::Duration;

use crate::access::{ApiKeys, Caller, KeyId, NewKey};
use crate::domain::{Scope, now_ms};

use super::Service;
use super::audit::Deed;
use super::backup::OfflineStore;
use super::error::ServiceError;
use super::options::KeySource;
use super::views::{KeyListView, KeyView, NewKeyView};

/// Refuses whoever holds none of these scopes.
pub(super) fn require(caller: &Caller, scopes: &'static [Scope]) -> Result<(), ServiceError> {
    if caller.has_any(scopes) { Ok(()) } else { Err(ServiceError::ScopeMissing(scopes)) }
}

impl Service {
    /// Whether there has never been a key: then everybody who reaches the server may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.keys.is_open()
    }

    /// Who sends a token, or none.
    ///
    /// # Errors
    /// [`ServiceError::KeyRefused`].
    pub fn caller(&self, token: Option<&str>) -> Result<Caller, ServiceError> {
        self.0.keys.authenticate(token, now_ms()).map_err(ServiceError::KeyRefused)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`], [`ServiceError::FirstKey`], [`ServiceError::Full`].
    pub async fn create_key(&self, new: NewKey) -> Result<NewKeyView, ServiceError> {
        let keys = self.0.keys.clone();
        let deed = Deed::new("key.create").about(&new.name);
        self.change(deed, move || Ok(keys.create(new, now_ms())?.into())).await
    }

    /// Gives a key another secret; the one before is taken for `overlap_s` seconds more.
    ///
    /// # Errors
    /// [`ServiceError::KeyNotFound`], [`ServiceError::KeyRevoked`], [`ServiceError::Invalid`].
    pub async fn rotate_key(&self, id: KeyId, overlap_s: u64) -> Result<NewKeyView, ServiceError> {
        let keys = self.0.keys.clone();
        let overlap = Duration::from_secs(overlap_s);
        let deed = Deed::new("key.rotate").about(id);
        self.change(deed, move || Ok(keys.rotate(id, overlap, now_ms())?.into())).await
    }

    /// Has a key let nobody in any more.
    ///
    /// # Errors
    /// [`ServiceError::KeyNotFound`], [`ServiceError::LastAdminKey`].
    pub async fn revoke_key(&self, id: KeyId) -> Result<KeyView, ServiceError> {
        let keys = self.0.keys.clone();
        let deed = Deed::erasing("key.revoke").about(id);
        self.change(deed, move || Ok(keys.revoke(id, now_ms())?.into())).await
    }

    /// A key.
    ///
    /// # Errors
    /// [`ServiceError::KeyNotFound`].
    pub fn key(&self, id: KeyId) -> Result<KeyView, ServiceError> {
        Ok(self.0.keys.read(id, now_ms())?.into())
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> KeyListView {
        KeyListView { keys: self.0.keys.list(now_ms()).into_iter().map(Into::into).collect() }
    }
}

/// The keys of a data directory that no server has open.
#[derive(Debug)]
pub struct OfflineKeys {
    keys: ApiKeys,
    store: OfflineStore,
}

impl OfflineKeys {
    /// Opens a store, or makes one: a server that is to be reached from elsewhere needs a key before its first start. Gives
    /// what a person should be told, too.
    ///
    /// # Errors
    /// [`ServiceError::StoreInUse`] while a server runs, [`ServiceError::Damaged`].
    pub fn open(
        data_dir: &std::path::Path,
        master_key: &KeySource,
    ) -> Result<(Self, Vec<String>), ServiceError> {
        let (store, notices) = OfflineStore::open(data_dir, master_key)?;
        Ok((Self { keys: ApiKeys::open(store.store().clone())?, store }, notices))
    }

    /// As [`Service::create_key`].
    ///
    /// # Errors
    /// As there.
    pub fn create(&self, new: NewKey) -> Result<NewKeyView, ServiceError> {
        let deed = Deed::new("key.create").about(&new.name);
        self.store.audited(&deed, || Ok(self.keys.create(new, now_ms())?.into()))
    }

    /// As [`Service::rotate_key`].
    ///
    /// # Errors
    /// As there.
    pub fn rotate(&self, id: KeyId, overlap_s: u64) -> Result<NewKeyView, ServiceError> {
        let (deed, overlap) = (Deed::new("key.rotate").about(id), Duration::from_secs(overlap_s));
        self.store.audited(&deed, || Ok(self.keys.rotate(id, overlap, now_ms())?.into()))
    }

    /// As [`Service::revoke_key`].
    ///
    /// # Errors
    /// As there.
    pub fn revoke(&self, id: KeyId) -> Result<KeyView, ServiceError> {
        let deed = Deed::erasing("key.revoke").about(id);
        self.store.audited(&deed, || Ok(self.keys.revoke(id, now_ms())?.into()))
    }

    /// As [`Service::keys`].
    #[must_use]
    pub fn list(&self) -> Vec<KeyView> {
        self.keys.list(now_ms()).into_iter().map(Into::into).collect()
    }
}
