use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::domain::{GalleryId, Scope};
use crate::storage::{Batch, Seal, Store, hmac_sha256, macs_equal};

use super::caller::Caller;
use super::error::{AccessError, Refusal};
use super::id::KeyId;
use super::record::{KeyInfo, KeyRecord, KeyState, SecretMac};
use super::token::{Secret, Token};

/// Records of keys in the store: this byte, then the key's id. 01 to 09, 81 and 82 are the gallery room's, 20 to 22
/// the jobs'.
const KEY: u8 = 0x30;
/// Most keys that are kept, revoked ones too.
pub const MAX_KEYS: usize = 10_000;
const MAX_NAME: usize = 128;
const MAX_GALLERIES: usize = 100;
/// Longest that a secret may be taken after a rotation: 30 days.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// Secrets of a key that may be taken at a time.
const MAX_SECRETS: usize = 3;

/// A key to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    /// What to call it: who holds it, for what.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// In which galleries; `None` for all.
    pub galleries: Option<BTreeSet<GalleryId>>,
    /// When it expires, milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

impl NewKey {
    fn check(&self, now_ms: u64) -> Result<(), AccessError> {
        let invalid =
            |field, problem: &str| Err(AccessError::Invalid { field, problem: problem.to_owned() });
        if self.name.trim().is_empty() || self.name.len() > MAX_NAME {
            return invalid("name", &format!("needs 1 to {MAX_NAME} bytes"));
        }
        if self.name.chars().any(char::is_control) {
            return invalid("name", "holds control characters");
        }
        if self.scopes.is_empty() {
            return invalid("scopes", "must name at least one");
        }
        if let Some(galleries) = &self.galleries {
            if galleries.is_empty() || galleries.len() > MAX_GALLERIES {
                return invalid(
                    "galleries",
                    &format!("must name 1 to {MAX_GALLERIES}, or be left out"),
                );
            }
            if let Some(scope) = self.scopes.iter().find(|scope| scope.is_server_wide()) {
                let problem = format!("cannot bound `{scope}`, which concerns the whole server");
                return invalid("galleries", &problem);
            }
        }
        if self.expires_at_ms.is_some_and(|at| at <= now_ms) {
            return invalid("expires_at_ms", "lies in the past");
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Entry {
    record: Arc<KeyRecord>,
    /// Milliseconds since 1970; 0 for never.
    used_at_ms: Arc<AtomicU64>,
}

/// A key's record as it lies in a store: where, and what.
pub type RawKey = (Vec<u8>, Vec<u8>);

type Table = BTreeMap<KeyId, Entry>;

struct Inner {
    store: Store,
    mac_key: Zeroizing<[u8; 32]>,
    table: ArcSwap<Table>,
    /// Held over every change and its commit.
    writing: Mutex<()>,
}

/// The keys of a store. Clones share them.
#[derive(Clone)]
pub struct ApiKeys(Arc<Inner>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.table.load().len())
    }
}

impl ApiKeys {
    /// Reads the keys of a store.
    ///
    /// # Errors
    /// [`AccessError::Inconsistent`] or the store's.
    pub fn open(store: Store) -> Result<Self, AccessError> {
        let mut table = Table::new();
        for record in store.scan(&[KEY]) {
            let (at, text) = record?;
            let record: KeyRecord =
                serde_json::from_slice(&text).map_err(|e| AccessError::inconsistent(&at, e))?;
            if KeyId::from_bytes(&at[1..]) != Some(record.id) {
                return Err(AccessError::inconsistent(&at, "it is another key's"));
            }
            table.insert(record.id, Entry::new(record));
        }
        let mac_key = store.derive_key("api keys");
        let (table, writing) = (ArcSwap::from_pointee(table), Mutex::default());
        Ok(Self(Arc::new(Inner { store, mac_key, table, writing })))
    }

    /// The records of a store's keys, to be put into another of the same root key.
    ///
    /// # Errors
    /// The store's.
    pub fn records(store: &Store) -> Result<Vec<RawKey>, AccessError> {
        Ok(store.scan(&[KEY]).collect::<Result<_, _>>()?)
    }

