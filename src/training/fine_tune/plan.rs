//! From the words of a recipe to the settings of a run.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::training::augment::{Augment, Flip};
use crate::training::error::TrainingError;
use crate::training::optimizer::{OptimizerConfig, Rule};
use crate::training::sampler::{BatchShape, PkSampler};
use crate::training::schedule::{Decay, Schedule};

use super::recipe::{
    AugmentRecipe, Freeze, OptimizerRecipe, Recipe, RuleRecipe, ScheduleRecipe, block_of,
};
use super::types::TrainPicture;

/// Pictures that no batch of this recipe holds, as places in `pictures`: nothing is learnt from what they show
/// but, with `[prompt_learning]`, words.
///
/// # Errors
/// [`TrainingError`] where the pictures fill no batch.
pub fn never_drawn(
    pictures: &[TrainPicture],
    recipe: &Recipe,
) -> Result<Vec<usize>, TrainingError> {
    Ok(sampler(pictures, recipe)?.left_out())
}

pub(super) fn sampler(
    pictures: &[TrainPicture],
    recipe: &Recipe,
) -> Result<PkSampler, TrainingError> {
    let batch = &recipe.batch;
    let shape = BatchShape { hands: batch.hands, images: batch.images, kinds: batch.kinds };
    let labels: Vec<(u32, usize)> =
        pictures.iter().map(|picture| (picture.hand, picture.kind)).collect();
    PkSampler::new(&labels, shape, recipe.seed)
}

pub(super) fn augment(recipe: &AugmentRecipe, size: usize) -> Augment {
    Augment {
        rotation: recipe.rotation.to_radians(),
        scale: recipe.scale,
        shift: recipe.shift,
        light: recipe.light,
        color: recipe.color,
        erase: recipe.erase,
        crop: recipe.crop,
        saturation: recipe.saturation,
        blur: recipe.blur,
        jpeg: recipe.jpeg,
        ..Augment::none(size)
    }
}

/// All pictures of a hand in a batch are flipped alike: a mirrored hand has no unmirrored mates.
pub(super) fn draw_flip(recipe: &AugmentRecipe, seed: u64, hand: u32) -> Flip {
    if recipe.horizontal_flip == 0.0 && recipe.vertical_flip == 0.0 {
        return Flip::default();
    }
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ u64::from(hand).wrapping_mul(0x9e37_79b9));
    Flip {
        horizontal: rng.random_bool(recipe.horizontal_flip),
        vertical: rng.random_bool(recipe.vertical_flip),
    }
}

pub(super) fn optimizer_config(recipe: &OptimizerRecipe) -> OptimizerConfig {
    OptimizerConfig {
        rule: match recipe.rule {
            RuleRecipe::AdamW => Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
            RuleRecipe::Sgd => Rule::Sgd { momentum: 0.9 },
        },
        weight_decay: recipe.weight_decay,
        clip_norm: recipe.clip_norm,
        heads: recipe.heads,
        muon: None,
    }
}

pub(super) fn schedule(recipe: &OptimizerRecipe, an_epoch: usize, steps: usize) -> Schedule {
    Schedule {
        peak: recipe.learning_rate,
        warmup: (recipe.warmup_epochs * an_epoch as f64) as usize,
        steps,
        decay: match recipe.schedule {
            ScheduleRecipe::Cosine => Decay::Cosine,
            ScheduleRecipe::Step { epochs, factor } => {
                Decay::Step { every: epochs * an_epoch, factor }
            }
            ScheduleRecipe::Plateau { factor, .. } => Decay::Cuts { factor },
            ScheduleRecipe::Constant => Decay::Constant,
        },
    }
}

/// Whether a parameter is handed to the optimiser: not frozen, and reached by a loss.
pub(super) fn moves(name: &str, freeze: &Freeze, with_text: bool) -> bool {
    let of_text = name.starts_with("text_") || name == "logit_scale";
    !freeze.holds(name) && (with_text || !of_text)
}

/// How far from the image tower's end a parameter lies, in blocks; 0 for what is not in a block.
pub(super) fn depth(name: &str, blocks: usize) -> i32 {
    let depth = match block_of(name) {
        Some(block) => blocks - block,
        None if name.starts_with("vision_model.embeddings.")
            || name.starts_with("vision_model.pre_layrnorm.") =>
        {
            blocks + 1
        }
        None => 0,
    };
    i32::try_from(depth).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_near_the_start_are_the_deepest() {
        assert_eq!(depth("vision_model.embeddings.class_embedding", 12), 13);
        assert_eq!(depth("vision_model.encoder.layers.0.mlp.fc1.weight", 12), 12);
        assert_eq!(depth("vision_model.encoder.layers.11.mlp.fc1.weight", 12), 1);
        assert_eq!(depth("visual_projection.weight", 12), 0);
        assert_eq!(depth("heads.classifier", 12), 0);
    }

    #[test]
    fn what_no_loss_reaches_is_left_alone() {
        let none = Freeze::default();
        assert!(!moves("text_projection.weight", &none, false));
        assert!(!moves("logit_scale", &none, false));
        assert!(moves("logit_scale", &none, true));
        assert!(moves("visual_projection.weight", &none, false));
        assert!(!moves("text_projection.weight", &Freeze { text: true, ..none }, true));
    }
}
