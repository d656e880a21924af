//! Training a CLIP model on labelled pictures: sampler, augmentation, prompts, losses, optimiser, loop.
//! Knows nothing of where pictures come from, of galleries or of the server.

mod augment;
mod average;
mod batch;
mod bpe;
mod clipping;
mod config;
mod dataset;
mod error;
mod events;
pub mod fine_tune;
mod heads;
mod init;
mod log;
mod loss;
mod metric;
mod muon;
mod optimizer;
mod prompts;
mod sampler;
mod schedule;
#[cfg(test)]
mod tests;
mod trainer;

pub use augment::{Augment, Flip};
pub use bpe::{TrainedTokenizer, train_tokenizer};
pub use config::PretrainConfig;
pub use dataset::LabelledPixels;
pub use error::TrainingError;
pub use events::EventLog;
pub use log::{Epoch, RunLog};
pub use loss::{contradiction_info_nce, matching_info_nce, sup_con, trait_error};
pub use metric::{
    AngularMargin, Margin, batch_hard_triplet, center_loss, margin_cross_entropy,
    smoothed_cross_entropy,
};
pub use optimizer::{Optimizer, OptimizerConfig, Rule};
pub use prompts::{Claim, Facts, Feature, Prompts, Question};
pub use sampler::{BatchShape, PkSampler};
pub use schedule::{Decay, Schedule};
pub use trainer::{Encode, Inputs, Outcome, Progress, Validate, pretrain};
