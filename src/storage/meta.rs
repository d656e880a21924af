use std::path::Path;

use serde::{Deserialize, Serialize};

use super::mac::{hmac_sha256, macs_equal};
use super::{MasterKey, StorageError, file};

/// Newest format of the data directory that this program writes.
pub(super) const FORMAT: u32 = 1;

/// `store.json`: read before anything else is touched.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    store: String,
    master_key_check: String,
}

/// Reads `store.json`, or writes it for a new store. Says whether the store is new.
pub(super) fn open(dir: &Path, master_key: &MasterKey) -> Result<bool, StorageError> {
    let path = dir.join("store.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("sled").exists() || dir.join("keys.slots").exists() {
                return Err(StorageError::damaged(dir, "`store.json` is missing"));
            }
            return create(dir, &path, master_key).map(|()| true);
        }
        Err(error) => return Err(StorageError::io("read", &path)(error)),
    };
    let meta: Meta = serde_json::from_slice(&text)
        .map_err(|error| StorageError::damaged(dir, format!("`store.json` is not one: {error}")))?;
    if meta.format > FORMAT {
        return Err(StorageError::Format { found: meta.format, supported: FORMAT });
    }
    let expected = check(master_key, &meta.store);
    let given: Option<[u8; 32]> = from_hex(&meta.master_key_check);
    if !given.is_some_and(|given| macs_equal(&given, &expected)) {
        return Err(StorageError::WrongMasterKey { dir: dir.to_owned() });
    }
    // Format 1 is the first. A later format upgrades here, one step a format, each step writing
    // `store.json` last so that a crash repeats it.
    Ok(false)
}

fn create(dir: &Path, path: &Path, master_key: &MasterKey) -> Result<(), StorageError> {
    let store = uuid::Uuid::new_v4().to_string();
    let master_key_check = hex(&check(master_key, &store));
    let meta = Meta { format: FORMAT, store, master_key_check };
    let text = serde_json::to_vec_pretty(&meta)
        .map_err(|error| StorageError::damaged(dir, error.to_string()))?;
    file::write_private(path, &text)
}

fn check(master_key: &MasterKey, store: &str) -> [u8; 32] {
    hmac_sha256(&master_key.derive("master key check"), &[store.as_bytes()])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut out = [0_u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (pair, byte) in digits.as_chunks::<2>().0.iter().zip(&mut out) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}
