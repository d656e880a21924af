use candle_core::{DType, Tensor};

use super::{Judged, Watched, cosine, no_blocks};
use crate::model::layers::Inside;
use crate::model::{Clip, ModelError};
use crate::tensor::backward;

/// Grad-CAM at the output of the last block's first norm: the last place where every patch still counts. Channels are
/// weighted by their gradient's mean over the patches; the class token is no place in the image and left out.
pub(super) fn judge(clip: &Clip, pixels: &Tensor, target: &Tensor) -> Result<Judged, ModelError> {
    let last = clip.config().vision.num_hidden_layers.saturating_sub(1);
    let mut watched = None;
    let features = clip.image_features_through(pixels, &mut |block, inside, value| {
        if (block, inside) != (last, Inside::Norm) {
            return Ok(value);
        }
        let (seen, sum) = Watched::new(&value)?;
        watched = Some(seen);
        Ok(sum)
    })?;
    let watched = watched.ok_or_else(no_blocks)?;
    let similarity = cosine(&features, target)?;
    let gradient = watched.gradient(&backward(&similarity)?)?;
    let patches = |of: &Tensor| of.get(0)?.narrow(0, 1, of.dim(1)? - 1);
    let channels = patches(&gradient)?.mean_keepdim(0)?;
    let weighted = patches(&watched.value)?.broadcast_mul(&channels)?.sum(1)?;
    Ok((similarity.detach(), weighted.relu()?.to_dtype(DType::F32)?))
}
