//! Fetching a model's files from the Hugging Face hub.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};

use super::files::{
    CONFIG, INDEX, OPENCLIP_WEIGHTS, PREPROCESSOR, TOKENIZER, WEIGHTS, is_plain, shards,
};
use super::{CheckpointError, ClipConfig, ModelError};
use crate::domain::Fingerprint;
use crate::storage::file::{self, write_atomic};

/// Name of the record of what was fetched.
const MANIFEST: &str = "handclip-model.json";
/// Where files lie until all are there.
const PARTIAL: &str = ".download";

/// Where models come from.
#[derive(Clone)]
pub struct Hub {
    /// Address without a slash at the end.
    pub endpoint: String,
    /// Access token for models that are not open to all.
    pub token: Option<String>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".to_owned(), token: None }
    }
}

/// What was fetched: `handclip-model.json` in the model's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// `owner/name` on the hub.
    pub repository: String,
    /// The commit that the revision named when the model was fetched.
    pub commit: String,
    /// SHA-256 of every file, in hexadecimal.
    pub files: BTreeMap<String, String>,
}

/// How far a file is: its name, bytes there, bytes in all.
pub type OnProgress<'a> = dyn FnMut(&str, u64, u64) + 'a;

/// Fetches `owner/name@revision` from the Hugging Face hub into the directory `out`.
///
/// # Errors
/// As [`Hub::pull`].
pub fn pull(
    reference: &str,
    out: &Path,
    progress: &mut OnProgress<'_>,
) -> Result<ModelManifest, ModelError> {
    Hub::default().pull(reference, out, progress)
}

impl Hub {
    /// Fetches `owner/name@revision` into the directory `out`: configuration, tokenizer,
    /// preprocessing and safetensors weights, nothing that can run code. The revision is resolved
    /// to a commit once. A fetch that was cut off goes on where it stopped; files that are there
    /// already are compared with their recorded sums and not fetched again.
    ///
    /// # Errors
    /// [`ModelError::Fetch`] when the hub cannot be reached, [`ModelError::Changed`] when a file
    /// differs from its record, [`CheckpointError::Pickle`] for a model without safetensors.
    pub fn pull(
        &self,
        reference: &str,
        out: &Path,
        progress: &mut OnProgress<'_>,
    ) -> Result<ModelManifest, ModelError> {
        let (repository, revision) = parse(reference)?;
        if let Some(manifest) = recorded(out)?
            && manifest.repository == repository
            && manifest.commit == revision
        {
            // A whole model of this very commit: nothing to ask the hub for.
            return verify(out, manifest);
        }
        let partial = out.join(PARTIAL);
        std::fs::create_dir_all(&partial).map_err(file_error(&partial))?;
        let listing = self.repo(&repository, &revision, &partial)?;
        let failed = |file: &str, error: &dyn std::fmt::Display| ModelError::Fetch {
            repository: reference.to_owned(),
            file: file.to_owned(),
            reason: error.to_string(),
        };
        let info = listing.info().map_err(|error| failed("the list of files", &error))?;
        let download = Download {
            repo: self.repo(&repository, &info.sha, &partial)?,
            cache: Cache::new(partial.clone()).repo(model(&repository, &info.sha)),
            failed: &failed,
        };
        let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        if let Some(manifest) = recorded(out)?
            && manifest.repository == repository
            && manifest.commit == info.sha
        {
            return verify(out, manifest);
        }

        let mut paths = BTreeMap::new();
        for name in [CONFIG, TOKENIZER, PREPROCESSOR] {
            paths.insert(name.to_owned(), download.file(name, progress)?);
        }
        // Before the large files: is this a model that can be used?
        ClipConfig::from_json(&read_text(&paths[CONFIG])?)?;
        for name in weights(&names, &repository)? {
            let path = download.file(&name, progress)?;
            if name == INDEX {
                for shard in shards(&read_text(&path)?)? {
                    paths.insert(shard.clone(), download.file(&shard, progress)?);
                }
            }
            paths.insert(name, path);
        }

        let mut fetched = BTreeMap::new();
        for (name, path) in paths {
            // The cache holds links to the content.
            let content = path.canonicalize().map_err(file_error(&path))?;
            fetched.insert(name.clone(), (whole(&name, &content)?, content));
        }
        make_room(out, &fetched)?;
        let mut files = BTreeMap::new();
        for (name, (sum, content)) in fetched {
            let to = out.join(&name);
            files.insert(name, sum);
            std::fs::rename(&content, &to).map_err(file_error(&to))?;
        }
        let manifest = ModelManifest { repository, commit: info.sha, files };
        let json = serde_json::to_string_pretty(&manifest).unwrap_or_default();
        write_atomic(&out.join(MANIFEST), json.as_bytes())?;
        std::fs::remove_dir_all(&partial).map_err(file_error(&partial))?;
        Ok(manifest)
    }

