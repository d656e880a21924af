//! Pre-training of the embedded model on generated hands, and the figures of its model card.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::domain::{Aspect, Side};
use crate::evaluation::{RankFigures, one_a_label, rank_figures};
use crate::image::{Framing, Preprocessing};
use crate::model::{Clip, ClipConfig, ModelError, Parameters, Tokenizer, normalise};
use crate::storage::file::write_atomic;
use crate::synth::{SynthSample, SynthSpec};
use crate::training::{
    Augment, Facts, Inputs, LabelledPixels, PretrainConfig, Progress, Prompts, RunLog,
    TrainingError, pretrain, train_tokenizer,
};

/// Side of the embedded model's input, pixels.
const SIZE: u32 = 112;
/// Pictures are kept a little larger than the input, so that augmentation does not read over the edge.
const STORED: u32 = 120;
/// The people of validation and of the model card are drawn from populations of their own.
const VALIDATION_SEED: u64 = 0x7a11;
/// Population of the model card's figures.
pub const CARD_SEED: u64 = 0xca4d;
