use serde::{Deserialize, Serialize};

use crate::training::error::TrainingError;

use super::{UNIT, is_positive, is_share, must};

/// P hands with K pictures each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchRecipe {
    /// Different hands (P).
    pub hands: usize,
    /// Pictures of each (K); a hand with fewer, but two, gives some more than once.
    pub images: usize,
    /// Kinds of hand (aspect and side) that a batch mixes.
    pub kinds: usize,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Pictures that a tower computes at a time; 0 computes the whole batch at once. The losses still see the
    /// whole batch (gradient caching, Gao et al., 2021): less memory for one more forward pass.
    pub micro: usize,
}

impl Default for BatchRecipe {
    fn default() -> Self {
        Self { hands: 16, images: 4, kinds: 1, accumulate: 1, micro: 0 }
    }
}

/// How towers are computed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeRecipe {
    /// Type of the towers' arithmetic. Weights, their gradients, features and losses are f32 in any case.
    pub precision: Precision,
    /// Whether the backward pass computes each block once more instead of keeping what happened inside it
    /// (activation checkpointing).
    pub recompute: bool,
}

/// Type of the towers' arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32: for CUDA, and for products on a CPU that multiplies them faster (Intel's with AMX, since Sapphire
    /// Rapids, and AMD's since Zen 4; others compute as in f32).
    Bf16,
}

/// Steps and their rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// How a step follows from a gradient.
    pub rule: RuleRecipe,
    /// Peak rate of the towers.
    pub learning_rate: f64,
    /// What the rate of heads, which start at random, is multiplied by.
    pub heads: f64,
    /// What the rate is multiplied by from block to block, the last block first; 1 treats all alike.
    pub layer_decay: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Not applied to biases, norms and embeddings; decoupled in AdamW, added to the gradient in SGD.
    pub weight_decay: f64,
    /// Largest global norm of the gradients, more than 0; one that none reaches, as 1e9, clips nothing.
    pub clip_norm: f64,
    /// Decay a step of the moving average of the weights that is validated and kept; 0 keeps the weights
    /// themselves.
    pub average: f64,
    /// What becomes of the rate after the warm-up.
    pub schedule: ScheduleRecipe,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            rule: RuleRecipe::AdamW,
            learning_rate: 1e-5,
            heads: 10.0,
            layer_decay: 1.0,
            warmup_epochs: 10.0,
            weight_decay: 1e-4,
            clip_norm: 5.0,
            average: 0.0,
            schedule: ScheduleRecipe::Cosine,
        }
    }
}

impl OptimizerRecipe {
    pub(super) fn check(&self) -> Result<(), TrainingError> {
        let Self { learning_rate, heads, warmup_epochs, weight_decay, clip_norm, .. } = *self;
        must("learning_rate", "more than 0", is_positive(learning_rate), learning_rate)?;
        let rule = "more than 0: what starts at random has to learn";
        must("optimizer.heads", rule, is_positive(heads), heads)?;
        let decay = self.layer_decay;
        must("layer_decay", "in (0, 1]", decay > 0.0 && decay <= 1.0, decay)?;
        for (name, value) in [("warmup_epochs", warmup_epochs), ("weight_decay", weight_decay)] {
            must(name, "0 or more", value >= 0.0 && value.is_finite(), value)?;
        }
        // 0 means "off" elsewhere; here nothing would be left of any step.
        let rule = "more than 0; to clip nothing, say 1e9";
        must("clip_norm", rule, is_positive(clip_norm), clip_norm)?;
        must("average", UNIT, is_share(self.average), self.average)?;
        if let ScheduleRecipe::Step { epochs, factor }
        | ScheduleRecipe::Plateau { epochs, factor } = self.schedule
        {
            must("schedule.epochs", "more than 0", epochs > 0, epochs)?;
            must("schedule.factor", "in (0, 1)", factor > 0.0 && factor < 1.0, factor)?;
        }
        Ok(())
    }
}

/// How a step follows from a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleRecipe {
    /// AdamW with decays 0.9 and 0.999.
    #[serde(rename = "adamw")]
    AdamW,
    /// Gradient descent with momentum 0.9.
    Sgd,
}