    fn repo(&self, name: &str, revision: &str, cache: &Path) -> Result<ApiRepo, ModelError> {
        let api = ApiBuilder::from_cache(Cache::new(cache.to_owned()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .build();
        let api = api.map_err(|error| ModelError::Fetch {
            repository: name.to_owned(),
            file: "anything".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(api.repo(model(name, revision)))
    }
}

struct Download<'a> {
    repo: ApiRepo,
    cache: hf_hub::CacheRepo,
    failed: &'a dyn Fn(&str, &dyn std::fmt::Display) -> ModelError,
}

impl Download<'_> {
    /// Fetches a file unless an earlier attempt did, and says where it lies.
    fn file(&self, name: &str, progress: &mut OnProgress<'_>) -> Result<PathBuf, ModelError> {
        if let Some(path) = self.cache.get(name) {
            return Ok(path);
        }
        let relay = Relay { name, done: 0, total: 0, progress };
        self.repo.download_with_progress(name, relay).map_err(|error| (self.failed)(name, &error))
    }
}

struct Relay<'a, 'b> {
    name: &'a str,
    done: u64,
    total: u64,
    progress: &'a mut OnProgress<'b>,
}

impl Progress for Relay<'_, '_> {
    fn init(&mut self, size: usize, _name: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.progress)(self.name, self.done, self.total);
    }

    fn finish(&mut self) {}
}

fn model(name: &str, revision: &str) -> Repo {
    Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned())
}

/// Splits `owner/name@revision`.
fn parse(reference: &str) -> Result<(String, String), ModelError> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.contains("..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let split = || {
        let (repository, revision) = reference.split_once('@')?;
        let (owner, name) = repository.split_once('/')?;
        let good = plain(owner) && plain(name) && revision.split('/').all(plain);
        good.then(|| (repository.to_owned(), revision.to_owned()))
    };
    split().ok_or_else(|| ModelError::Reference(reference.to_owned()))
}

/// The weight files to fetch, of those a repository has.
fn weights(names: &[String], repository: &str) -> Result<Vec<String>, ModelError> {
    for name in [WEIGHTS, INDEX, OPENCLIP_WEIGHTS] {
        if names.iter().any(|n| n == name) {
            return Ok(vec![name.to_owned()]);
        }
    }
    let pickle = names.iter().find(|name| super::files::is_pickle_name(name));
    Err(match pickle {
        Some(name) => CheckpointError::Pickle(name.clone()),
        None => CheckpointError::NoWeights(repository.to_owned()),
    }
    .into())
}

fn recorded(out: &Path) -> Result<Option<ModelManifest>, ModelError> {
    let path = out.join(MANIFEST);
    if !path.is_file() {
        return Ok(None);
    }
    let failed = file_error(&path);
    let manifest: ModelManifest =
        serde_json::from_str(&read_text(&path)?).map_err(|error| failed(error.into()))?;
    // What it names is hashed, and removed by the next fetch.
    match manifest.files.keys().find(|name| !is_plain(name)) {
        Some(name) => {
            let about = format!("`{name}` is not a plain file name: remove this record");
            Err(failed(std::io::Error::new(ErrorKind::InvalidData, about)))
        }
        None => Ok(Some(manifest)),
    }
}

/// The sum of what was fetched. The hub names large files by theirs; what lies under another name was damaged on its way, and is
/// removed so that the next attempt fetches it.
fn whole(name: &str, content: &Path) -> Result<String, ModelError> {
    let got = sum(content)?;
    let named = content.file_name().and_then(|named| named.to_str()).unwrap_or("");
    let is_sum = named.len() == got.len() && named.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_sum && named != got {
        std::fs::remove_file(content).map_err(file_error(content))?;
        let (file, expected) = (name.to_owned(), named.to_owned());
        return Err(ModelError::Changed { file, got, expected });
    }
    Ok(got)
}

