use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use parking_lot::Mutex;
use serde::Serialize;

use super::checkpoint::{Checkpoint, most_bytes};
use super::engine::{Engine, Taken};
use super::files::{
    CONFIG, NamedBytes, PREPROCESSOR, TOKENIZER, WEIGHTS, name_of, read_json, read_weights,
};
use super::fingerprint::{fingerprint, in_precision, little_endian, of_parameters};
use super::parameters::ParameterSpec;
use super::stream::WeightStream;
use super::{
    Clip, ClipConfig, ExplainMethod, ModelError, Parameters, PatchMap, Precision, Tokenizer,
};
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
        let (mut files, config) = Self::read_small(dir)?;
        files.weights = read_weights(dir, most_bytes(&ParameterSpec::of(&config)))?;
        Ok((files, config))
    }

    /// Everything but the weights.
    fn read_small(dir: &Path) -> Result<(Self, ClipConfig), ModelError> {
        let config_json = read_json(dir, CONFIG)?;
        let config = ClipConfig::from_json(&config_json)?;
        let files = Self {
            config: config_json,
            tokenizer: read_json(dir, TOKENIZER)?,
            preprocessor: read_json(dir, PREPROCESSOR)?,
            weights: Vec::new(),
        };
        Ok((files, config))
    }
}

/// One set of weights, two executions.
enum Execution {
    /// On a CPU.
    Engine(Box<Engine>),
    /// On any other device.
    Clip(Box<Clip>),
}

