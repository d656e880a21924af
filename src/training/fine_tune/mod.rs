//! Fine-tuning a CLIP model on photographs of hands: a recipe, pictures decoded ahead, identity and
//! image-text losses, validation after each epoch.

mod heads;
mod loader;
mod prompts;
mod recipe;
mod run;
mod state;
#[cfg(test)]
mod tests;

pub use loader::{PictureFiles, Unreadable};
pub use recipe::{
    AugmentRecipe, BatchRecipe, CrossEntropy, Freeze, Losses, MarginLoss, OptimizerRecipe, Recipe,
    SupCon, Triplet, Weighted,
};
pub use run::{
    EpochReport, FineTuneInputs, FineTuneProgress, FineTuned, Tokens, TrainPicture, ValidateEpoch,
    fine_tune,
};
pub use state::Checkpoint;
