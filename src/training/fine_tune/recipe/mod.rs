//! What is trained and how, as a person writes it down.

mod losses;
mod settings;

use serde::{Deserialize, Serialize};

use crate::training::error::TrainingError;

use super::prompts::asks;

pub use losses::{CrossEntropy, Losses, MarginLoss, SupCon, Triplet, Weighted};
pub(super) use settings::block_of;
pub use settings::{
    AugmentRecipe, BatchRecipe, ComputeRecipe, Freeze, LoraRecipe, OptimizerRecipe, Precision,
    PromptLearning, PromptRecipe, RuleRecipe, ScheduleRecipe,
};

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
    /// How towers are computed.
    pub compute: ComputeRecipe,
    /// What stays as it was.
    pub freeze: Freeze,
    /// Low-rank changes instead of the towers' own weights.
    pub lora: Option<LoraRecipe>,
    /// What is minimised; at least one.
    pub losses: Losses,
    /// What is said of an image.
    pub prompts: PromptRecipe,
    /// A first stage that learns words for every hand.
    pub prompt_learning: Option<PromptLearning>,
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
            compute: ComputeRecipe::default(),
            freeze: Freeze::default(),
            lora: None,
            prompts: PromptRecipe::default(),
            prompt_learning: None,
            losses: Losses {
                cross_entropy: Some(CrossEntropy::default()),
                triplet: Some(Triplet::default()),
                ..Losses::default()
            },
            augment: AugmentRecipe::default(),
        }
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
        if rate > HIGH_RATE && !self.freeze.image && self.lora.is_none() {
            warnings.push(format!(
                "learning_rate {rate:e} is above {HIGH_RATE:e}: a pre-trained tower may forget more than it learns"
            ));
        }
        if self.losses.info_nce.is_none() && !self.freeze.text {
            warnings.push("without info_nce nothing trains the text tower: it stays as it is, and prompts may stop matching the images".to_owned());
        }
        let augment = &self.augment;
        if augment.horizontal_flip > 0.0 || augment.vertical_flip > 0.0 {
            warnings.push("mirrored pictures show hands of the other side: they are trained as hands of their own, and prompts name the other side".to_owned());
        }
        warnings
    }

    /// The setting, if there is one, by which scores of the validation decide how the run goes on.
    #[must_use]
    pub fn goes_by_validation(&self) -> Option<&'static str> {
        if self.patience > 0 {
            return Some("patience");
        }
        let plateau = matches!(self.optimizer.schedule, ScheduleRecipe::Plateau { .. });
        plateau.then_some("optimizer.schedule plateau")
    }

    fn check(&self) -> Result<(), TrainingError> {
        self.check_losses()?;
        self.losses.check()?;
        self.check_batch()?;
        self.optimizer.check()?;
        self.check_numbers()?;
        let trains = !(self.freeze.image && self.freeze.text);
        must("freeze", "of one tower at most", trains, "text and image")?;
        let text_only = self.freeze.image && self.losses.info_nce.is_none();
        must("freeze.image", "off where no loss trains the text tower", !text_only, "true")?;
        let none = self.lora.is_some() && self.freeze.all_but_projections;
        let rule = "off with [lora], which changes nothing but what it holds";
        must("freeze.all_but_projections", rule, !none, "true")?;
        // Adapters and their mean are different things: the mean of products is no product of means.
        let averaged = self.lora.is_some() && self.optimizer.average > 0.0;
        must("optimizer.average", "0 with [lora]", !averaged, self.optimizer.average)
    }

    fn check_losses(&self) -> Result<(), TrainingError> {
        let Self { losses, batch, freeze, .. } = self;
        let weights = losses.weights();
        must("losses", "at least one of a weight above 0", !weights.is_empty(), "none")?;
        for (name, weight) in weights {
            must(name, "weighted by more than 0", weight > 0.0 && weight.is_finite(), weight)?;
        }
        // A batch without mates or strangers has no triplet and no contrast.
        let pairs = losses.triplet.is_some() || losses.sup_con.is_some();
        let enough = !pairs || batch.images > 1 && batch.hands > 1;
        let rule = "2 or more for triplet and sup_con, and so many hands";
        must("batch.images", rule, enough, batch.images)?;
        let silent = self.prompts.templates.iter().find(|template| !asks(template));
        let rule = "a text that asks for something in braces, as {hand}";
        must("prompts.templates", rule, silent.is_none(), silent.map_or("", String::as_str))?;
        let learned = self.prompt_learning.is_some();
        let rule = "with [prompt_learning], whose prompts it compares with";
        must("losses.image_to_prompt", rule, learned || losses.image_to_prompt.is_none(), "alone")?;
        let rule = "with [losses.image_to_prompt], which uses what it learns";
        must("prompt_learning", rule, !learned || losses.image_to_prompt.is_some(), "alone")?;
        let rule = "true with [prompt_learning], whose prompts must keep their features";
        must("freeze.text", rule, !learned || freeze.text, "false")?;
        let augment = &self.augment;
        let flips = augment.horizontal_flip + augment.vertical_flip;
        let rule = "0 with [prompt_learning]: a mirrored hand has no learned prompt";
        must("augment.horizontal_flip and vertical_flip", rule, !learned || flips == 0.0, flips)
    }

    fn check_batch(&self) -> Result<(), TrainingError> {
        /// More than any device holds.
        const MOST: usize = 1 << 16;
        let BatchRecipe { hands, images, kinds, accumulate, .. } = self.batch;
        let shares = kinds > 0 && hands.is_multiple_of(kinds);
        must("batch.hands", "a multiple of batch.kinds, and both more than 0", shares, hands)?;
        // One picture is like and unlike nothing.
        let pictures = hands.saturating_mul(images);
        let rule = "from 2 to 65536 pictures together";
        must("batch.hands times batch.images", rule, (2..=MOST).contains(&pictures), pictures)?;
        let rule = "from 1 to 65536";
        must("batch.accumulate", rule, (1..=MOST).contains(&accumulate), accumulate)
    }

    fn check_numbers(&self) -> Result<(), TrainingError> {
        let Self { epochs, validation, augment, .. } = self;
        must("epochs", "more than 0", *epochs > 0, epochs)?;
        must("validation", UNIT, is_share(*validation), validation)?;
        let judged = self.goes_by_validation().is_none() || *validation > 0.0;
        let rule = "more than 0 with patience and with a plateau schedule, which go by it";
        must("validation", rule, judged, validation)?;
        if let Some(LoraRecipe { rank, alpha }) = self.lora {
            must("lora.rank", "more than 0", rank > 0, rank)?;
            must("lora.alpha", "more than 0", is_positive(alpha), alpha)?;
        }
        if let Some(PromptLearning { tokens, epochs, batch, learning_rate }) = self.prompt_learning
        {
            must("prompt_learning.tokens", "from 1 to 16", (1..=16).contains(&tokens), tokens)?;
            must("prompt_learning.epochs", "more than 0", epochs > 0, epochs)?;
            must("prompt_learning.batch", "2 or more", batch > 1, batch)?;
            let rate = learning_rate;
            must("prompt_learning.learning_rate", "more than 0", is_positive(rate), rate)?;
        }
        must("augment.crop", "in (0, 1]", augment.crop > 0.0 && augment.crop <= 1.0, augment.crop)?;
        must("augment.jpeg", "from 1 to 100", (1..=100).contains(&augment.jpeg), augment.jpeg)?;
        for (name, share) in [
            ("augment.erase", augment.erase),
            ("augment.horizontal_flip", augment.horizontal_flip),
            ("augment.vertical_flip", augment.vertical_flip),
        ] {
            must(name, "from 0 to 1", (0.0..=1.0).contains(&share), share)?;
        }
        for (name, most, value) in [
            ("augment.rotation", 180.0, augment.rotation),
            ("augment.scale", 0.9, augment.scale),
            ("augment.shift", 1.0, augment.shift),
            ("augment.light", 1.0, augment.light),
            ("augment.color", 1.0, augment.color),
            ("augment.saturation", 1.0, augment.saturation),
            ("augment.blur", 16.0, augment.blur),
        ] {
            must(name, "0 or more, and not too large", (0.0..=most).contains(&value), value)?;
        }
        Ok(())
    }
}

