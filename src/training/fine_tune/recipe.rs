use serde::{Deserialize, Serialize};

use crate::training::error::TrainingError;

/// Above this a pre-trained tower forgets more than it learns.
const HIGH_RATE: f64 = 1e-4;

/// What is trained and how, as read from TOML. What is left out has the defaults of the field's recipe for
/// ViT; an unknown key is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Names every random choice.
    pub seed: u64,
    /// Times that every hand is seen, about.
    pub epochs: usize,
    /// Epochs without a better validation after which training stops; 0 goes on to the end.
    pub patience: usize,
    /// Share of the subjects of the training part that validation is done on.
    pub validation: f64,
    /// What a batch is made of.
    pub batch: BatchRecipe,
    /// Steps.
    pub optimizer: OptimizerRecipe,
    /// What stays as it was.
    pub freeze: Freeze,
    /// What is minimised; at least one.
    pub losses: Losses,
    /// How training pictures vary.
    pub augment: AugmentRecipe,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            epochs: 60,
            patience: 0,
            validation: 0.1,
            batch: BatchRecipe::default(),
            optimizer: OptimizerRecipe::default(),
            freeze: Freeze::default(),
            losses: Losses {
                cross_entropy: Some(CrossEntropy::default()),
                triplet: Some(Triplet::default()),
                ..Losses::default()
            },
            augment: AugmentRecipe::default(),
        }
    }
}

/// P hands with K pictures each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchRecipe {
    /// Different hands (P).
    pub hands: usize,
    /// Pictures of each (K).
    pub images: usize,
    /// Kinds of hand (aspect and side) that a batch mixes.
    pub kinds: usize,
}

impl Default for BatchRecipe {
    fn default() -> Self {
        Self { hands: 16, images: 4, kinds: 1 }
    }
}

/// AdamW with linear warm-up and a cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Peak rate of the towers.
    pub learning_rate: f64,
    /// What the rate of heads, which start at random, is multiplied by.
    pub heads: f64,
    /// What the rate is multiplied by from block to block, the last block first; 1 treats all alike.
    pub layer_decay: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Decoupled; not applied to biases, norms and embeddings.
    pub weight_decay: f64,
    /// Largest global norm of the gradients.
    pub clip_norm: f64,
    /// Decay a step of the moving average of the weights that is validated and kept; 0 keeps the weights
    /// themselves.
    pub average: f64,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            heads: 10.0,
            layer_decay: 1.0,
            warmup_epochs: 10.0,
            weight_decay: 1e-4,
            clip_norm: 5.0,
            average: 0.0,
        }
    }
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
pub(super) fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("vision_model.encoder.layers.")?.split('.').next()?.parse().ok()
}

/// What is minimised: the weighted sum of those that are there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Losses {
    /// Classification of hands behind a batch norm (BNNeck).
    pub cross_entropy: Option<CrossEntropy>,
    /// Batch-hard triplets.
    pub triplet: Option<Triplet>,
    /// Supervised contrast.
    pub sup_con: Option<SupCon>,
    /// ArcFace.
    pub arc_face: Option<MarginLoss>,
    /// CosFace.
    pub cos_face: Option<MarginLoss>,
    /// Center loss.
    pub center: Option<Weighted>,
    /// Image-text InfoNCE with prompts made of the attributes.
    pub info_nce: Option<Weighted>,
}

/// A loss with nothing but a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Its share of the sum.
    pub weight: f64,
}

/// Cross-entropy with label smoothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
    /// Its share of the sum.
    pub weight: f64,
    /// Label smoothing.
    pub smoothing: f64,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, smoothing: 0.1 }
    }
}

/// Batch-hard triplet loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triplet {
    /// Its share of the sum.
    pub weight: f64,
    /// How far a stranger must lie beyond a mate; left out, the soft margin.
    pub margin: Option<f64>,
}

impl Default for Triplet {
    fn default() -> Self {
        Self { weight: 1.0, margin: Some(0.3) }
    }
}

/// Supervised contrastive loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupCon {
    /// Its share of the sum.
    pub weight: f64,
    /// Cosines are divided by it.
    pub temperature: f64,
}

impl Default for SupCon {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.1 }
    }
}

/// A margin loss over classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarginLoss {
    /// Its share of the sum.
    pub weight: f64,
    /// Radians for ArcFace, cosine for CosFace.
    pub margin: f64,
    /// Factor on the cosines.
    pub scale: f64,
}

/// How training pictures vary. Flips are left out: they turn a left hand into a right one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentRecipe {
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
    /// Probability that a patch is erased.
    pub erase: f64,
}

impl Default for AugmentRecipe {
    fn default() -> Self {
        Self { rotation: 10.0, scale: 0.1, shift: 0.05, light: 0.15, color: 0.05, erase: 0.3 }
    }
}

