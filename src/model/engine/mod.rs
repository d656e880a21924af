//! The other execution of a CLIP model: for inference on a CPU. The same weights and the same figures as
//! [`Clip`](super::Clip), which has gradients and other devices; here nothing is allocated for a picture that has the size of one
//! before it, weights lie as they are used, and texts of several lengths share a batch without filling.

mod awake;
mod source;
mod text;
mod tower;
mod vision;

use candle_core::{Device, Tensor};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::{ClipConfig, ModelError, Parameters, Precision};
use awake::awake;
pub(super) use source::{Source, Taken};
use text::LeanText;
use tower::Workspace;
use vision::LeanVision;

/// Inputs that a thread takes at a time, if there are so many for each.
const FEWEST: usize = 4;

/// Both towers, packed.
pub(super) struct Engine {
    vision: LeanVision,
    text: LeanText,
    logit_scale: f32,
    precision: Precision,
    /// Those that nobody works in; as many as have worked at a time.
    workspaces: Mutex<Vec<Workspace>>,
}

impl Engine {
    /// Packs the parameters of a configuration.
    ///
    /// # Errors
    /// What `source` says.
    pub(super) fn new(
        config: &ClipConfig,
        source: &dyn Source,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let (vision, text) = rayon::join(
            || LeanVision::load(config, source, precision),
            || LeanText::load(config, source, precision),
        );
        Ok(Self {
            vision: vision?,
            text: text?,
            logit_scale: source.values("logit_scale")?.first().copied().unwrap_or_default(),
            precision,
            workspaces: Mutex::default(),
        })
    }

    /// How the weights are kept.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// The parameters as they are used.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn parameters(&self, config: &ClipConfig) -> Result<Parameters, ModelError> {
        let mut tensors = Vec::new();
        let mut keep = |name: String, values: Vec<f32>| tensors.push((name, values));
        self.vision.unload(&mut keep);
        self.text.unload(&mut keep)?;
        keep("logit_scale".to_owned(), vec![self.logit_scale]);
        let spec = super::parameters::ParameterSpec::of(config);
        let shaped = tensors.into_iter().map(|(name, values)| {
            let shape = spec.shape(&name).unwrap_or(&[]).to_vec();
            Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
        });
        Parameters::from_tensors(shaped.collect::<Result<Vec<_>, ModelError>>()?)
    }

    /// Raw features of normalised pixels, each `[3, side, side]` and of the right size.
    pub(super) fn image_features(&self, pixels: &[&[f32]]) -> Vec<Vec<f32>> {
        self.shared_out(pixels, |workspace, pixels, threads| {
            self.vision.features(workspace, pixels, threads)
        })
    }

    /// Raw features of token ids.
    ///
    /// # Errors
    /// [`ModelError::Tokens`] for a sequence without end token, too long, or with an unknown id; what reading tokens' embeddings says.
    pub(super) fn text_features(&self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let sequences = self.text.sequences(ids)?;
        Ok(self.shared_out(&sequences, |workspace, sequences, threads| {
            self.text.features(workspace, sequences, threads)
        }))
    }

    /// Where there are as many inputs as threads, each thread takes its share through the whole tower: nobody waits for
    /// anybody in between. Otherwise all of them work on each product.
    fn shared_out<T: Sync>(
        &self,
        inputs: &[T],
        features: impl Fn(&mut Workspace, &[T], usize) -> Vec<Vec<f32>> + Sync,
    ) -> Vec<Vec<f32>> {
        let threads = rayon::current_num_threads();
        let run = |inputs: &[T], threads: usize| {
            let mut workspace = self.workspaces.lock().pop().unwrap_or_default();
            let found = features(&mut workspace, inputs, threads);
            self.workspaces.lock().push(workspace);
            found
        };
        if inputs.len() < threads || threads == 1 {
            // Inside the pool once, instead of once for every product.
            return awake(threads, || run(inputs, threads));
        }
        // Two parts a thread, so that a slow thread leaves some to the others, but not so small that the weights pass by for
        // too few rows.
        let each =
            inputs.len().div_ceil(2 * threads).max(inputs.len().div_ceil(threads).min(FEWEST));
        let parts = inputs.par_chunks(each);
        parts.map(|inputs| run(inputs, 1)).collect::<Vec<_>>().concat()
    }
}

#[cfg(test)]
mod tests;
