use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::checkpoint::{Checkpoint, most_bytes};
use super::files::{
    CONFIG, NamedBytes, PREPROCESSOR, TOKENIZER, WEIGHTS, name_of, read_json, read_weights,
};
use super::parameters::ParameterSpec;
use super::{Clip, ClipConfig, ExplainMethod, ModelError, Parameters, PatchMap, Tokenizer};
use crate::domain::{Embedding, Fingerprint};
use crate::image::Preprocessing;

/// Images or prompts computed at a time; bounds the memory that a request takes.
const CHUNK: usize = 32;

/// What a caller may want to know of a loaded model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// `nano`, or the name of the model's directory.
    pub name: String,
    /// What decides the embeddings; see [`Fingerprint`].
    pub fingerprint: Fingerprint,
    /// Dimensions of an embedding.
    pub dim: usize,
    /// Height and width of the input, in pixels.
    pub image_size: (u32, u32),
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Longest prompt, in tokens with begin and end.
    pub max_tokens: usize,
    /// Values in all parameters.
    pub parameters: usize,
}

/// The contents of a model directory.
pub(super) struct ModelFiles {
    pub(super) config: String,
    pub(super) tokenizer: String,
    pub(super) preprocessor: String,
    pub(super) weights: Vec<NamedBytes>,
}

impl ModelFiles {
    pub(super) fn read(dir: &Path) -> Result<(Self, ClipConfig), ModelError> {
        let config_json = read_json(dir, CONFIG)?;
        let config = ClipConfig::from_json(&config_json)?;
        let files = Self {
            config: config_json,
            tokenizer: read_json(dir, TOKENIZER)?,
            preprocessor: read_json(dir, PREPROCESSOR)?,
            weights: read_weights(dir, most_bytes(&ParameterSpec::of(&config)))?,
        };
        Ok((files, config))
    }
}

/// A model loaded for inference: pixels and prompts in, embeddings out.
pub struct Embedder {
    clip: Clip,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    device: Device,
    summary: ModelSummary,
}

impl Embedder {
    /// The model that this binary carries. It was trained on generated hands only.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn nano(device: &Device) -> Result<Self, ModelError> {
        let files = nano_files();
        let config = ClipConfig::from_json(&files.config)?;
        Self::build("nano", &files, &config, device)
    }

    /// The model in a directory laid out as Hugging Face does.
    ///
    /// # Errors
    /// [`ModelError`] naming the file, key or tensor at fault.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::open_as(&name_of(dir), dir, device)
    }

    /// The same under another name than the directory's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(name: &str, dir: &Path, device: &Device) -> Result<Self, ModelError> {
        let (files, config) = ModelFiles::read(dir)?;
        Self::build(name, &files, &config, device)
    }

    /// A model of parts at hand, as training has them.
    ///
    /// # Errors
    /// As [`Embedder::open`].
    pub fn from_parts(name: &str, parts: ModelParts<'_>) -> Result<Self, ModelError> {
        let ModelParts { config, parameters, tokenizer, preprocessing, device } = parts;
        let side = config.vision.image_size as u32;
        if preprocessing.size() != (side, side) {
            let got = preprocessing.size();
            return Err(ModelError::ImageSize { got, expected: (side, side) });
        }
        let fingerprint = fingerprint(config, parameters, tokenizer, &preprocessing)?;
        Ok(Self {
            clip: Clip::frozen(config, parameters)?,
            tokenizer: Tokenizer::from_bytes(tokenizer, config)?,
            summary: ModelSummary {
                name: name.to_owned(),
                fingerprint,
                dim: config.projection_dim,
                image_size: preprocessing.size(),
                patch_size: config.vision.patch_size,
                max_tokens: config.text.max_position_embeddings,
                parameters: parameters.count(),
            },
            preprocessing,
            device: device.clone(),
        })
    }

    fn build(
        name: &str,
        files: &ModelFiles,
        config: &ClipConfig,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let spec = ParameterSpec::of(config);
        let parameters = Checkpoint::read(&files.weights, &spec).into_parameters(&spec, device)?;
        let parts = ModelParts {
            config,
            parameters: &parameters,
            tokenizer: files.tokenizer.as_bytes(),
            preprocessing: Preprocessing::from_json(&files.preprocessor)?,
            device,
        };
        Self::from_parts(name, parts)
    }

    /// `nano`, or the name of the model's directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.summary.name
    }

    /// Dimensions of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.summary.dim
    }

    /// What decides the embeddings.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.summary.fingerprint
    }

    /// How a picture becomes the pixels that [`Embedder::embed_pixels`] takes.
    #[must_use]
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's figures.
    #[must_use]
    pub fn summary(&self) -> ModelSummary {
        self.summary.clone()
    }

    /// Embeds preprocessed images, each `[3, height, width]`. An image at fault has an error of
    /// its own and does not disturb the others.
    ///
    /// # Errors
    /// [`ModelError::Compute`] when the device fails.
    pub fn embed_pixels(
        &self,
        pixels: &[Vec<f32>],
    ) -> Result<Vec<Result<Embedding, ModelError>>, ModelError> {
        let (height, width) = self.summary.image_size;
        let (height, width) = (height as usize, width as usize);
        let expected = 3 * height * width;
        let checked = pixels.iter().map(|pixels| match pixels.len() {
            got if got == expected => Ok(pixels),
            got => Err(ModelError::PixelCount { got, expected }),
        });
        embed_chunks(checked.collect(), |chunk| {
            let batch: Vec<f32> = chunk.iter().flat_map(|pixels| pixels.iter().copied()).collect();
            let shape = (chunk.len(), 3, height, width);
            self.clip.image_features(&Tensor::from_vec(batch, shape, &self.device)?)
        })
    }

    /// Which patches of a preprocessed image, `[3, height, width]`, make it as similar to `target` as it is.
    ///
    /// # Errors
    /// As [`Clip::explain`].
    pub fn explain(
        &self,
        pixels: &[f32],
        target: &Embedding,
        method: ExplainMethod,
    ) -> Result<PatchMap, ModelError> {
        let (height, width) = self.summary.image_size;
        let (height, width) = (height as usize, width as usize);
        let (got, expected) = (pixels.len(), 3 * height * width);
        if got != expected {
            return Err(ModelError::PixelCount { got, expected });
        }
        let pixels = Tensor::from_slice(pixels, (1, 3, height, width), &self.device)?;
        self.clip.explain(&pixels, target, method)
    }

    /// Embeds prompts. A prompt at fault has an error of its own.
    ///
    /// # Errors
    /// [`ModelError::Compute`] when the device fails.
    pub fn embed_texts(
        &self,
        prompts: &[String],
    ) -> Result<Vec<Result<Embedding, ModelError>>, ModelError> {
        let encoded = prompts.iter().map(|prompt| self.tokenizer.encode(prompt));
        embed_chunks(encoded.collect(), |chunk| {
            let mut batch = chunk.to_vec();
            self.tokenizer.pad(&mut batch);
            self.clip.text_features(&Tensor::new(batch, &self.device)?)
        })
    }
}

