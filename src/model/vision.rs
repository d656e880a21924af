use candle_core::{DType, Tensor};

use super::layers::{BlockShape, Encoder, Lens, Linear, Norm, Source};
use super::stages::Stages;
use super::{ModelError, VisionConfig};

/// The image tower with its projection.
pub(super) struct VisionTower {
    class: Tensor,
    patch: Linear,
    position: Tensor,
    pre_norm: Norm,
    encoder: Encoder,
    post_norm: Norm,
    projection: Linear,
    config: VisionConfig,
}

impl VisionTower {
    pub(super) fn load(source: Source<'_>, config: &VisionConfig) -> Result<Self, ModelError> {
        let at = "vision_model.embeddings";
        let eps = config.layer_norm_eps;
        let shape = BlockShape {
            heads: config.num_attention_heads,
            causal: false,
            activation: config.hidden_act,
            eps,
        };
        Ok(Self {
            class: source.tensor(&format!("{at}.class_embedding"))?,
            patch: Linear::load_projection(source, &format!("{at}.patch_embedding"))?,
            position: source.tensor(&format!("{at}.position_embedding.weight"))?,
            pre_norm: Norm::load(source, "vision_model.pre_layrnorm", eps)?,
            encoder: Encoder::load(source, "vision_model", config.num_hidden_layers, shape)?,
            post_norm: Norm::load(source, "vision_model.post_layernorm", eps)?,
            projection: Linear::load_projection(source, "visual_projection")?,
            config: config.clone(),
        })
    }

    /// From `pixels`, `[batch, 3, side, side]`, normalised, to `[batch, projection]` in `dtype`.
    pub(super) fn stages(&self, pixels: Tensor, dtype: DType) -> Result<Stages<'_>, ModelError> {
        let rows = self.class_rows(&pixels)?;
        let mut steps = self.encoder.stages(rows);
        steps.insert(0, Box::new(move |pixels: &Tensor| self.embed(pixels, dtype)));
        steps.push(Box::new(|pooled: &Tensor| {
            Ok(self.projection.forward(&self.post_norm.forward(pooled)?)?)
        }));
        Ok(Stages::new(pixels, steps))
    }

    /// As [`VisionTower::stages`], with the blocks' inside shown to `lens`.
    pub(super) fn forward_through(
        &self,
        pixels: &Tensor,
        dtype: DType,
        lens: &mut Lens<'_>,
    ) -> Result<Tensor, ModelError> {
        let rows = self.class_rows(pixels)?;
        let pooled = self.encoder.forward_through(self.embed(pixels, dtype)?, &rows, lens)?;
        Ok(self.projection.forward(&self.post_norm.forward(&pooled)?)?)
    }

    /// Indices of the class tokens in `[batch * tokens]`. Refuses pixels of another size than the model's.
    fn class_rows(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        let (side, size) = (self.config.image_size, self.config.patch_size);
        let (batch, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (3, side, side) {
            let got = channels * height * width;
            return Err(ModelError::PixelCount { got, expected: 3 * side * side });
        }
        let patches = (side / size).pow(2);
        let count = u32::try_from(patches + 1).map_err(candle_core::Error::wrap)?;
        let rows: Vec<u32> = (0..).step_by(count as usize).take(batch).collect();
        Ok(Tensor::from_vec(rows, batch, pixels.device())?)
    }

    /// `[batch, tokens, dim]` of the class token and the patches.
    fn embed(&self, pixels: &Tensor, dtype: DType) -> Result<Tensor, ModelError> {
        let size = self.config.patch_size;
        let grid = self.config.image_size / size;
        let batch = pixels.dim(0)?;
        // A convolution whose stride is its kernel is a product over the patches; candle's
        // convolution also computes a gradient of the pixels that nobody asks for.
        let patches = pixels
            .to_dtype(dtype)?
            .reshape(&[batch, 3, grid, size, grid, size][..])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((batch, grid * grid, 3 * size * size))?;
        let patches = self.patch.forward(&patches)?;
        let class = self.class.to_dtype(dtype)?.broadcast_left((batch, 1))?;
        let tokens = Tensor::cat(&[class, patches], 1)?;
        let tokens = tokens.broadcast_add(&self.position.to_dtype(dtype)?)?;
        Ok(self.pre_norm.forward(&tokens)?)
    }
}
