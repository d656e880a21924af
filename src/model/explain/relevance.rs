use candle_core::{DType, Tensor};

use super::{Judged, Watched, class_row, cosine};
use crate::model::layers::Inside;
use crate::model::{Clip, ModelError};
use crate::tensor::backward;

/// Chefer et al.'s rule for self-attention: `R += mean of heads of (gradient * attention)+ R`, from the first block to the
/// last, R being the identity before it.
pub(super) fn judge(clip: &Clip, pixels: &Tensor, target: &Tensor) -> Result<Judged, ModelError> {
    let mut attentions = Vec::new();
    let features = clip.image_features_through(pixels, &mut |_, inside, value| {
        if inside != Inside::Attention {
            return Ok(value);
        }
        let (watched, sum) = Watched::new(&value)?;
        attentions.push(watched);
        Ok(sum)
    })?;
    let similarity = cosine(&features, target)?;
    let grads = backward(&similarity)?;
    let mut positive = Vec::with_capacity(attentions.len());
    for watched in &attentions {
        let product = (watched.gradient(&grads)? * &watched.value)?.relu()?;
        positive.push(product.get(0)?.mean(0)?.to_dtype(DType::F32)?);
    }
    let relevance = class_row(&positive, |row, positive| row + row.matmul(positive)?)?;
    Ok((similarity.detach(), relevance))
}