impl Recipe {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`TrainingError::Recipe`] naming the key; [`TrainingError::Setting`] for a value that makes no run.
    pub fn from_toml(text: &str) -> Result<Self, TrainingError> {
        let recipe: Self =
            toml::from_str(text).map_err(|error| TrainingError::Recipe(error.to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The whole recipe, defaults written out.
    ///
    /// # Errors
    /// [`TrainingError::Recipe`].
    pub fn to_toml(&self) -> Result<String, TrainingError> {
        toml::to_string_pretty(self).map_err(|error| TrainingError::Recipe(error.to_string()))
    }

    /// What a person should be told before the run.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let rate = self.optimizer.learning_rate;
        if rate > HIGH_RATE && !self.freeze.image {
            warnings.push(format!(
                "learning_rate {rate:e} is above {HIGH_RATE:e}: a pre-trained tower may forget more than it learns"
            ));
        }
        if self.losses.info_nce.is_none() && !self.freeze.text {
            warnings.push("without info_nce nothing trains the text tower: it stays as it is, and prompts may stop matching the images".to_owned());
        }
        warnings
    }

    fn check(&self) -> Result<(), TrainingError> {
        let must = |setting: &'static str, rule: &'static str, ok: bool, got: String| {
            if ok { Ok(()) } else { Err(TrainingError::Setting { setting, rule, got }) }
        };
        let Self { epochs, batch, optimizer, losses, validation, .. } = self;
        must("epochs", "more than 0", *epochs > 0, epochs.to_string())?;
        let share = (0.0..1.0).contains(validation);
        must("validation", "0 or more and less than 1", share, validation.to_string())?;
        let rate = optimizer.learning_rate;
        must("learning_rate", "more than 0", rate > 0.0 && rate.is_finite(), rate.to_string())?;
        let decay = optimizer.layer_decay;
        must("layer_decay", "in (0, 1]", decay > 0.0 && decay <= 1.0, decay.to_string())?;
        let average = optimizer.average;
        must(
            "average",
            "0 or more and less than 1",
            (0.0..1.0).contains(&average),
            average.to_string(),
        )?;
        let weights = losses.weights();
        must("losses", "at least one of a weight above 0", !weights.is_empty(), "none".to_owned())?;
        for (name, weight) in weights {
            must(
                name,
                "weighted by more than 0",
                weight > 0.0 && weight.is_finite(),
                weight.to_string(),
            )?;
        }
        // A batch without mates or strangers has no triplet and no contrast.
        let pairs = losses.triplet.is_some() || losses.sup_con.is_some();
        let enough = !pairs || batch.images > 1 && batch.hands > 1;
        must(
            "batch.images",
            "2 or more for triplet and sup_con, and so many hands",
            enough,
            batch.images.to_string(),
        )?;
        let trains = !(self.freeze.image && self.freeze.text);
        must("freeze", "of one tower at most", trains, "text and image".to_owned())?;
        let text_only = self.freeze.image && losses.info_nce.is_none();
        must(
            "freeze.image",
            "off where no loss trains the text tower",
            !text_only,
            "true".to_owned(),
        )
    }
}

impl Losses {
    /// Name and weight of each that is there.
    #[must_use]
    pub fn weights(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("cross_entropy", self.cross_entropy.as_ref().map(|l| l.weight)),
            ("triplet", self.triplet.as_ref().map(|l| l.weight)),
            ("sup_con", self.sup_con.as_ref().map(|l| l.weight)),
            ("arc_face", self.arc_face.as_ref().map(|l| l.weight)),
            ("cos_face", self.cos_face.as_ref().map(|l| l.weight)),
            ("center", self.center.as_ref().map(|l| l.weight)),
            ("info_nce", self.info_nce.as_ref().map(|l| l.weight)),
        ];
        all.into_iter().filter_map(|(name, weight)| Some((name, weight?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_recipe_is_the_one_of_the_field() {
        let recipe = Recipe::from_toml("").unwrap();
        assert_eq!(recipe, Recipe::default());
        assert_eq!((recipe.batch.hands, recipe.batch.images, recipe.epochs), (16, 4, 60));
        assert_eq!(recipe.losses.weights(), [("cross_entropy", 1.0), ("triplet", 1.0)]);
        assert_eq!(Recipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe);
    }

    #[test]
    fn unknown_keys_and_values_that_make_no_run_are_named() {
        for (text, named) in [
            ("epoch = 3", "epoch"),
            ("[losses.triplet]\nmargins = 1.0", "margins"),
            ("epochs = 0", "epochs"),
            ("[losses]", "losses"),
            ("[losses.info_nce]\nweight = -1.0", "info_nce"),
            ("[batch]\nimages = 1", "batch.images"),
            ("[optimizer]\nlearning_rate = 0.0", "learning_rate"),
            ("[freeze]\nimage = true", "freeze.image"),
            ("[freeze]\nimage = true\ntext = true", "freeze"),
        ] {
            let message = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }

    #[test]
    fn a_high_rate_and_an_untrained_text_tower_are_warned_of() {
        let warnings = |text: &str| Recipe::from_toml(text).unwrap().warnings();
        assert!(warnings("[freeze]\ntext = true").is_empty());
        let found = warnings("[optimizer]\nlearning_rate = 1e-3");
        assert!(found[0].contains("1e-3") && found[1].contains("info_nce"), "{found:?}");
    }

    #[test]
    fn freezing_holds_what_it_names() {
        let held = |freeze: Freeze| -> Vec<usize> {
            let names = [
                "vision_model.embeddings.class_embedding",
                "vision_model.encoder.layers.0.mlp.fc1.weight",
                "vision_model.encoder.layers.11.mlp.fc1.weight",
                "visual_projection.weight",
                "text_model.final_layer_norm.bias",
                "text_projection.weight",
                "logit_scale",
            ];
            (0..names.len()).filter(|at| freeze.holds(names[*at])).collect()
        };
        let none = Freeze::default;
        assert!(held(none()).is_empty());
        assert_eq!(held(Freeze { text: true, ..none() }), [4, 5]);
        assert_eq!(held(Freeze { image: true, ..none() }), [0, 1, 2, 3]);
        assert_eq!(held(Freeze { blocks: 11, ..none() }), [1]);
        assert_eq!(held(Freeze { embeddings: true, ..none() }), [0]);
        assert_eq!(held(Freeze { all_but_projections: true, ..none() }), [0, 1, 2, 4, 6]);
    }
}
