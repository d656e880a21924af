use candle_core::{DType, Tensor};

use super::layers::{Lens, Source};
use super::stages::Stages;
use super::text::TextTower;
use super::vision::VisionTower;
use super::{Adapters, ClipConfig, ModelError, Parameters};
use crate::tensor::lean::Rounded;

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
        Self::learning(config, parameters, &|_| true, None, DType::F32)
    }

    /// A model of which only the parameters that `learns` names follow their variables and get gradients; the
    /// others must not change. With `adapters`, those are added to its weights and get gradients as well.
    ///
    /// The towers compute in `dtype`; parameters, their gradients and the features are in f32. In bfloat16 a CPU rounds only what is
    /// multiplied by a weight, and what gradients are products of, and only where that is faster ([`Rounded`]).
    ///
    /// # Errors
    /// As [`Clip::new`].
    pub fn learning(
        config: &ClipConfig,
        parameters: &Parameters,
        learns: &dyn Fn(&str) -> bool,
        adapters: Option<&Adapters>,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let on_cpu = parameters.require("logit_scale")?.device().is_cpu();
        let rounds = on_cpu && dtype == DType::BF16;
        let rounded = if rounds { Rounded::detect() } else { None };
        let dtype = if rounds { DType::F32 } else { dtype };
        let source = Source { parameters, tracks: learns, adapters, rounded };
        Ok(Self {
            vision: VisionTower::load(source, &config.vision)?,
            text: TextTower::load(source, &config.text)?,
            logit_scale: source.tensor("logit_scale")?,
            config: config.clone(),
            dtype,
        })
    }

    /// A model for inference: no gradients, and it may not follow later changes of the parameters.
    ///
    /// # Errors
    /// As [`Clip::new`].
    pub fn frozen(config: &ClipConfig, parameters: &Parameters) -> Result<Self, ModelError> {
        Self::learning(config, parameters, &|_| false, None, DType::F32)
    }

    /// Raw image features, `[batch, dim]`, of normalised pixels `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// [`ModelError::PixelCount`] for images of another size than the model's.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        self.image_stages(pixels.clone())?.forward()
    }

    /// The way from pixels to image features, stage by stage.
    ///
    /// # Errors
    /// As [`Clip::image_features`].
    pub fn image_stages(&self, pixels: Tensor) -> Result<Stages<'_>, ModelError> {
        Ok(self.vision.stages(pixels, self.dtype)?.ending_in(DType::F32))
    }

    /// As [`Clip::image_features`], with the blocks' inside shown to `lens`.
    pub(super) fn image_features_through(
        &self,
        pixels: &Tensor,
        lens: &mut Lens<'_>,
    ) -> Result<Tensor, ModelError> {
        Ok(self.vision.forward_through(pixels, self.dtype, lens)?.to_dtype(DType::F32)?)
    }

    /// Raw text features, `[batch, dim]`, of token ids `[batch, tokens]` (u32), each sequence
    /// padded with anything after its end token.
    ///
    /// # Errors
    /// [`ModelError::Tokens`] for a sequence without end token, too long, or with an unknown id.
    pub fn text_features(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        self.text_stages(ids)?.forward()
    }

    /// The way from token ids to text features, stage by stage.
    ///
    /// # Errors
    /// As [`Clip::text_features`].
    pub fn text_stages(&self, ids: &Tensor) -> Result<Stages<'_>, ModelError> {
        Ok(self.text.stages(ids, self.dtype)?.ending_in(DType::F32))
    }

    /// Embeddings of token ids `[batch, tokens]` as the text tower reads them, `[batch, used, dim]`, and the place
    /// of each sequence's end token.
    ///
    /// # Errors
    /// As [`Clip::text_features`].
    pub fn token_embeddings(&self, ids: &Tensor) -> Result<(Tensor, Vec<usize>), ModelError> {
        let (ids, ends) = self.text.used(ids)?;
        Ok((self.text.look_up(&ids)?, ends))
    }

    /// Raw text features of token embeddings, `[batch, tokens, dim]`, taken where each sequence ends.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn text_features_of_embeddings(
        &self,
        embeddings: Tensor,
        ends: &[usize],
    ) -> Result<Tensor, ModelError> {
        self.text
            .stages_of_embeddings(embeddings, ends, self.dtype)?
            .ending_in(DType::F32)
            .forward()
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
