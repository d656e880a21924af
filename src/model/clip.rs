use candle_core::{DType, Tensor};

use super::layers::Source;
use super::text::TextTower;
use super::vision::VisionTower;
use super::{ClipConfig, ModelError, Parameters};

/// Both towers of a CLIP model.
pub struct Clip {
    config: ClipConfig,
    vision: VisionTower,
    text: TextTower,
    logit_scale: Tensor,
    dtype: DType,
}

impl Clip {
    /// A model that follows its parameters and gives every one of them a gradient.
    ///
    /// # Errors
    /// [`ModelError`] when the parameters are not those of the configuration.
    pub fn new(config: &ClipConfig, parameters: &Parameters) -> Result<Self, ModelError> {
        Self::load(config, Source { parameters, tracked: true })
    }

    /// A model for inference: no gradients, and it may not follow later changes of the parameters.
    ///
    /// # Errors
    /// As [`Clip::new`].
    pub fn frozen(config: &ClipConfig, parameters: &Parameters) -> Result<Self, ModelError> {
        Self::load(config, Source { parameters, tracked: false })
    }

    fn load(config: &ClipConfig, source: Source<'_>) -> Result<Self, ModelError> {
        config.validate()?;
        Ok(Self {
            vision: VisionTower::load(source, &config.vision)?,
            text: TextTower::load(source, &config.text)?,
            logit_scale: source.tensor("logit_scale")?,
            config: config.clone(),
            dtype: DType::F32,
        })
    }

    /// Computes the towers in this type; parameters, their gradients and the features stay in f32.
    #[must_use]
    pub fn compute_in(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Raw image features, `[batch, dim]`, of normalised pixels `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// [`ModelError::PixelCount`] for images of another size than the model's.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.vision.forward(pixels, self.dtype)?.to_dtype(DType::F32)?)
    }

    /// Raw text features, `[batch, dim]`, of token ids `[batch, tokens]` (u32), each sequence
    /// padded with anything after its end token.
    ///
    /// # Errors
    /// [`ModelError::Tokens`] for a sequence without end token, too long, or with an unknown id.
    pub fn text_features(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.text.forward(ids, self.dtype)?.to_dtype(DType::F32)?)
    }

    /// The natural logarithm of the factor between cosine and logit, a scalar.
    #[must_use]
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// The configuration the towers were built from.
    #[must_use]
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }
}