/// What becomes of the rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleRecipe {
    /// Half a cosine down to a hundredth of the peak at the end.
    Cosine,
    /// Multiplied by `factor` every `epochs` epochs.
    Step {
        /// Epochs between two cuts.
        epochs: usize,
        /// In (0, 1).
        factor: f64,
    },
    /// Multiplied by `factor` whenever validation got no better for `epochs` epochs.
    Plateau {
        /// Epochs without a better validation.
        epochs: usize,
        /// In (0, 1).
        factor: f64,
    },
    /// Stays at the peak.
    Constant,
}

/// What stays as it was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Freeze {
    /// The text tower and its projection.
    pub text: bool,
    /// The image tower and its projection.
    pub image: bool,
    /// Patch, class and position embeddings of the image tower.
    pub embeddings: bool,
    /// The first so many blocks of the image tower.
    pub blocks: usize,
    /// Everything but the two projections.
    pub all_but_projections: bool,
}

impl Freeze {
    /// Whether the parameter of this name stays as it was.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        let of_text = name.starts_with("text_model.") || name == "text_projection.weight";
        let of_image = name.starts_with("vision_model.") || name == "visual_projection.weight";
        let projection = matches!(name, "text_projection.weight" | "visual_projection.weight");
        let block = block_of(name);
        self.text && of_text
            || self.image && of_image
            || self.all_but_projections && !projection
            || self.embeddings && name.starts_with("vision_model.embeddings.")
            || block.is_some_and(|block| block < self.blocks)
    }
}

/// The number of the image tower's block that a parameter is of.
pub(in crate::training::fine_tune) fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("vision_model.encoder.layers.")?.split('.').next()?.parse().ok()
}

/// Low-rank changes of the attention matrices instead of the towers' own weights (LoRA). What `[freeze]` holds
/// gets none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraRecipe {
    /// Rank of the change.
    pub rank: usize,
    /// The change is multiplied by `alpha / rank`.
    pub alpha: f64,
}

impl Default for LoraRecipe {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0 }
    }
}

/// What is said of an image in `info_nce`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptRecipe {
    /// Templates to draw from: `{aspect}`, `{side}`, `{hand}` for both, `{accessories}` for "with accessories" or
    /// "without accessories", `{with|without}`, and the name of any other column of the label file (`{gender}`,
    /// `{skin_color}`); what is not known of an image is left out. None: a built-in set. An image whose label
    /// file has a column `prompt` is described by that instead.
    pub templates: Vec<String>,
}

/// A first stage that learns words for every hand, with both towers frozen (CLIP-ReID, Li et al., 2023).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptLearning {
    /// Learned words of each hand.
    pub tokens: usize,
    /// Passes over the images.
    pub epochs: usize,
    /// Images in a batch.
    pub batch: usize,
    /// Peak rate.
    pub learning_rate: f64,
}

impl Default for PromptLearning {
    fn default() -> Self {
        Self { tokens: 4, epochs: 60, batch: 64, learning_rate: 3.5e-4 }
    }
}

/// How training pictures vary. Mirroring is off: it turns a left hand into a right one. Where it is on, a
/// mirrored hand is a hand of its own, of the other side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentRecipe {
    /// Smallest share of the picture that a random resized crop keeps; 1 does not crop.
    pub crop: f32,
    /// Largest rotation, degrees.
    pub rotation: f32,
    /// Largest change of scale, as a share.
    pub scale: f32,
    /// Largest shift, as a share of the side.
    pub shift: f32,
    /// Largest change of brightness and contrast, as a share.
    pub light: f32,
    /// Largest change of one colour channel, as a share.
    pub color: f32,
    /// Largest change of saturation, as a share.
    pub saturation: f32,
    /// Largest standard deviation of a Gaussian blur, pixels.
    pub blur: f32,
    /// Lowest JPEG quality that a picture is sent through; 100 leaves it out.
    pub jpeg: u8,
    /// Probability that a patch is erased.
    pub erase: f64,
    /// Probability that all pictures of a hand in a batch are mirrored from left to right.
    pub horizontal_flip: f64,
    /// Probability that they are mirrored from top to bottom.
    pub vertical_flip: f64,
}

impl Default for AugmentRecipe {
    fn default() -> Self {
        Self {
            crop: 1.0,
            rotation: 10.0,
            scale: 0.1,
            shift: 0.05,
            light: 0.15,
            color: 0.05,
            saturation: 0.0,
            blur: 0.0,
            jpeg: 100,
            erase: 0.3,
            horizontal_flip: 0.0,
            vertical_flip: 0.0,
        }
    }
}
