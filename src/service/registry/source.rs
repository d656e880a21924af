//! Where a model lies that is to be brought, and copying what it needs from there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::record::ModelFile;
use super::{FILES, RECORD, RegistryError, digest};
use crate::model::weight_files;
use crate::service::error::chain;
use crate::service::fine_tune::TRAINED_ON;
use crate::service::room::check_disk;

/// Files of a model besides its weights.
const SMALL_FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "open_clip_config.json",
];
/// Files of a run that go with its model.
const OF_RUN: [&str; 2] = [TRAINED_ON, "recipe.toml"];
/// Largest file that is none of weights.
pub(super) const MAX_TEXT: u64 = 64 << 20;

/// What may be brought.
pub(super) struct Bounds<'a> {
    /// Most bytes over all files.
    pub(super) bytes: u64,
    /// Whether a file may be read, by where it lies when every link is followed.
    pub(super) may_read: &'a dyn Fn(&Path) -> bool,
    /// Whether the files may be taken away from where they lie: nobody else has them.
    pub(super) take: bool,
}

/// Where a model lies, and what lies beside it.
pub(super) struct Source {
    files: PathBuf,
    pub(super) run: Option<PathBuf>,
}

/// A file to be brought.
struct Wanted {
    from: PathBuf,
    name: String,
    bytes: u64,
}

impl Source {
    /// A model's folder, a run's, or one that the registry wrote.
    pub(super) fn find(path: &Path) -> Result<Self, RegistryError> {
        let has = |dir: &Path| {
            dir.join("config.json").is_file() || dir.join("open_clip_config.json").is_file()
        };
        for name in [FILES, "best"] {
            if !has(path) && has(&path.join(name)) {
                return Ok(Self { files: path.join(name), run: Some(path.to_path_buf()) });
            }
        }
        if !has(path) {
            let about = "it has no config.json, neither itself nor in `best` or `files`";
            return Err(RegistryError::Refused(about.to_owned()));
        }
        let path = path.canonicalize().map_err(RegistryError::io("find the model"))?;
        let made_here = |run: &&Path| [TRAINED_ON, RECORD].iter().any(|n| run.join(n).is_file());
        let run = path.parent().filter(made_here);
        Ok(Self { run: run.map(Path::to_path_buf), files: path })
    }

    /// Brings what a model needs, and nothing else that lies there, into an empty folder.
    pub(super) fn bring(
        &self,
        to: &Path,
        bounds: &Bounds<'_>,
    ) -> Result<Vec<ModelFile>, RegistryError> {
        let wanted = self.wanted(bounds)?;
        let bytes = wanted.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        if bytes > bounds.bytes {
            let about = format!("it has {bytes} bytes, at most {} are taken", bounds.bytes);
            return Err(RegistryError::TooLarge(about));
        }
        let what = "copy the model";
        if !bounds.take {
            check_disk(to, bytes).map_err(RegistryError::io(what))?;
        }
        std::fs::create_dir(to.join(FILES)).map_err(RegistryError::io(what))?;
        let mut brought = Vec::new();
        for Wanted { from, name, bytes } in wanted {
            let target = to.join(&name);
            if bounds.take {
                std::fs::rename(&from, &target).map_err(RegistryError::io(what))?;
            } else {
                copy(&from, &target, bytes, &name)?;
            }
            File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(RegistryError::io(what))?;
            let (bytes, sha256) = digest(&target).map_err(RegistryError::io(what))?;
            brought.push(ModelFile { name, bytes, sha256 });
        }
        Ok(brought)
    }

    fn wanted(&self, bounds: &Bounds<'_>) -> Result<Vec<Wanted>, RegistryError> {
        let weights = weight_files(&self.files)
            .map_err(|error| RegistryError::Refused(without(&chain(&error), &self.files)))?;
        let mut names: Vec<&str> = SMALL_FILES.to_vec();
        names.extend(weights.iter().map(String::as_str));
        names.sort_unstable();
        let of_model = names.iter().map(|name| (self.files.join(name), format!("{FILES}/{name}")));
        let of_run = OF_RUN
            .iter()
            .filter_map(|name| self.run.as_ref().map(|run| (run.join(name), (*name).to_owned())));
        let mut wanted = Vec::new();
        for (path, name) in of_model.chain(of_run) {
            let refuse = |about: &str| Err(RegistryError::Refused(format!("{name} {about}")));
            // Weights that an index names and that are missing are missed when the model is opened.
            let Ok(from) = path.canonicalize() else { continue };
            if !(bounds.may_read)(&from) {
                return refuse("lies elsewhere");
            }
            match std::fs::metadata(&from) {
                Ok(about) if !about.is_file() => return refuse("is no plain file"),
                Ok(about) if about.len() > MAX_TEXT && !name.ends_with(".safetensors") => {
                    return refuse("is too large");
                }
                Ok(about) => wanted.push(Wanted { from, name, bytes: about.len() }),
                Err(error) => return refuse(&format!("cannot be read: {error}")),
            }
        }
        Ok(wanted)
    }
}

/// Copies as many bytes as were seen, whatever becomes of the file meanwhile.
fn copy(from: &Path, to: &Path, bytes: u64, name: &str) -> Result<(), RegistryError> {
    let refused =
        |error: std::io::Error| RegistryError::Refused(format!("{name} cannot be read: {error}"));
    let mut file = File::open(from).map_err(refused)?.take(bytes);
    let mut target = File::create_new(to).map_err(RegistryError::io("copy the model"))?;
    let copied = std::io::copy(&mut file, &mut target)
        .and_then(|copied| target.flush().map(|()| copied))
        .map_err(RegistryError::io("copy the model"))?;
    if copied == bytes { Ok(()) } else { Err(RegistryError::Refused(format!("{name} changes"))) }
}

/// A message about files of a folder, without saying where the folder lies.
pub(super) fn without(message: &str, dir: &Path) -> String {
    let dir = dir.display().to_string();
    message.replace(&format!("{dir}/"), "").replace(&dir, "the model's folder")
}