/// The files of the model that this binary carries.
pub(super) fn nano_files() -> ModelFiles {
    ModelFiles {
        config: include_str!("nano/config.json").to_owned(),
        tokenizer: include_str!("nano/tokenizer.json").to_owned(),
        preprocessor: include_str!("nano/preprocessor_config.json").to_owned(),
        weights: vec![NamedBytes {
            name: WEIGHTS.to_owned(),
            bytes: include_bytes!("nano/model.safetensors").to_vec(),
        }],
    }
}

/// What [`Embedder::from_parts`] takes.
pub struct ModelParts<'a> {
    /// Configuration of both towers.
    pub config: &'a ClipConfig,
    /// Their weights.
    pub parameters: &'a Parameters,
    /// Bytes of the tokenizer.json.
    pub tokenizer: &'a [u8],
    /// How pictures become pixels.
    pub preprocessing: Preprocessing,
    /// Where to compute.
    pub device: &'a Device,
}

/// Runs the good inputs through `features` in chunks and puts the results in the inputs' order.
fn embed_chunks<T>(
    inputs: Vec<Result<T, ModelError>>,
    features: impl Fn(&[T]) -> Result<Tensor, ModelError>,
) -> Result<Vec<Result<Embedding, ModelError>>, ModelError> {
    let mut results = Vec::with_capacity(inputs.len());
    let (mut good, mut places) = (Vec::new(), Vec::new());
    for (place, input) in inputs.into_iter().enumerate() {
        match input {
            Ok(input) => {
                good.push(input);
                places.push(place);
                // Replaced below: every good input gets a feature.
                results.push(Err(ModelError::Stopped));
            }
            Err(error) => results.push(Err(error)),
        }
    }
    for (chunk, places) in good.chunks(CHUNK).zip(places.chunks(CHUNK)) {
        let rows = features(chunk)?.to_vec2::<f32>()?;
        for (row, place) in rows.into_iter().zip(places) {
            results[*place] = Embedding::from_raw(row).map_err(ModelError::from);
        }
    }
    Ok(results)
}

/// SHA-256 over all that decides an embedding. Weights count by their f32 values, so the type and
/// the names they are stored under make no difference.
fn fingerprint(
    config: &ClipConfig,
    parameters: &Parameters,
    tokenizer: &[u8],
    preprocessing: &Preprocessing,
) -> Result<Fingerprint, ModelError> {
    let mut hash = Sha256::new();
    // Every field is preceded by its length, so that no two models share their bytes.
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(b"handclip model 1");
    field(config.to_json().as_bytes());
    field(tokenizer);
    field(preprocessing.to_json().as_bytes());
    field(&(config.projection_dim as u64).to_le_bytes());
    field(b"l2");
    for (name, var) in parameters.iter() {
        field(name.as_bytes());
        let values = var.as_detached_tensor().flatten_all()?.to_device(&Device::Cpu)?;
        let bytes: Vec<u8> =
            values.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
        field(&bytes);
    }
    Ok(Fingerprint(hash.finalize().into()))
}

/// A shared error of a whole batch.
pub(super) fn shared(error: ModelError) -> impl Fn() -> ModelError {
    let error = Arc::new(error);
    move || ModelError::Batch(Arc::clone(&error))
}