/// Takes away what an earlier fetch put there, its record first: half of each would be taken for a model. Weights of another
/// layout that nobody fetched would be opened in the place of those that were.
fn make_room<T>(out: &Path, fetched: &BTreeMap<String, T>) -> Result<(), ModelError> {
    let old = recorded(out)?.map_or_else(BTreeMap::new, |manifest| manifest.files);
    for name in [WEIGHTS, OPENCLIP_WEIGHTS, INDEX] {
        let path = out.join(name);
        if path.exists() && !fetched.contains_key(name) && !old.contains_key(name) {
            let about =
                "it would be opened in the place of what was fetched: fetch into another folder";
            return Err(file_error(&path)(std::io::Error::new(ErrorKind::AlreadyExists, about)));
        }
    }
    let gone = old.keys().filter(|name| !fetched.contains_key(*name));
    for name in std::iter::once(MANIFEST).chain(gone.map(String::as_str)) {
        let path = out.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(file_error(&path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Compares every recorded file with its sum.
fn verify(out: &Path, manifest: ModelManifest) -> Result<ModelManifest, ModelError> {
    for (file, expected) in &manifest.files {
        let got = sum(&out.join(file))?;
        if got != *expected {
            let (file, expected) = (file.clone(), expected.clone());
            return Err(ModelError::Changed { file, got, expected });
        }
    }
    Ok(manifest)
}

fn sum(path: &Path) -> Result<String, ModelError> {
    let hashed = std::fs::File::open(path).and_then(file::sha256).map_err(file_error(path))?;
    Ok(Fingerprint(hashed.1).to_string())
}

fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> ModelError + use<> {
    let path = path.to_owned();
    move |source| ModelError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_owner_repository_and_revision() {
        let (repository, revision) = parse("openai/clip-vit-base-patch32@refs/pr/7").unwrap();
        assert_eq!(repository, "openai/clip-vit-base-patch32");
        assert_eq!(revision, "refs/pr/7");
        for bad in ["", "a/b", "a@x", "a/b@", "../b@x", "a/b/c@x", "a/b@../x", "a/b@x?y", "a/ b@x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_of_another_layout_make_room_or_keep_a_fetch_out() {
        let dir = tempfile::tempdir().unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        let write = |name: &str, text: &str| write_atomic(&dir.path().join(name), text.as_bytes());
        let fetched = BTreeMap::from([(CONFIG.to_owned(), ()), (INDEX.to_owned(), ())]);
        write(WEIGHTS, "somebody's").unwrap();
        let refused = make_room(dir.path(), &fetched).unwrap_err().to_string();
        assert!(refused.contains(WEIGHTS) && refused.contains("another folder"), "{refused}");
        assert!(there(WEIGHTS));
        // The same from an earlier fetch.
        let files = [CONFIG, WEIGHTS].map(|name| (name.to_owned(), "a sum".to_owned()));
        let (repository, commit) = ("a/b".to_owned(), "c".to_owned());
        let manifest = ModelManifest { repository, commit, files: files.into() };
        write(MANIFEST, &serde_json::to_string(&manifest).unwrap()).unwrap();
        write(CONFIG, "{}").unwrap();
        make_room(dir.path(), &fetched).unwrap();
        assert_eq!([WEIGHTS, MANIFEST, CONFIG].map(there), [false, false, true]);
        make_room(dir.path(), &fetched).unwrap();
    }

    #[test]
    fn a_record_removes_nothing_outside_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (out, outside) = (dir.path().join("model"), dir.path().join("other"));
        std::fs::create_dir(&out).unwrap();
        for name in ["../other".to_owned(), outside.display().to_string(), ".hidden".to_owned()] {
            write_atomic(&outside, b"somebody's").unwrap();
            let (repository, commit) = ("a/b".to_owned(), "c".to_owned());
            let files = BTreeMap::from([(name.clone(), "a sum".to_owned())]);
            let record = serde_json::to_vec(&ModelManifest { repository, commit, files }).unwrap();
            write_atomic(&out.join(MANIFEST), &record).unwrap();
            let refused = make_room::<()>(&out, &BTreeMap::new()).unwrap_err().to_string();
            assert!(refused.contains(&name) && refused.contains("plain"), "{refused}");
            assert!(outside.exists() && out.join(MANIFEST).exists());
        }
    }

    #[test]
    fn only_weights_that_cannot_run_code_are_chosen() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let both = names(&["pytorch_model.bin", "model.safetensors"]);
        assert_eq!(weights(&both, "a/b").unwrap(), ["model.safetensors"]);
        let pickle = weights(&names(&["README.md", "pytorch_model.bin"]), "a/b").unwrap_err();
        assert!(pickle.to_string().starts_with("pytorch_model.bin is a pickle"), "{pickle}");
        assert!(weights(&names(&["README.md"]), "a/b").is_err());
    }
}