    /// Puts records of keys in the place of all that a store has. No keys must be open.
    ///
    /// # Errors
    /// The store's.
    pub fn replace_records(store: &Store, records: &[RawKey]) -> Result<(), AccessError> {
        let mut batch = Batch::of_erasure();
        store.keys(&[KEY])?.into_iter().for_each(|key| batch.remove(key));
        for (key, text) in records {
            batch.put(key.clone(), text.clone(), Seal::Store);
        }
        Ok(store.commit(batch)?)
    }

    /// Whether the store has never had a key: then everybody who reaches the server may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.table.load().is_empty()
    }

    /// Who sends this. A store without keys lets everybody in.
    ///
    /// # Errors
    /// [`Refusal`]; that a key was revoked or has expired is told only to those who have its secret.
    pub fn authenticate(&self, token: Option<&str>, now_ms: u64) -> Result<Caller, Refusal> {
        let table = self.0.table.load();
        if table.is_empty() {
            return Ok(Caller::local());
        }
        let (id, secret) = Token::parse(token.ok_or(Refusal::Missing)?)?;
        let mac = self.mac(id, &secret);
        let Some(Entry { record, used_at_ms }) = table.get(&id) else {
            return Err(Refusal::Unknown);
        };
        // All are compared, whichever it is.
        let same = record.secrets.iter().filter(|kept| macs_equal(&kept.mac, &mac));
        let kept = same.fold(None, |_, kept| Some(kept)).ok_or(Refusal::Unknown)?;
        if kept.until_ms.is_some_and(|until| until <= now_ms) {
            return Err(Refusal::Revoked);
        }
        match record.state(now_ms) {
            KeyState::Active => {
                used_at_ms.store(now_ms, Ordering::Relaxed);
                Ok(Caller::of(Arc::clone(record)))
            }
            KeyState::Revoked => Err(Refusal::Revoked),
            KeyState::Expired => Err(Refusal::Expired),
        }
    }

    fn mac(&self, id: KeyId, secret: &Secret) -> [u8; 32] {
        hmac_sha256(&self.0.mac_key, &[&id.to_bytes(), secret.bytes()])
    }

    /// Makes a key; durable when this returns. The token is not kept.
    ///
    /// # Errors
    /// [`AccessError::Invalid`], [`AccessError::FirstKey`], [`AccessError::Full`] or the store's.
    pub fn create(&self, new: NewKey, now_ms: u64) -> Result<(KeyInfo, Token), AccessError> {
        new.check(now_ms)?;
        let _writing = self.0.writing.lock();
        let table = self.0.table.load();
        let (id, secret) = (KeyId::new()?, Secret::new()?);
        let NewKey { name, scopes, galleries, expires_at_ms } = new;
        let secrets = vec![SecretMac { mac: self.mac(id, &secret), until_ms: None }];
        let (created_at_ms, revoked_at_ms) = (now_ms, None);
        let record = KeyRecord {
            id,
            name,
            scopes,
            galleries,
            created_at_ms,
            expires_at_ms,
            revoked_at_ms,
            secrets,
        };
        if table.is_empty() && !record.is_lasting_admin() {
            return Err(AccessError::FirstKey);
        }
        // The oldest that lets nobody in makes room.
        let dead = || {
            let ended = table.values().filter(|e| e.record.state(now_ms) != KeyState::Active);
            ended.min_by_key(|entry| entry.record.created_at_ms).map(|entry| entry.record.id)
        };
        let dropped = match table.len() < MAX_KEYS {
            true => None,
            false => Some(dead().ok_or(AccessError::Full(MAX_KEYS))?),
        };
        let info = self.put(record, dropped, now_ms)?;
        Ok((info, Token::new(id, &secret)))
    }

