//! CLIP as Hugging Face lays it out: configuration, parameters, both towers, tokenizer and the
//! embedding of images and prompts, batched. Knows directories of model files and pixels; not
//! images, galleries, or how a model is trained.

mod adapters;
mod batcher;
mod checkpoint;
mod clip;
mod config;
mod embedder;
mod engine;
mod error;
mod explain;
mod files;
mod fingerprint;
mod hub;
mod layers;
mod openclip;
mod parameters;
mod report;
mod stages;
mod stream;
mod text;
mod tokenizer;
mod trainable;
mod vision;

pub use crate::tensor::lean::Precision;
pub use crate::tensor::normalise;
pub use adapters::Adapters;
pub use batcher::{BatchOptions, Batcher};
pub use clip::Clip;
pub use config::{Activation, ClipConfig, TextConfig, VisionConfig};
pub use embedder::{Embedder, ModelParts, ModelSummary};
pub use error::{CheckpointError, ModelError};
pub use explain::{ExplainMethod, PatchMap, UnknownMethod};
pub use files::weight_files;
pub use fingerprint::in_precision;
pub use hub::{Hub, ModelManifest, OnProgress, pull};
pub use parameters::Parameters;
pub use report::{FileReport, ModelReport, ParameterCounts, inspect, inspect_nano};
pub use stages::{Kept, Stages};
pub use tokenizer::Tokenizer;
pub use trainable::Trainable;

#[cfg(test)]
mod gradients;
