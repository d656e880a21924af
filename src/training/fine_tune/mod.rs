//! Fine-tuning a CLIP model on photographs of hands: a recipe, pictures decoded ahead, identity and
//! image-text losses, validation after each epoch.

mod features;
mod heads;
mod loader;
mod plan;
mod prompt_learning;
mod prompts;
mod recipe;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use loader::{PictureFiles, ReadPicture, Unreadable};
pub use plan::never_drawn;
pub use recipe::{
    AugmentRecipe, BatchRecipe, ComputeRecipe, CrossEntropy, Freeze, LoraRecipe, Losses,
    MarginLoss, OptimizerRecipe, Precision, PromptLearning, PromptRecipe, Recipe, RuleRecipe,
    ScheduleRecipe, SupCon, Triplet, Weighted,
};
pub use run::fine_tune;
pub use state::Checkpoint;
pub use types::{
    EpochReport, FineTuneInputs, FineTuneProgress, FineTuned, Stage, Tokens, TrainPicture,
    ValidateEpoch,
};