    /// Gives a key another secret; the one before is taken for `overlap` more. Durable when this returns.
    ///
    /// # Errors
    /// [`AccessError::NotFound`], [`AccessError::Revoked`], [`AccessError::Invalid`] or the store's.
    pub fn rotate(
        &self,
        id: KeyId,
        overlap: Duration,
        now_ms: u64,
    ) -> Result<(KeyInfo, Token), AccessError> {
        if overlap > MAX_OVERLAP {
            let problem = format!("is over {} s", MAX_OVERLAP.as_secs());
            return Err(AccessError::Invalid { field: "overlap_s", problem });
        }
        let _writing = self.0.writing.lock();
        let mut record = self.record(id)?;
        if record.revoked_at_ms.is_some() {
            return Err(AccessError::Revoked(id));
        }
        let until = now_ms.saturating_add(u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
        for kept in &mut record.secrets {
            kept.until_ms = Some(kept.until_ms.map_or(until, |earlier| earlier.min(until)));
        }
        let secret = Secret::new()?;
        record.secrets.insert(0, SecretMac { mac: self.mac(id, &secret), until_ms: None });
        record.secrets.truncate(MAX_SECRETS);
        let info = self.put(record, None, now_ms)?;
        Ok((info, Token::new(id, &secret)))
    }

    /// Has a key let nobody in any more; durable when this returns. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`AccessError::NotFound`], [`AccessError::LastAdmin`] or the store's.
    pub fn revoke(&self, id: KeyId, now_ms: u64) -> Result<KeyInfo, AccessError> {
        let _writing = self.0.writing.lock();
        let mut record = self.record(id)?;
        if record.is_lasting_admin() {
            let table = self.0.table.load();
            let others = table.values().filter(|entry| entry.record.is_lasting_admin());
            if others.count() == 1 {
                return Err(AccessError::LastAdmin(id));
            }
        }
        if record.revoked_at_ms.is_none() {
            record.revoked_at_ms = Some(now_ms);
        }
        self.put(record, None, now_ms)
    }

    fn record(&self, id: KeyId) -> Result<KeyRecord, AccessError> {
        let table = self.0.table.load();
        let entry = table.get(&id).ok_or(AccessError::NotFound(id))?;
        Ok(KeyRecord::clone(&entry.record))
    }

    /// Stores a record, then tells. `writing` must be held.
    fn put(
        &self,
        record: KeyRecord,
        dropped: Option<KeyId>,
        now_ms: u64,
    ) -> Result<KeyInfo, AccessError> {
        let mut batch = Batch::default();
        let text = serde_json::to_vec(&record)
            .map_err(|error| AccessError::inconsistent(&place(record.id), error))?;
        batch.put(place(record.id), text, Seal::Store);
        if let Some(id) = dropped {
            batch.remove(place(id));
        }
        self.0.store.commit(batch)?;
        let mut table = Table::clone(&self.0.table.load());
        if let Some(id) = dropped {
            table.remove(&id);
        }
        let mut entry = Entry::new(record);
        if let Some(before) = table.get(&entry.record.id) {
            entry.used_at_ms = Arc::clone(&before.used_at_ms);
        }
        let info = entry.info(now_ms);
        table.insert(entry.record.id, entry);
        self.0.table.store(Arc::new(table));
        Ok(info)
    }

    /// A key.
    ///
    /// # Errors
    /// [`AccessError::NotFound`].
    pub fn read(&self, id: KeyId, now_ms: u64) -> Result<KeyInfo, AccessError> {
        let table = self.0.table.load();
        table.get(&id).map(|entry| entry.info(now_ms)).ok_or(AccessError::NotFound(id))
    }

    /// All keys, the oldest first.
    #[must_use]
    pub fn list(&self, now_ms: u64) -> Vec<KeyInfo> {
        let table = self.0.table.load();
        let mut keys: Vec<KeyInfo> = table.values().map(|entry| entry.info(now_ms)).collect();
        keys.sort_by_key(|key| (key.created_at_ms, key.id));
        keys
    }
}

impl Entry {
    fn new(record: KeyRecord) -> Self {
        Self { record: Arc::new(record), used_at_ms: Arc::default() }
    }

    fn info(&self, now_ms: u64) -> KeyInfo {
        KeyInfo::new(&self.record, self.used_at_ms.load(Ordering::Relaxed), now_ms)
    }
}

fn place(id: KeyId) -> Vec<u8> {
    let mut key = vec![KEY];
    key.extend_from_slice(&id.to_bytes());
    key
}

#[cfg(test)]
mod tests;
