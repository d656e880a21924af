//! Weights read tensor by tensor. A large model is held in memory once, as it is used, and not two times more on the way there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::checkpoint::{MAX_HEADER, floats_of, most_bytes, own_name};
use super::engine::Source;
use super::files::{WEIGHTS, name_of};
use super::fingerprint::little_endian;
use super::parameters::ParameterSpec;
use super::{CheckpointError, ModelError};

/// Bytes that are read at a time.
const PART: usize = 1 << 20;

/// Takes a part of a parameter: its type, how many bytes came before, and its bytes.
type Take<'a> = dyn FnMut(Dtype, usize, &[u8]) -> Result<(), ModelError> + 'a;

/// One file that holds exactly a configuration's parameters, under their own names.
pub(super) struct WeightStream {
    path: PathBuf,
    file: Arc<File>,
    /// By name: type, place in the file, bytes.
    tensors: HashMap<String, (Dtype, u64, usize)>,
    /// A checksum of what was read of each: the file is read twice, and must be the same both times.
    seen: Mutex<HashMap<String, u32>>,
}

impl WeightStream {
    /// `None` where a directory's weights are anything but that: they are read whole then, which finds all that is wrong.
    pub(super) fn open(dir: &Path, spec: &ParameterSpec) -> Option<Self> {
        let path = dir.join(WEIGHTS);
        let mut file = File::open(&path).ok()?;
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || size > most_bytes(spec) {
            return None;
        }
        let mut header = vec![0; usize::try_from(length).ok()?];
        file.read_exact(&mut header).ok()?;
        let metadata: Metadata = serde_json::from_slice(&header).ok()?;
        let start = 8 + length;
        if start + metadata.data_len() as u64 != size {
            return None;
        }
        let mut tensors = HashMap::new();
        for (name, info) in metadata.tensors() {
            let Some(shape) = own_name(&name, spec)? else { continue };
            let known = matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
            if !known || info.shape != shape {
                return None;
            }
            let (from, to) = info.data_offsets;
            tensors.insert(name, (info.dtype, start + from as u64, to - from));
        }
        let complete = spec.shapes().all(|(name, _)| tensors.contains_key(name));
        let (file, seen) = (Arc::new(file), Mutex::default());
        complete.then_some(Self { path, file, tensors, seen })
    }

    /// How many values a parameter has; 0 for one that is not there.
    pub(super) fn count(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |(dtype, _, bytes)| bytes * 8 / dtype.bitsize())
    }

    /// Gives the bytes of a parameter's values in f32, little-endian, part by part.
    ///
    /// # Errors
    /// [`CheckpointError`] for one that is not there, or has changed since it was read before; for one that is not finite where
    /// values are kept in another type.
    pub(super) fn bytes(&self, name: &str, take: &mut dyn FnMut(&[u8])) -> Result<(), ModelError> {
        self.read(name, PART, &mut |dtype, done, bytes| {
            if dtype == Dtype::F32 {
                // As they lie; who takes the values sees whether they are finite.
                take(bytes);
            } else {
                little_endian(&floats_from(name, dtype, done, bytes)?, take);
            }
            Ok(())
        })
    }

    /// Gives a parameter as it lies, so many bytes at a time, with its type and how many bytes came before.
    fn read(&self, name: &str, part: usize, take: &mut Take<'_>) -> Result<(), ModelError> {
        let missing = || CheckpointError::Missing(vec![name.to_owned()]);
        let (dtype, start, size) = *self.tensors.get(name).ok_or_else(missing)?;
        let mut bytes = vec![0; size.min(part)];
        let (mut done, mut sum) = (0, 0);
        while done < size {
            let bytes = &mut bytes[..part.min(size - done)];
            read_at(&self.file, bytes, start + done as u64)
                .map_err(|source| ModelError::File { path: self.path.clone(), source })?;
            sum = crc32c::crc32c_append(sum, bytes);
            take(dtype, done, bytes)?;
            done += bytes.len();
        }
        if *self.seen.lock().entry(name.to_owned()).or_insert(sum) != sum {
            return Err(changed(&self.path));
        }
        Ok(())
    }

    /// Names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

impl Source for WeightStream {
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(self.count(name));
        self.read(name, PART, &mut |dtype, done, bytes| {
            values.extend(floats_from(name, dtype, done, bytes)?);
            Ok(())
        })?;
        Ok(values)
    }

    fn rows(&self, name: &str, width: usize) -> Result<Option<StoredRows>, ModelError> {
        let Some((dtype, start, _)) = self.tensors.get(name).copied() else { return Ok(None) };
        let row = width * dtype.bitsize() / 8;
        let mut sums = Vec::with_capacity(self.count(name) / width.max(1));
        self.read(name, (PART / row.max(1)).max(1) * row, &mut |dtype, done, bytes| {
            floats_from(name, dtype, done, bytes)?;
            sums.extend(bytes.chunks(row).map(crc32c::crc32c));
            Ok(())
        })?;
        let (path, file, name) = (self.path.clone(), Arc::clone(&self.file), name.to_owned());
        Ok(Some(StoredRows { path, file, name, dtype, start, row, sums }))
    }
}

