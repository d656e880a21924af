use candle_core::{DType, Tensor};

use super::{Judged, class_row, cosine};
use crate::model::layers::Inside;
use crate::model::{Clip, ModelError};

/// Attention rollout: half of each block is its heads' mean attention, half what goes past it; their product.
pub(super) fn judge(clip: &Clip, pixels: &Tensor, target: &Tensor) -> Result<Judged, ModelError> {
    let mut means = Vec::new();
    let features = clip.image_features_through(pixels, &mut |_, inside, value| {
        if inside == Inside::Attention {
            means.push(value.detach().get(0)?.mean(0)?.to_dtype(DType::F32)?);
        }
        Ok(value)
    })?;
    // A row of attention sums to one already.
    let rolled = class_row(&means, |row, mean| (row + row.matmul(mean)?)? / 2.0)?;
    Ok((cosine(&features, target)?.detach(), rolled))
}