const UNIT: &str = "0 or more and less than 1";

fn is_share(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn must(
    setting: &'static str,
    rule: &'static str,
    ok: bool,
    got: impl ToString,
) -> Result<(), TrainingError> {
    if ok { Ok(()) } else { Err(TrainingError::Setting { setting, rule, got: got.to_string() }) }
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
        let soft = Recipe::from_toml("[losses.triplet]\nmargin = \"soft\"").unwrap();
        assert_eq!(soft.losses.triplet.as_ref().unwrap().margin, None);
        assert_eq!(Recipe::from_toml(&soft.to_toml().unwrap()).unwrap(), soft);
        let hard = Recipe::from_toml("[losses.triplet]\nmargin = 1").unwrap();
        assert_eq!(hard.losses.triplet.unwrap().margin, Some(1.0));
    }

    #[test]
    fn unknown_keys_and_values_that_make_no_run_are_named() {
        for (text, named) in [
            ("epoch = 3", "epoch"),
            ("[losses.triplet]\nmargins = 1.0", "margins"),
            ("[losses.triplet]\nmargin = \"wide\"", "wide"),
            ("epochs = 0", "epochs"),
            ("[losses]", "losses"),
            ("[losses.info_nce]\nweight = -1.0", "info_nce"),
            ("[batch]\nimages = 1", "batch.images"),
            ("[optimizer]\nlearning_rate = 0.0", "learning_rate"),
            ("[freeze]\nimage = true", "freeze.image"),
            ("[freeze]\nimage = true\ntext = true", "freeze"),
            ("[losses.image_to_prompt]", "image_to_prompt"),
            ("[prompt_learning]", "prompt_learning"),
            ("[prompt_learning]\n[losses.image_to_prompt]", "freeze.text"),
            ("[batch]\naccumulate = 0", "accumulate"),
            ("[optimizer.schedule]\nkind = \"step\"\nepochs = 3", "factor"),
            ("[optimizer.schedule]\nkind = \"step\"\nepochs = 3\nfactor = 2.0", "factor"),
            ("[optimizer.schedule]\nkind = \"stairs\"", "stairs"),
            ("[optimizer]\nrule = \"adam\"", "adam"),
            ("[lora]\nrank = 0", "lora.rank"),
            ("[optimizer]\naverage = 0.9\n[lora]", "average"),
            ("[compute]\nprecision = \"f16\"", "f16"),
            ("[prompts]\ntemplates = [\"a hand\"]", "prompts.templates"),
            ("[augment]\ncrop = 0.0", "crop"),
            ("[augment]\nerase = 1.5", "erase"),
            ("[optimizer]\nclip_norm = 0.0", "1e9"),
            ("[optimizer]\nclip_norm = -1.0", "clip_norm"),
            ("[optimizer]\nclip_norm = inf", "clip_norm"),
            ("[optimizer]\nclip_norm = nan", "clip_norm"),
            ("[optimizer]\nheads = 0.0", "heads"),
            ("[optimizer]\nheads = -10.0", "heads"),
            ("[optimizer]\nweight_decay = -0.1", "weight_decay"),
            ("[optimizer]\nwarmup_epochs = -1.0", "warmup_epochs"),
            ("[optimizer]\nwarmup_epochs = nan", "warmup_epochs"),
            ("[losses.sup_con]\ntemperature = 0.0", "temperature"),
            ("[losses.sup_con]\ntemperature = -0.1", "temperature"),
            ("[losses.cross_entropy]\nsmoothing = 1.0", "cross_entropy.smoothing"),
            ("[losses.triplet]\nmargin = -0.3", "triplet.margin"),
            ("[losses.arc_face]\nweight = 1.0\nmargin = 3.2\nscale = 8.0", "arc_face.margin"),
            ("[losses.arc_face]\nweight = 1.0\nmargin = 0.3\nscale = -8.0", "arc_face.scale"),
            ("[losses.cos_face]\nweight = 1.0\nmargin = -0.2\nscale = 8.0", "cos_face.margin"),
            ("[losses.cos_face]\nweight = 1.0\nmargin = 0.2\nscale = 0.0", "cos_face.scale"),
            ("[batch]\nhands = 1\nimages = 1\n[losses.cross_entropy]", "batch.images"),
            ("[batch]\nhands = 16\nimages = 4611686018427387904", "65536"),
            ("[batch]\nkinds = 3", "batch.kinds"),
            ("[batch]\nkinds = 0", "batch.kinds"),
            ("[lora]\n[freeze]\nall_but_projections = true", "all_but_projections"),
            ("validation = 0.0\npatience = 3", "patience"),
            (
                "validation = 0.0\n[optimizer.schedule]\nkind = \"plateau\"\nepochs = 2\nfactor = 0.1",
                "plateau",
            ),
        ] {
            let message = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }

    #[test]
    fn a_high_rate_and_an_untrained_text_tower_are_warned_of() {
        let warnings = |text: &str| Recipe::from_toml(text).unwrap().warnings();
        assert!(warnings("[freeze]\ntext = true").is_empty());
        assert!(
            warnings("[freeze]\ntext = true\n[augment]\nvertical_flip = 0.5")[0].contains("side")
        );
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