/// The rows of a parameter, read when they are needed: what a model has of them may be large, and what is asked for is little. The file
/// is held open, so its name may go; a row that is not what it was when the model was loaded is refused.
pub(super) struct StoredRows {
    path: PathBuf,
    file: Arc<File>,
    name: String,
    dtype: Dtype,
    start: u64,
    /// Bytes of a row.
    row: usize,
    /// A checksum of each.
    sums: Vec<u32>,
}

impl StoredRows {
    /// Adds the values of a row to `out`.
    ///
    /// # Errors
    /// [`ModelError::File`] when it cannot be read, [`CheckpointError`] when it is not there or was changed.
    pub(super) fn read(&self, row: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        let sum = self.sums.get(row).ok_or_else(|| changed(&self.path))?;
        let mut bytes = vec![0; self.row];
        read_at(&self.file, &mut bytes, self.start + row as u64 * self.row as u64)
            .map_err(|source| ModelError::File { path: self.path.clone(), source })?;
        if crc32c::crc32c(&bytes) != *sum {
            return Err(changed(&self.path));
        }
        out.extend(floats_of(&self.name, self.dtype, &bytes)?);
        Ok(())
    }
}

/// The values of a part of a parameter, before which so many bytes came.
fn floats_from(
    name: &str,
    dtype: Dtype,
    done: usize,
    bytes: &[u8],
) -> Result<Vec<f32>, CheckpointError> {
    floats_of(name, dtype, bytes).map_err(|mut error| {
        if let CheckpointError::NonFinite { index, .. } = &mut error {
            *index += done * 8 / dtype.bitsize();
        }
        error
    })
}

fn changed(path: &Path) -> ModelError {
    let problem = "it changed while it was read".to_owned();
    CheckpointError::Malformed { file: name_of(path), problem }.into()
}

/// Fills `bytes` from a place in a file, whatever else is read of it at the same time.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        (bytes, at) = (&mut bytes[read..], at + read as u64);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;
    use crate::model::{ClipConfig, Parameters};
    use candle_core::{DType, Device};

    fn tiny() -> ClipConfig {
        let tower = r#"{"hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2"#;
        let json = format!(
            r#"{{"text_config":{tower},"vocab_size":50,"max_position_embeddings":9,"eos_token_id":49,"bos_token_id":48,"pad_token_id":49}},
            "vision_config":{tower},"image_size":16,"patch_size":8}},"projection_dim":8}}"#
        );
        ClipConfig::from_json(&json).unwrap()
    }

    #[test]
    fn what_is_read_is_what_was_written_and_a_change_in_between_is_refused() {
        let (config, dir) = (tiny(), tempfile::tempdir().unwrap());
        let spec = ParameterSpec::of(&config);
        let path = dir.path().join(WEIGHTS);
        let parameters = Parameters::init(&config, 3, &Device::Cpu).unwrap();
        parameters.save(&path, DType::F32).unwrap();
        let stream = WeightStream::open(dir.path(), &spec).unwrap();
        let names: Vec<String> = parameters.vars().into_iter().map(|(name, _)| name).collect();
        assert_eq!(stream.names(), names);
        for (name, var) in parameters.vars() {
            let want = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(stream.values(&name).unwrap(), want);
        }
        let token = "text_model.embeddings.token_embedding.weight";
        let rows = stream.rows(token, 8).unwrap().unwrap();
        let row = |row: usize| {
            let mut values = Vec::new();
            rows.read(row, &mut values).map(|()| values)
        };
        let values = stream.values(token).unwrap();
        for (at, want) in values.chunks(8).enumerate() {
            assert_eq!(row(at).unwrap(), want);
        }
        assert!(row(50).is_err(), "there are fifty");
        // Another value under the same header.
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let again: Vec<_> = names.iter().map(|name| stream.values(name).is_err()).collect();
        assert_eq!(again.iter().filter(|refused| **refused).count(), 1);
        // And another in the middle of the tokens, long after the model was loaded.
        let (_, start, _) = stream.tensors[token];
        bytes[start as usize + 8 * 4 * 20 + 5] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let refused: Vec<usize> = (0..50).filter(|at| row(*at).is_err()).collect();
        assert_eq!(refused, [20]);
        drop(stream);
        // Cut, longer, or of another model: not read by pieces.
        for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat(), &bytes[..7]] {
            std::fs::write(&path, wrong).unwrap();
            assert!(WeightStream::open(dir.path(), &spec).is_none());
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(WeightStream::open(dir.path(), &spec).is_some());
        let other = ParameterSpec::of(&ClipConfig::from_json("{}").unwrap());
        assert!(WeightStream::open(dir.path(), &other).is_none());
    }
}
