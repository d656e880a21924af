//! Weights read tensor by tensor. A large model is held in memory once, as it is used, and not two times more on the way there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::checkpoint::{MAX_HEADER, floats_of, most_bytes, own_name};
use super::files::{WEIGHTS, name_of};
use super::parameters::ParameterSpec;
use super::{CheckpointError, ModelError};

/// Bytes that are read at a time.
const PART: usize = 1 << 20;

/// One file that holds exactly a configuration's parameters, under their own names.
pub(super) struct WeightStream {
    path: PathBuf,
    file: Mutex<File>,
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
        let (file, seen) = (Mutex::new(file), Mutex::default());
        complete.then_some(Self { path, file, tensors, seen })
    }

    /// The values of a parameter in f32.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(self.count(name));
        self.read(name, &mut |part| values.extend_from_slice(part))?;
        Ok(values)
    }

    /// How many values a parameter has; 0 for one that is not there.
    pub(super) fn count(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |(dtype, _, bytes)| bytes * 8 / dtype.bitsize())
    }

    /// Gives the values of a parameter in f32, part by part.
    ///
    /// # Errors
    /// [`CheckpointError`] for one that is not there or not finite, or has changed since it was read before.
    pub(super) fn read(&self, name: &str, take: &mut dyn FnMut(&[f32])) -> Result<(), ModelError> {
        let missing = || CheckpointError::Missing(vec![name.to_owned()]);
        let (dtype, start, size) = *self.tensors.get(name).ok_or_else(missing)?;
        let failed = |source| ModelError::File { path: self.path.clone(), source };
        let mut bytes = vec![0; size.min(PART)];
        let (mut done, mut sum) = (0, 0);
        while done < size {
            let part = &mut bytes[..PART.min(size - done)];
            {
                let mut file = self.file.lock();
                file.seek(SeekFrom::Start(start + done as u64)).map_err(failed)?;
                file.read_exact(part).map_err(failed)?;
            }
            sum = crc32c::crc32c_append(sum, part);
            let values = floats_of(name, dtype, part).map_err(|mut error| {
                if let CheckpointError::NonFinite { index, .. } = &mut error {
                    *index += done * 8 / dtype.bitsize();
                }
                error
            })?;
            take(&values);
            done += part.len();
        }
        if *self.seen.lock().entry(name.to_owned()).or_insert(sum) != sum {
            let problem = "it changed while it was read".to_owned();
            return Err(CheckpointError::Malformed { file: name_of(&self.path), problem }.into());
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
        // Another value under the same header.
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let again: Vec<_> = names.iter().map(|name| stream.values(name).is_err()).collect();
        assert_eq!(again.iter().filter(|refused| **refused).count(), 1);
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
