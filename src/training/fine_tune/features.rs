//! Features of a tower, with the whole graph behind them or with what it takes to compute it again.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::model::{Kept, ModelError, Stages};
use crate::training::error::TrainingError;

/// What may be kept between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Inputs computed at a time; 0 for all.
    pub(super) micro: usize,
    /// Whether only what passes between blocks is kept.
    pub(super) recompute: bool,
}

/// Features that a loss can be computed on, and the way back from their gradient to the tower's.
pub(super) enum Features<'a> {
    /// With the whole graph: the loss's backward pass reaches the tower by itself.
    Whole(Tensor),
    /// A leaf of the loss's graph (gradient caching, Gao et al., 2021).
    Cached { leaf: Var, pieces: Vec<Piece<'a>> },
}

/// Some of the inputs.
pub(super) struct Piece<'a> {
    stages: Stages<'a>,
    rows: usize,
    /// Left out where it would be more than one piece's worth.
    kept: Option<Kept>,
}

impl<'a> Features<'a> {
    /// `input`: one row an item; `stages` says how a tower computes some of them.
    pub(super) fn compute(
        memory: Memory,
        input: &Tensor,
        stages: impl Fn(&Tensor) -> Result<Stages<'a>, ModelError>,
    ) -> Result<Self, TrainingError> {
        let rows = input.dim(0)?;
        let micro = if memory.micro == 0 { rows } else { memory.micro.min(rows) };
        if micro == rows && !memory.recompute {
            return Ok(Self::Whole(stages(input)?.forward()?));
        }
        let (mut features, mut pieces) = (Vec::new(), Vec::new());
        for start in (0..rows).step_by(micro) {
            let rows_here = micro.min(rows - start);
            let stages = stages(&input.narrow(0, start, rows_here)?.contiguous()?)?;
            let stages = if memory.recompute { stages } else { stages.as_one() };
            let kept = stages.forward_keeping()?;
            features.push(kept.features.clone());
            // Without recomputation all that is kept is the input.
            let kept = (micro == rows || !memory.recompute).then_some(kept);
            pieces.push(Piece { stages, rows: rows_here, kept });
        }
        Ok(Self::Cached { leaf: Var::from_tensor(&Tensor::cat(&features, 0)?)?, pieces })
    }

    /// `[rows, dim]`.
    pub(super) fn tensor(&self) -> &Tensor {
        match self {
            Self::Whole(features) => features,
            Self::Cached { leaf, .. } => leaf.as_tensor(),
        }
    }

    /// Adds the tower's gradients to those of the loss.
    pub(super) fn backward<'v>(
        self,
        grads: &mut GradStore,
        vars: impl Iterator<Item = &'v Var> + Clone,
    ) -> Result<(), TrainingError> {
        let Self::Cached { leaf, pieces } = self else { return Ok(()) };
        // A loss that does not use the features has no gradient of them.
        let Some(of_features) = grads.remove(&leaf) else { return Ok(()) };
        let mut start = 0;
        for Piece { stages, rows, kept } in pieces {
            let kept = match kept {
                Some(kept) => kept,
                None => stages.forward_keeping()?,
            };
            let part = of_features.narrow(0, start, rows)?.contiguous()?.detach();
            start += rows;
            stages.backward(kept, &part, |found| {
                Ok::<_, TrainingError>(absorb(grads, found, vars.clone())?)
            })?;
        }
        Ok(())
    }
}

/// Adds the gradients of `vars` in `from` to those in `into`.
pub(super) fn absorb<'v>(
    into: &mut GradStore,
    mut from: GradStore,
    vars: impl Iterator<Item = &'v Var>,
) -> candle_core::Result<()> {
    for var in vars {
        let Some(more) = from.remove(var) else { continue };
        let sum = match into.remove(var) {
            Some(so_far) => (so_far + more)?.detach(),
            None => more,
        };
        into.insert(var, sum);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{Clip, Parameters, normalise};
    use crate::training::loss::sup_con;
    use crate::training::tests::model;

    fn gradients(memory: Memory) -> Vec<Vec<f32>> {
        let config = model();
        let parameters = Parameters::init(&config, 2, &Device::Cpu).unwrap();
        let vars: Vec<Var> = parameters.vars().into_iter().map(|(_, var)| var).collect();
        let clip = Clip::new(&config, &parameters).unwrap();
        let side = config.vision.image_size;
        let pixels: Vec<f32> = (0..7 * 3 * side * side).map(|i| (i as f32 * 0.3).sin()).collect();
        let pixels = Tensor::from_vec(pixels, (7, 3, side, side), &Device::Cpu).unwrap();
        let features =
            Features::compute(memory, &pixels, |part| clip.image_stages(part.clone())).unwrap();
        let unit = normalise(features.tensor()).unwrap();
        let loss = sup_con(&unit, &[0, 0, 1, 1, 2, 2, 2], 0.5).unwrap();
        let mut grads = crate::tensor::backward(&loss).unwrap();
        features.backward(&mut grads, vars.iter()).unwrap();
        vars.iter()
            .filter_map(|var| Some(grads.get(var)?.flatten_all().unwrap().to_vec1().unwrap()))
            .collect()
    }

    /// The loss compares all with all: pieces that saw only themselves would give another gradient.
    #[test]
    fn pieces_and_recomputation_give_the_gradients_of_the_whole_batch() {
        let whole = gradients(Memory { micro: 0, recompute: false });
        assert!(whole.len() > 30);
        for (micro, recompute) in [(0, true), (2, false), (3, true), (100, false)] {
            let parts = gradients(Memory { micro, recompute });
            assert_eq!(parts.len(), whole.len(), "{micro} {recompute}");
            for (a, b) in whole.iter().flatten().zip(parts.iter().flatten()) {
                assert!((a - b).abs() < 1e-5 + 1e-4 * a.abs(), "{micro} {recompute}: {a} and {b}");
            }
        }
    }
}