/// A model loaded for inference: pixels and prompts in, embeddings out.
pub struct Embedder {
    execution: Execution,
    config: ClipConfig,
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
        Self::nano_in(Precision::F32, device)
    }

    /// The same with its weights kept in another precision, where the device is a CPU.
    ///
    /// # Errors
    /// As [`Self::nano`].
    pub fn nano_in(precision: Precision, device: &Device) -> Result<Self, ModelError> {
        let files = nano_files();
        let config = ClipConfig::from_json(&files.config)?;
        Self::build("nano", files, &config, precision, device)
    }

    /// What [`Self::open`] would hold of the weights of the model in a directory, in bytes.
    ///
    /// # Errors
    /// [`ModelError`] where its configuration cannot be read.
    pub fn bytes(dir: &Path) -> Result<u64, ModelError> {
        Ok(ClipConfig::from_json(&read_json(dir, CONFIG)?)?.engine_bytes())
    }

    /// The model in a directory laid out as Hugging Face does.
    ///
    /// # Errors
    /// [`ModelError`] naming the file, key or tensor at fault.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::open_in(None, dir, Precision::F32, device)
    }

    /// The same under another name than the directory's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(name: &str, dir: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::open_in(Some(name), dir, Precision::F32, device)
    }

    /// The same with its weights kept in another precision, where the device is a CPU; under the directory's name if none is
    /// given.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(
        name: Option<&str>,
        dir: &Path,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let own = name_of(dir);
        let name = name.unwrap_or(&own);
        let (mut files, config) = ModelFiles::read_small(dir)?;
        let spec = ParameterSpec::of(&config);
        if device.is_cpu()
            && let Some(stream) = WeightStream::open(dir, &spec)
        {
            return Self::stream(name, &files, &stream, &config, precision);
        }
        files.weights = read_weights(dir, most_bytes(&spec))?;
        Self::build(name, files, &config, precision, device)
    }

    /// Reads the weights as they are packed, and once more beside that for the fingerprint.
    fn stream(
        name: &str,
        files: &ModelFiles,
        stream: &WeightStream,
        config: &ClipConfig,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let preprocessing = Preprocessing::from_json(&files.preprocessor)?;
        let tokenizer = files.tokenizer.as_bytes();
        let (fingerprint, engine) = rayon::join(
            || {
                let names = stream.names().into_iter();
                let counts = names.map(|name| (name, stream.count(name)));
                fingerprint(config, tokenizer, &preprocessing, counts, |name, take| {
                    stream.bytes(name, take)
                })
            },
            || Engine::new(config, stream, precision),
        );
        let counts = stream.names().into_iter().map(|name| stream.count(name));
        let loaded = Loaded {
            execution: Execution::Engine(Box::new(engine?)),
            fingerprint: in_precision(fingerprint?, precision),
            parameters: counts.sum(),
        };
        Self::assemble(name, loaded, config, tokenizer, preprocessing, &Device::Cpu)
    }

    /// A model of parts at hand, as training has them.
    ///
    /// # Errors
    /// As [`Embedder::open`].
    pub fn from_parts(name: &str, parts: ModelParts<'_>) -> Result<Self, ModelError> {
        let ModelParts { config, parameters, tokenizer, preprocessing, device } = parts;
        let fingerprint = of_parameters(config, tokenizer, &preprocessing, parameters)?;
        let execution = match device {
            Device::Cpu => {
                let engine = Engine::new(config, parameters, Precision::F32)?;
                Execution::Engine(Box::new(engine))
            }
            Device::Cuda(_) | Device::Metal(_) => {
                Execution::Clip(Box::new(Clip::frozen(config, parameters)?))
            }
        };
        let loaded = Loaded { execution, fingerprint, parameters: parameters.count() };
        Self::assemble(name, loaded, config, tokenizer, preprocessing, device)
    }

    fn build(
        name: &str,
        files: ModelFiles,
        config: &ClipConfig,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let ModelFiles { tokenizer, preprocessor, weights, .. } = files;
        let spec = ParameterSpec::of(config);
        let checkpoint = Checkpoint::read(&weights, &spec);
        let (tokenizer, preprocessing) =
            (tokenizer.as_bytes(), Preprocessing::from_json(&preprocessor)?);
        if !device.is_cpu() {
            let parameters = &checkpoint.into_parameters(&spec, device)?;
            let parts = ModelParts { config, parameters, tokenizer, preprocessing, device };
            return Self::from_parts(name, parts);
        }
        // A model is large: what has been read goes before what is made of it is there.
        drop(weights);
        let values = checkpoint.into_values()?;
        let counts = values.iter().map(|(name, values)| (name.as_str(), values.len()));
        let fingerprint = fingerprint(config, tokenizer, &preprocessing, counts, |name, take| {
            little_endian(values.get(name).map_or(&[][..], Vec::as_slice), take);
            Ok(())
        })?;
        let parameters = values.values().map(Vec::len).sum();
        let engine = Engine::new(config, &Taken(Mutex::new(values)), precision)?;
        let execution = Execution::Engine(Box::new(engine));
        let fingerprint = in_precision(fingerprint, precision);
        let loaded = Loaded { execution, fingerprint, parameters };
        Self::assemble(name, loaded, config, tokenizer, preprocessing, device)
    }

    fn assemble(
        name: &str,
        loaded: Loaded,
        config: &ClipConfig,
        tokenizer: &[u8],
        preprocessing: Preprocessing,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let side = config.vision.image_size as u32;
        if preprocessing.size() != (side, side) {
            let got = preprocessing.size();
            return Err(ModelError::ImageSize { got, expected: (side, side) });
        }
        Ok(Self {
            execution: loaded.execution,
            config: config.clone(),
            tokenizer: Tokenizer::from_bytes(tokenizer, config)?,
            summary: ModelSummary {
                name: name.to_owned(),
                fingerprint: loaded.fingerprint,
                dim: config.projection_dim,
                image_size: preprocessing.size(),
                patch_size: config.vision.patch_size,
                max_tokens: config.text.max_position_embeddings,
                parameters: loaded.parameters,
            },
            preprocessing,
            device: device.clone(),
        })
    }

    /// How its weights are kept.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match &self.execution {
            Execution::Engine(engine) => engine.precision(),
            Execution::Clip(_) => Precision::F32,
        }
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
        embed_chunks(checked.collect(), |chunk| match &self.execution {
            Execution::Engine(engine) => {
                let pixels: Vec<&[f32]> = chunk.iter().map(|pixels| pixels.as_slice()).collect();
                Ok(engine.image_features(&pixels))
            }
            Execution::Clip(clip) => {
                let batch: Vec<f32> =
                    chunk.iter().flat_map(|pixels| pixels.iter().copied()).collect();
                let shape = (chunk.len(), 3, height, width);
                let pixels = Tensor::from_vec(batch, shape, &self.device)?;
                Ok(clip.image_features(&pixels)?.to_vec2()?)
            }
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
        match &self.execution {
            // It needs gradients, and is asked for too seldom to keep a second set of weights.
            Execution::Engine(engine) => {
                let parameters = engine.parameters(&self.config)?;
                Clip::frozen(&self.config, &parameters)?.explain(&pixels, target, method)
            }
            Execution::Clip(clip) => clip.explain(&pixels, target, method),
        }
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
        embed_chunks(encoded.collect(), |chunk| match &self.execution {
            Execution::Engine(engine) => {
                let ids: Vec<&[u32]> = chunk.iter().map(Vec::as_slice).collect();
                engine.text_features(&ids)
            }
            Execution::Clip(clip) => {
                let mut batch = chunk.to_vec();
                self.tokenizer.pad(&mut batch);
                let ids = Tensor::new(batch, &self.device)?;
                Ok(clip.text_features(&ids)?.to_vec2()?)
            }
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

/// What [`Embedder`] is made of once its weights are where they are needed.
struct Loaded {
    execution: Execution,
    fingerprint: Fingerprint,
    parameters: usize,
}

/// Runs the good inputs through `features` in chunks and puts the results in the inputs' order.
fn embed_chunks<T>(
    inputs: Vec<Result<T, ModelError>>,
    features: impl Fn(&[T]) -> Result<Vec<Vec<f32>>, ModelError>,
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
        let rows = features(chunk)?;
        for (row, place) in rows.into_iter().zip(places) {
            results[*place] = Embedding::from_raw(row).map_err(ModelError::from);
        }
    }
    Ok(results)
}

/// A shared error of a whole batch.
pub(super) fn shared(error: ModelError) -> impl Fn() -> ModelError {
    let error = Arc::new(error);
    move || ModelError::Batch(Arc::clone(&error))
}
