//! The files of a model directory, read within limits.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{CheckpointError, ModelError};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
/// Index of weights kept in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// OpenCLIP's name for the weights.
pub(super) const OPENCLIP_WEIGHTS: &str = "open_clip_model.safetensors";

/// Largest JSON file of a model taken, in bytes; real tokenizers have up to 4 MB.
const MAX_JSON: u64 = 64 << 20;
/// Largest weights taken, in bytes over all files.
pub(super) const MAX_WEIGHTS: u64 = 32 << 30;

/// A file's name and content.
pub(super) struct NamedBytes {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// Reads a text file of the directory.
pub(super) fn read_json(dir: &Path, name: &str) -> Result<String, ModelError> {
    let path = dir.join(name);
    let bytes = read(&path, MAX_JSON)?;
    String::from_utf8(bytes).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        ModelError::File { path, source }
    })
}

/// Reads a file that may have at most `max` bytes.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let too_large = |got| CheckpointError::TooLarge { file: name_of(path), got, max };
    if size > max {
        return Err(too_large(size).into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // The file may grow, or be a device without a size.
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        got if got > max => Err(too_large(got).into()),
        _ => Ok(bytes),
    }
}

/// The weights of a directory, or the one file that `path` is. All together have at most `max`
/// bytes.
pub(super) fn read_weights(path: &Path, max: u64) -> Result<Vec<NamedBytes>, ModelError> {
    let paths = weight_paths(path)?;
    let mut left = max;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let name = name_of(&path);
        if is_pickle_name(&name) {
            return Err(CheckpointError::Pickle(name).into());
        }
        let bytes = read(&path, left)?;
        left -= bytes.len() as u64;
        files.push(NamedBytes { name, bytes });
    }
    Ok(files)
}

/// Names of the files that a model directory's weights lie in, beside the index where there is one.
///
/// # Errors
/// When there are none, or only pickles.
pub fn weight_files(dir: &Path) -> Result<Vec<String>, ModelError> {
    Ok(weight_paths(dir)?.iter().map(|path| name_of(path)).collect())
}

fn weight_paths(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    for name in [WEIGHTS, OPENCLIP_WEIGHTS] {
        if path.join(name).is_file() {
            return Ok(vec![path.join(name)]);
        }
    }
    if path.join(INDEX).is_file() {
        let names = shards(&read_json(path, INDEX)?)?;
        return Ok(names.into_iter().map(|name| path.join(name)).collect());
    }
    let failed = |source| ModelError::File { path: path.to_owned(), source };
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if is_pickle_name(&name) {
            pickles.push(name);
        }
    }
    pickles.sort();
    Err(match pickles.into_iter().next() {
        Some(name) => CheckpointError::Pickle(name),
        None => CheckpointError::NoWeights(path.display().to_string()),
    }
    .into())
}

/// The files that an index names, each a plain name.
pub(super) fn shards(index: &str) -> Result<Vec<String>, ModelError> {
    let malformed = |problem: &str| {
        let problem = problem.to_owned();
        ModelError::from(CheckpointError::Malformed { file: INDEX.to_owned(), problem })
    };
    let index: Value =
        serde_json::from_str(index).map_err(|error| malformed(&error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| malformed("no `weight_map`"))?;
    let mut names = Vec::new();
    for value in map.values() {
        let name = value.as_str().ok_or_else(|| malformed("a file name that is not a text"))?;
        if !is_plain(name) {
            return Err(malformed(&format!("`{name}` is not a plain file name")));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a name is a file's in the very directory, and never a path out of it.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':'])
}

/// Whether a name is one that PyTorch gives to pickles.
pub(super) fn is_pickle_name(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default().to_string_lossy();
    ["bin", "pt", "pth", "ckpt", "pkl", "pickle"].contains(&extension.to_ascii_lowercase().as_str())
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_plain_files_only() {
        let names = shards(
            r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors",
            "c": "2.safetensors"}}"#,
        );
        assert_eq!(names.unwrap(), ["1.safetensors", "2.safetensors"]);
        for bad in ["../x", "/etc/passwd", "..", "", "c:x"] {
            let index = format!(r#"{{"weight_map": {{"a": "{bad}"}}}}"#);
            assert!(shards(&index).is_err(), "{bad}");
        }
        assert!(shards("{}").is_err());
    }
}
