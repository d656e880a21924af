//! Work without a store: embedding files and prompts, drawing hands, looking at model directories.

use std::path::Path;

use serde::Serialize;

use crate::domain::Fingerprint;
use crate::image::{DecodeLimits, decode};
use crate::model::Embedder;
use crate::synth::{SynthError, SynthSpec, SynthSummary, write_dataset};

use super::error::ServiceError;
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
