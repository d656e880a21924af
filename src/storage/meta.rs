use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::hex;

use super::codec::{decrypt, encrypt};
use super::mac::{hmac_sha256, macs_equal};
use super::{MasterKey, StorageError, file};

/// Newest format of the data directory that this program writes.
pub(super) const FORMAT: u32 = 2;
const FILE: &str = "store.json";

/// `store.json`: read before anything else is touched.
///
/// Everything in a store hangs on its root key, which is random and lies here, wrapped by the master key: another master key wraps it
/// anew, and nothing else changes. In format 1 the master key itself was the root.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    pub(super) store: String,
    master_key_check: String,
    /// `nonce 24 | root key 32 | tag 16`, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_key: Option<String>,
}

/// What `store.json` says.
pub(super) struct Opened {
    pub(super) id: String,
    pub(super) root_key: MasterKey,
    pub(super) new: bool,
}

/// Reads `store.json`, or writes it for a new store.
pub(super) fn open(dir: &Path, master_key: &MasterKey) -> Result<Opened, StorageError> {
    let path = dir.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("sled").exists() || dir.join("keys.slots").exists() {
                return Err(StorageError::damaged(dir, "`store.json` is missing"));
            }
            let id = uuid::Uuid::new_v4().to_string();
            let root_key = MasterKey::random()?;
            write(dir, &id, &root_key, master_key)?;
            return Ok(Opened { id, root_key, new: true });
        }
        Err(error) => return Err(StorageError::io("read", &path)(error)),
    };
    let meta = Meta::parse(&text).map_err(|detail| StorageError::damaged(dir, detail))?;
    let root_key = meta.root_key(dir, master_key)?;
    Ok(Opened { id: meta.store, root_key, new: false })
}

/// Wraps the root key under another master key.
pub(super) fn rewrap(dir: &Path, old: &MasterKey, new: &MasterKey) -> Result<(), StorageError> {
    let path = dir.join(FILE);
    let text = std::fs::read(&path).map_err(StorageError::io("read", &path))?;
    let meta = Meta::parse(&text).map_err(|detail| StorageError::damaged(dir, detail))?;
    let root_key = meta.root_key(dir, old)?;
    write(dir, &meta.store, &root_key, new)
}

/// `store.json` as it is.
pub(super) fn text(dir: &Path) -> Result<Vec<u8>, StorageError> {
    let path = dir.join(FILE);
    std::fs::read(&path).map_err(StorageError::io("read", &path))
}

/// Puts a `store.json` there.
pub(super) fn put(dir: &Path, text: &[u8]) -> Result<(), StorageError> {
    file::write_private(&dir.join(FILE), text)
}

impl Meta {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| format!("`store.json` is not one: {error}"))
    }

    /// The root key; `dir` is named in errors.
    pub(super) fn root_key(
        &self,
        dir: &Path,
        master_key: &MasterKey,
    ) -> Result<MasterKey, StorageError> {
        if self.format > FORMAT {
            return Err(StorageError::Format { found: self.format, supported: FORMAT });
        }
        let expected = check(master_key, &self.store);
        let given: Option<[u8; 32]> = from_hex(&self.master_key_check);
        if !given.is_some_and(|given| macs_equal(&given, &expected)) {
            return Err(StorageError::WrongMasterKey { dir: dir.to_owned() });
        }
        let Some(wrapped) = &self.root_key else {
            let missing = || StorageError::damaged(dir, "`store.json` has no root key");
            return if self.format == 1 { Ok(master_key.clone()) } else { Err(missing()) };
        };
        let wrapped: Option<[u8; 72]> = from_hex(wrapped);
        let context = context(&self.store);
        let plain = wrapped
            .and_then(|wrapped| decrypt(&master_key.derive("root key"), &context, &wrapped))
            .map(Zeroizing::new);
        plain
            .and_then(|plain| MasterKey::from_bytes(&plain))
            .ok_or_else(|| StorageError::damaged(dir, "the root key in `store.json` does not open"))
    }
}

fn write(
    dir: &Path,
    id: &str,
    root_key: &MasterKey,
    master_key: &MasterKey,
) -> Result<(), StorageError> {
    let wrapped = encrypt(&master_key.derive("root key"), &context(id), root_key.bytes())?;
    let meta = Meta {
        format: FORMAT,
        store: id.to_owned(),
        master_key_check: hex(&check(master_key, id)),
        root_key: Some(hex(&wrapped)),
    };
    let text = serde_json::to_vec_pretty(&meta)
        .map_err(|error| StorageError::damaged(dir, error.to_string()))?;
    put(dir, &text)
}

fn context(store: &str) -> Vec<u8> {
    [b"handclip root key", store.as_bytes()].concat()
}

fn check(master_key: &MasterKey, store: &str) -> [u8; 32] {
    hmac_sha256(&master_key.derive("master key check"), &[store.as_bytes()])
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut out = [0_u8; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (pair, byte) in digits.as_chunks::<2>().0.iter().zip(&mut out) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_master_key_wraps_the_same_root_key_and_the_one_before_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = |byte: u8| MasterKey::from_bytes(&[byte; 32]).unwrap();
        let made = open(dir.path(), &key(1)).unwrap();
        assert!(made.new);
        assert_ne!(made.root_key.bytes(), key(1).bytes());
        rewrap(dir.path(), &key(1), &key(2)).unwrap();
        let again = open(dir.path(), &key(2)).unwrap();
        assert!(!again.new && again.id == made.id);
        assert_eq!(again.root_key.bytes(), made.root_key.bytes());
        let refused = |outcome: Result<(), StorageError>| {
            assert!(matches!(outcome, Err(StorageError::WrongMasterKey { .. })));
        };
        refused(open(dir.path(), &key(1)).map(drop));
        refused(rewrap(dir.path(), &key(1), &key(3)));
    }

    #[test]
    fn the_root_of_a_store_of_format_1_is_its_master_key_whatever_wraps_it_later() {
        let dir = tempfile::tempdir().unwrap();
        let key = |byte: u8| MasterKey::from_bytes(&[byte; 32]).unwrap();
        let check = hex(&check(&key(1), "s"));
        let text = format!(r#"{{"format":1,"store":"s","master_key_check":"{check}"}}"#);
        put(dir.path(), text.as_bytes()).unwrap();
        assert_eq!(open(dir.path(), &key(1)).unwrap().root_key.bytes(), key(1).bytes());
        rewrap(dir.path(), &key(1), &key(2)).unwrap();
        assert_eq!(open(dir.path(), &key(2)).unwrap().root_key.bytes(), key(1).bytes());
        let bare = text.replace("\"format\":1", "\"format\":2");
        put(dir.path(), bare.as_bytes()).unwrap();
        assert!(matches!(open(dir.path(), &key(1)), Err(StorageError::Damaged { .. })));
    }
}
