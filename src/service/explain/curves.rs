use crate::domain::Embedding;
use crate::evaluation::perturbation_curve;
use crate::image::{Picture, gaussian_blur};
use crate::model::{Embedder, PatchMap};

use super::super::error::ServiceError;
use super::super::views::CurvesView;

/// Most steps of a curve; each is an image to embed.
const STEPS: usize = 36;
/// Images composed at a time.
const CHUNK: usize = 12;
/// Deviation of the blur that an insertion begins with, as a share of the frame's side: fingers are gone, a hand's
/// place is not.
const BLUR: f32 = 0.08;

/// Deletion (patches go to the mean colour, which is zero once normalised) and insertion (patches come back into a
/// blurred picture), by falling importance, scored by the similarity to `target`.
///
/// # Errors
/// [`ServiceError`] when the model cannot compute.
pub fn deletion_and_insertion(
    embedder: &Embedder,
    picture: &Picture,
    target: &Embedding,
    map: &PatchMap,
) -> Result<CurvesView, ServiceError> {
    let preprocessing = embedder.preprocessing();
    let (height, width) = preprocessing.size();
    let framed = Picture::from_rgb(width, height, preprocessing.pixels(picture))?;
    let whole = preprocessing.normalise(framed.rgb());
    let blurred = preprocessing.normalise(gaussian_blur(&framed, BLUR * width as f32).rgb());
    let nothing = vec![0.0; whole.len()];
    let grid = Grid { rows: map.rows, cols: map.cols, patch: width as usize / map.cols.max(1) };
    let scores = |from: &[f32], to: &[f32], changed: &[Vec<bool>]| {
        let mut scores = Vec::with_capacity(changed.len());
        for masks in changed.chunks(CHUNK) {
            let images: Vec<Vec<f32>> =
                masks.iter().map(|mask| grid.compose(from, to, mask)).collect();
            for embedding in embedder.embed_pixels(&images)? {
                let similarity = embedding?.similarity(target);
                scores.push(similarity.map_or(-1.0, |similarity| f64::from(similarity.get())));
            }
        }
        Ok::<_, ServiceError>(scores)
    };
    let curve =
        |from, to| perturbation_curve(&map.values, STEPS, |changed| scores(from, to, changed));
    let (deletion, insertion) = (curve(&whole, &nothing)?, curve(&blurred, &whole)?);
    Ok(CurvesView {
        deletion_auc: deletion.auc,
        insertion_auc: insertion.auc,
        shares: deletion.shares,
        deletion: deletion.scores,
        insertion: insertion.scores,
    })
}

/// Patches of a frame.
struct Grid {
    rows: usize,
    cols: usize,
    /// Side of a patch, in pixels.
    patch: usize,
}

impl Grid {
    /// `from` with the patches of a mask, `[rows, cols]`, taken from `to`; both `[3, height, width]`.
    fn compose(&self, from: &[f32], to: &[f32], mask: &[bool]) -> Vec<f32> {
        let (patch, width) = (self.patch, self.patch * self.cols);
        let mut out = from.to_vec();
        let lines = out.chunks_exact_mut(width).zip(to.chunks_exact(width));
        for (y, (out, to)) in lines.enumerate() {
            let row = y / patch % self.rows;
            let cells = out.chunks_exact_mut(patch).zip(to.chunks_exact(patch));
            for ((out, to), changed) in cells.zip(&mask[row * self.cols..]) {
                if *changed {
                    out.copy_from_slice(to);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_patches_change_in_every_channel_and_no_others() {
        let grid = Grid { rows: 2, cols: 3, patch: 2 };
        let (from, to) = (vec![0.0; 3 * 4 * 6], vec![1.0; 3 * 4 * 6]);
        let out = grid.compose(&from, &to, &[false, true, false, false, false, true]);
        let channel = [
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
            [0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
        ]
        .concat();
        assert_eq!(out, channel.repeat(3));
    }
}
