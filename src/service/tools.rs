//! Work without a store: embedding files and prompts, drawing hands, looking at model directories.

use std::path::Path;

use serde::Serialize;

use crate::domain::Fingerprint;
use crate::image::{DecodeLimits, decode};
use crate::model::{Embedder, ModelManifest, ModelReport, inspect, inspect_nano, pull};
use crate::storage::Store;
use crate::synth::{SynthError, SynthSpec, SynthSummary, write_dataset};

use super::error::ServiceError;
use super::nano_card::{CardError, Figures, score_generated, score_photographs};
use super::options::ModelChoice;

/// One line of `handclip embed --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingLine {
    /// The file or the prompt.
    pub input: String,
    /// Unit length, `[dim]`.
    pub embedding: Vec<f32>,
    /// Dimensions.
    pub dim: usize,
    /// The model's fingerprint.
    pub fingerprint: Fingerprint,
}

/// A model that embeds files and prompts one after the other.
pub struct OfflineModel {
    embedder: Embedder,
    /// What a person should be told of the device.
    pub notices: Vec<String>,
}

impl OfflineModel {
    /// Loads a model.
    ///
    /// # Errors
    /// [`ServiceError::Model`] or [`ServiceError::Device`].
    pub fn open(model: &ModelChoice, device: &str) -> Result<Self, ServiceError> {
        let mut notices = Vec::new();
        let embedder = super::open_model(model, device, &mut notices)?;
        Ok(Self { embedder, notices })
    }

    /// The model itself.
    pub(super) fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Embeds an image file. The quality gate is not asked: this only computes.
    ///
    /// # Errors
    /// [`ServiceError`] for a file that cannot be read or decoded.
    pub fn image(&self, path: &Path) -> Result<EmbeddingLine, ServiceError> {
        let limits = DecodeLimits::default();
        let file = read_image(path, limits.max_file_bytes)?;
        let picture = decode(&file, &limits)?;
        let pixels = self.embedder.preprocessing().apply(&picture);
        self.line(path.display().to_string(), self.embedder.embed_pixels(&[pixels])?)
    }

    /// Embeds a prompt.
    ///
    /// # Errors
    /// [`ServiceError::Prompt`].
    pub fn text(&self, prompt: &str) -> Result<EmbeddingLine, ServiceError> {
        self.line(prompt.to_owned(), self.embedder.embed_texts(&[prompt.to_owned()])?)
    }

    fn line(
        &self,
        input: String,
        mut results: Vec<Result<crate::domain::Embedding, crate::model::ModelError>>,
    ) -> Result<EmbeddingLine, ServiceError> {
        let none = || ServiceError::Internal("the model gave no embedding".to_owned());
        let embedding = results.pop().ok_or_else(none)??;
        Ok(EmbeddingLine {
            input,
            dim: embedding.dim(),
            embedding: embedding.as_slice().to_vec(),
            fingerprint: self.embedder.fingerprint(),
        })
    }
}

/// Whether there is a store in a folder, sound or not.
///
/// # Errors
/// [`ServiceError::Internal`] where that cannot be told.
pub fn has_store(dir: &Path) -> Result<bool, ServiceError> {
    Ok(Store::exists(dir)?)
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// [`ServiceError::Invalid`] when it cannot be read, [`ServiceError::ImageTooLarge`] when it is larger.
pub fn read_image(path: &Path, max: usize) -> Result<Vec<u8>, ServiceError> {
    use std::io::Read as _;
    let problem = |error: std::io::Error| ServiceError::Invalid {
        field: "image",
        problem: format!("{} cannot be read: {error}", path.display()),
    };
    let file = std::fs::File::open(path).map_err(problem)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() > max {
        let message = format!("{} is larger than {max} bytes", path.display());
        return Err(ServiceError::ImageTooLarge(message));
    }
    Ok(bytes)
}

/// What to draw; see [`SynthSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawing {
    /// People.
    pub subjects: u64,
    /// Pictures of each of a person's four hands.
    pub images: u64,
    /// Names the population.
    pub seed: u64,
    /// Side of a picture, pixels.
    pub size: u32,
}

/// Draws hands of people who do not exist in the layout of 11k Hands.
///
/// # Errors
/// [`SynthError`].
pub fn draw_hands(
    drawing: Drawing,
    out: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<SynthSummary, SynthError> {
    let Drawing { subjects, images, seed, size } = drawing;
    write_dataset(&SynthSpec { first: 0, subjects, images, seed, size }, out, progress)
}

/// Checks a model and says what it is.
///
/// # Errors
/// [`ServiceError::Model`] when nothing can be said; a model that is damaged has its problems listed.
pub fn inspect_model(name: &str) -> Result<ModelReport, ServiceError> {
    let report = match ModelChoice::named(name) {
        ModelChoice::Nano => inspect_nano(),
        ModelChoice::Directory(dir) | ModelChoice::Registered { files: dir, .. } => inspect(&dir),
    };
    report.map_err(|error| ServiceError::Model(super::error::chain(&error)))
}

/// Fetches a model from the Hugging Face hub. `progress` gets a file, its bytes there and in all.
///
/// # Errors
/// [`ServiceError::Model`] saying what to do without a network.
pub fn pull_model(
    reference: &str,
    out: &Path,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<ModelManifest, ServiceError> {
    pull(reference, out, progress).map_err(|error| ServiceError::Model(super::error::chain(&error)))
}

impl OfflineModel {
    /// Scores the model on generated people that training never saw, four pictures of each hand.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn score_generated(&self, people: u64) -> Result<Figures, CardError> {
        score_generated(&self.embedder, people, 4)
    }

    /// Scores the model on photographs in the layout of 11k Hands, those without accessories.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn score_photographs(&self, folder: &Path) -> Result<Figures, CardError> {
        score_photographs(&self.embedder, folder, true)
    }
}
