use std::path::Path;

use candle_core::{DType, Device};

use super::checkpoint::Checkpoint;
use super::embedder::{ModelFiles, ModelParts, nano_files};
use super::files::{CONFIG, PREPROCESSOR, TOKENIZER, WEIGHTS, name_of};
use super::fingerprint::of_parameters;
use super::parameters::ParameterSpec;
use super::{ClipConfig, Embedder, ModelError, Parameters, Tokenizer};
use crate::domain::Fingerprint;
use crate::image::Preprocessing;
use crate::storage::file::write_atomic;

/// A model in parts that can be trained and saved, where an [`Embedder`] only computes.
pub struct Trainable {
    /// Configuration of both towers.
    pub config: ClipConfig,
    /// Their weights; f32, whatever they were stored in.
    pub parameters: Parameters,
    /// Turns prompts into token ids.
    pub tokenizer: Tokenizer,
    /// How pictures become pixels.
    pub preprocessing: Preprocessing,
    /// `nano`, or the name of the model's directory.
    pub name: String,
    tokenizer_json: String,
}

impl Trainable {
    /// The model that this binary carries.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn nano(device: &Device) -> Result<Self, ModelError> {
        let files = nano_files();
        let config = ClipConfig::from_json(&files.config)?;
        Self::build("nano", &files, config, device)
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
        Self::build(name, &files, config, device)
    }

    fn build(
        name: &str,
        files: &ModelFiles,
        config: ClipConfig,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let spec = ParameterSpec::of(&config);
        let parameters = Checkpoint::read(&files.weights, &spec).into_parameters(&spec, device)?;
        let preprocessing = Preprocessing::from_json(&files.preprocessor)?;
        let side = config.vision.image_size as u32;
        if preprocessing.size() != (side, side) {
            return Err(ModelError::ImageSize {
                got: preprocessing.size(),
                expected: (side, side),
            });
        }
        Ok(Self {
            parameters,
            tokenizer: Tokenizer::from_bytes(files.tokenizer.as_bytes(), &config)?,
            preprocessing,
            name: name.to_owned(),
            tokenizer_json: files.tokenizer.clone(),
            config,
        })
    }

    /// What decides the embeddings of the weights as they are now.
    ///
    /// # Errors
    /// When they cannot be brought to the CPU.
    pub fn fingerprint(&self) -> Result<Fingerprint, ModelError> {
        let tokenizer = self.tokenizer_json.as_bytes();
        of_parameters(&self.config, tokenizer, &self.preprocessing, &self.parameters)
    }

    /// The same model with other weights, ready to embed.
    ///
    /// # Errors
    /// As [`Embedder::from_parts`].
    pub fn embedder(
        &self,
        parameters: &Parameters,
        device: &Device,
    ) -> Result<Embedder, ModelError> {
        let parts = ModelParts {
            config: &self.config,
            parameters,
            tokenizer: self.tokenizer_json.as_bytes(),
            preprocessing: self.preprocessing.clone(),
            device,
        };
        Embedder::from_parts(&self.name, parts)
    }

    /// Writes a Hugging Face directory with these weights, stored as `dtype`. `dir` must exist.
    ///
    /// # Errors
    /// [`ModelError::Storage`] naming the file.
    pub fn save(
        &self,
        parameters: &Parameters,
        dir: &Path,
        dtype: DType,
    ) -> Result<(), ModelError> {
        write_atomic(&dir.join(CONFIG), self.config.to_json().as_bytes())?;
        write_atomic(&dir.join(TOKENIZER), self.tokenizer_json.as_bytes())?;
        write_atomic(&dir.join(PREPROCESSOR), self.preprocessing.to_json().as_bytes())?;
        // Last: a directory without weights is not mistaken for a model.
        parameters.save(&dir.join(WEIGHTS), dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_opens_as_the_same_model() {
        let device = Device::Cpu;
        let nano = Trainable::nano(&device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        nano.save(&nano.parameters, dir.path(), DType::F32).unwrap();
        let opened = Embedder::open(dir.path(), &device).unwrap();
        assert_eq!(opened.fingerprint(), Embedder::nano(&device).unwrap().fingerprint());
        let again = Trainable::open(dir.path(), &device).unwrap();
        let same = again.embedder(&again.parameters, &device).unwrap();
        assert_eq!(same.fingerprint(), opened.fingerprint());
    }
}
