//! What is evaluated: a model that embeds images, or embeddings that another program made.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::domain::Fingerprint;
use crate::service::leak::check_leak;
use crate::service::{ModelChoice, ServiceError, open_model};

use super::embed::{Embedded, embed_files};
use super::external::{is_external, named_path, read_external};
use super::plan::Plan;
use super::{EvaluateError, EvaluateEvent, EvaluateOptions};

/// A model or a file of embeddings, and what reports call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemChoice {
    name: Option<String>,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Model(ModelChoice),
    External(PathBuf),
}

/// What a report says of a system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemCard {
    /// What reports call it.
    pub name: String,
    /// The model's fingerprint; `null` for embeddings from a file.
    pub fingerprint: Option<Fingerprint>,
    /// Dimensions of an embedding.
    pub dim: usize,
    /// Values in the model's parameters.
    pub parameters: Option<usize>,
    /// Side of the model's input, pixels.
    pub image_size: Option<(u32, u32)>,
    /// The model's preprocessing.
    pub preprocessing: Option<serde_json::Value>,
    /// Embedding took so many seconds, the cache's share left out.
    pub seconds: f64,
    /// Embeddings that the cache had.
    pub cached: usize,
}

impl SystemChoice {
    /// `nano`, a model's directory, a run's directory, or a file of embeddings; `NAME=…` gives it a name.
    #[must_use]
    pub fn named(text: &str) -> Self {
        let (name, path) = named_path(text);
        let source = if is_external(&path) {
            Source::External(path)
        } else {
            Source::Model(ModelChoice::named(&path.to_string_lossy()))
        };
        Self { name, source }
    }

    /// As [`SystemChoice::named`], or a model of the registry of a data directory.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], as [`ModelChoice::found_in`].
    pub fn found_in(text: &str, data_dir: &Path) -> Result<Self, ServiceError> {
        let (name, path) = named_path(text);
        if is_external(&path) {
            return Ok(Self { name, source: Source::External(path) });
        }
        let model = ModelChoice::found_in(&path.to_string_lossy(), data_dir)?;
        Ok(Self { name, source: Source::Model(model) })
    }

    /// What it is, without its name: what `--model` of every command takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.source {
            Source::Model(ModelChoice::Nano) => PathBuf::from("nano"),
            Source::Model(
                ModelChoice::Directory(path) | ModelChoice::Registered { files: path, .. },
            )
            | Source::External(path) => path.clone(),
        }
    }

    /// The model; `None` for embeddings from a file.
    pub(super) fn model(&self) -> Option<&ModelChoice> {
        match &self.source {
            Source::Model(choice) => Some(choice),
            Source::External(_) => None,
        }
    }

    /// A model under a name of its own.
    #[must_use]
    pub fn of_model(name: &str, model: ModelChoice) -> Self {
        Self { name: Some(name.to_owned()), source: Source::Model(model) }
    }

    /// What reports call it, where a model's directory says nothing better.
    pub(super) fn name(&self) -> String {
        match (&self.name, &self.source) {
            (Some(name), _) => name.clone(),
            (None, Source::External(path)) => stem(path),
            (None, Source::Model(ModelChoice::Nano)) => "nano".to_owned(),
            (None, Source::Model(ModelChoice::Directory(path))) => directory_name(path),
            (None, Source::Model(ModelChoice::Registered { name, .. })) => name.clone(),
        }
    }

    /// Embeds a plan's files.
    pub(super) fn embed(
        &self,
        plan: &Plan,
        options: &EvaluateOptions,
        progress: &dyn Fn(EvaluateEvent),
    ) -> Result<(SystemCard, Embedded), EvaluateError> {
        progress(EvaluateEvent::System(self.name()));
        match &self.source {
            Source::External(path) => {
                let embedded = read_external(path, &plan.files)?;
                let card = SystemCard {
                    name: self.name(),
                    fingerprint: None,
                    dim: embedded.vectors.dim(),
                    parameters: None,
                    image_size: None,
                    preprocessing: None,
                    seconds: embedded.seconds,
                    cached: 0,
                };
                Ok((card, embedded))
            }
            Source::Model(choice) => {
                if !options.allow_leak {
                    let evaluated = plan.subjects.iter().map(String::as_str).collect();
                    check_leak(choice, &evaluated, &plan.everybody)?;
                }
                let mut notices = Vec::new();
                let embedder = open_model(choice, &options.device, &mut notices)?;
                notices.into_iter().for_each(|notice| progress(EvaluateEvent::Notice(notice)));
                let cache = options.cache.as_deref();
                let embedded =
                    embed_files(&embedder, &plan.files, cache, &options.cancel, progress)?;
                let summary = embedder.summary();
                let preprocessing = serde_json::from_str(&embedder.preprocessing().to_json()).ok();
                let card = SystemCard {
                    name: self.name(),
                    fingerprint: Some(summary.fingerprint),
                    dim: summary.dim,
                    parameters: Some(summary.parameters),
                    image_size: Some(summary.image_size),
                    preprocessing,
                    seconds: embedded.seconds,
                    cached: embedded.cached,
                };
                Ok((card, embedded))
            }
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// `runs/photos` for `runs/photos/best`: every run has a `best`.
fn directory_name(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name(path) {
        Some(own) if own == "best" || own == "last" => match path.parent().and_then(name) {
            Some(run) => format!("{run}/{own}"),
            None => own,
        },
        Some(own) => own,
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_have_names_that_tell_them_apart() {
        let name = |text: &str| SystemChoice::named(text).name();
        assert_eq!(name("nano"), "nano");
        assert_eq!(name("runs/photos/best"), "photos/best");
        assert_eq!(name("/models/clip-b32"), "clip-b32");
        assert_eq!(name("out/mba_net.npy"), "mba_net");
        assert_eq!(name("MBA-Net=out/features.PARQUET"), "MBA-Net");
        let path = |text: &str| SystemChoice::named(text).path();
        assert_eq!(path("MBA-Net=out/features.PARQUET"), Path::new("out/features.PARQUET"));
        assert_eq!(path("ours=nano"), Path::new("nano"));
    }
}
