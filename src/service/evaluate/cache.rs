//! Embeddings kept between evaluations, a file for each model. An embedding can be turned back into a likeness
//! of a hand: the file is readable by its owner only, and nothing but evaluation reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::domain::{Embedding, Fingerprint};
use crate::model::Embedder;
use crate::storage::file::write_private;

use super::EvaluateError;

/// First bytes of the file; the number is the format's.
const MAGIC: &[u8; 8] = b"hcembed1";
/// Bytes of a content hash.
const HASH: usize = 32;

/// Embeddings by the SHA-256 of the file they were made of. Layout: magic, the model's fingerprint, dimensions as u32
/// little-endian, then records of hash and f32 little-endian values, and the SHA-256 of all that.
pub(super) struct Cache {
    path: PathBuf,
    model: Fingerprint,
    dim: usize,
    known: BTreeMap<[u8; HASH], Vec<f32>>,
    changed: bool,
}

impl Cache {
    /// The model's cache in a folder. One that is damaged counts as empty: it only saves time.
    pub(super) fn open(dir: &Path, embedder: &Embedder) -> Result<Self, EvaluateError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| EvaluateError::Write { path: dir.to_path_buf(), source })?;
        let model = embedder.fingerprint();
        let path = dir.join(format!("{model}.embeddings"));
        let dim = embedder.dim();
        let known = match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes, model, dim).unwrap_or_else(|| {
                tracing::warn!("a cache of embeddings is damaged and is made anew");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { path, model, dim, known, changed: false })
    }

    pub(super) fn get(&self, sha256: &str) -> Option<Embedding> {
        Embedding::from_raw(self.known.get(&hash(sha256)?)?.clone()).ok()
    }

    pub(super) fn put(&mut self, sha256: &str, embedding: &Embedding) {
        if let Some(hash) = hash(sha256) {
            self.known.insert(hash, embedding.as_slice().to_vec());
            self.changed = true;
        }
    }

    pub(super) fn save(&self) -> Result<(), EvaluateError> {
        if !self.changed {
            return Ok(());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.model.0);
        bytes.extend((self.dim as u32).to_le_bytes());
        for (hash, values) in &self.known {
            bytes.extend(hash);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        Ok(write_private(&self.path, &bytes)?)
    }
}

/// `None` for anything but a whole file of the same model.
fn parse(bytes: &[u8], model: Fingerprint, dim: usize) -> Option<BTreeMap<[u8; HASH], Vec<f32>>> {
    let (content, digest) = bytes.split_last_chunk::<HASH>()?;
    if Sha256::digest(content).as_slice() != digest {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?.strip_prefix(&model.0)?;
    let (stored, records) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*stored) as usize != dim {
        return None;
    }
    let size = HASH + 4 * dim;
    if !records.len().is_multiple_of(size) {
        return None;
    }
    let record = |record: &[u8]| {
        let (hash, values) = record.split_first_chunk::<HASH>()?;
        let (values, _) = values.as_chunks::<4>();
        Some((*hash, values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
    };
    records.chunks(size).map(record).collect()
}

fn hash(hex: &str) -> Option<[u8; HASH]> {
    let mut bytes = [0; HASH];
    if hex.len() != 2 * HASH {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_was_put_is_there_again_and_damage_is_no_embedding() {
        let dir = tempfile::tempdir().unwrap();
        let nano = Embedder::nano(&Device::Cpu).unwrap();
        let embedding =
            Embedding::from_raw((0..nano.dim()).map(|i| i as f32 - 3.5).collect()).unwrap();
        let key = "ab".repeat(HASH);
        let mut cache = Cache::open(dir.path(), &nano).unwrap();
        assert!(cache.get(&key).is_none());
        cache.put(&key, &embedding);
        cache.save().unwrap();
        let again = Cache::open(dir.path(), &nano).unwrap();
        assert_eq!(again.get(&key).unwrap().as_slice(), embedding.as_slice());
        assert!(again.get(&"ac".repeat(HASH)).is_none());
        let bytes = std::fs::read(&again.path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&again.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        for at in [0, 9, 40, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged, nano.fingerprint(), nano.dim()).is_none(), "{at}");
        }
        assert!(parse(&bytes[..bytes.len() - 4], nano.fingerprint(), nano.dim()).is_none());
        assert!(parse(&bytes, nano.fingerprint(), nano.dim() + 1).is_none());
        assert!(parse(&bytes, Fingerprint([0; HASH]), nano.dim()).is_none(), "another model's");
    }
}
