use serde::{Deserialize, Serialize};

use super::sampler::BatchShape;

/// Settings of a pre-training run; the defaults are those of the embedded model. Every random choice
/// follows from `seed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Seed of initial weights, sampling and augmentation.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: usize,
    /// Different hands (a subject's aspect and side) in a batch.
    pub hands: usize,
    /// Kinds of hand (aspect and side) in a batch. Few make the other hands of a batch hard to tell
    /// apart; one alone would leave the prompts nothing to tell apart.
    pub kinds: usize,
    /// Pictures of each hand in a batch.
    pub images_a_hand: usize,
    /// Prompts in a batch that describe pictures of it; contradicting ones come on top.
    pub prompts: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Peak length of Muon's steps, which the matrices inside the towers' blocks take.
    pub matrix_rate: f64,
    /// What the learning rate of parameters that are thrown away after training is multiplied by.
    pub heads_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// Decoupled weight decay, not applied to biases, norms and embeddings.
    pub weight_decay: f64,
    /// Largest global gradient norm; longer gradients are scaled down before the step.
    pub clip_norm: f64,
    /// Weight of the identity loss.
    pub identity_weight: f64,
    /// Weight of the image-text loss.
    pub text_weight: f64,
    /// Weight of the error in predicting traits, where pictures have them.
    pub trait_weight: f64,
    /// Temperature of the identity loss: cosines are divided by it.
    pub temperature: f64,
    /// Decay of the moving average of the weights, a step.
    pub average_decay: f64,
    /// Steps between validations.
    pub validate_every: usize,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            seed: 20_261_123,
            steps: 5200,
            hands: 48,
            kinds: 2,
            images_a_hand: 2,
            prompts: 24,
            learning_rate: 1.5e-3,
            matrix_rate: 0.02,
            heads_rate: 5.0,
            warmup: 120,
            weight_decay: 0.05,
            clip_norm: 1.0,
            identity_weight: 1.0,
            text_weight: 1.0,
            trait_weight: 2.0,
            temperature: 0.1,
            average_decay: 0.997,
            validate_every: 300,
        }
    }
}

impl PretrainConfig {
    /// What a batch is made of.
    #[must_use]
    pub fn shape(&self) -> BatchShape {
        BatchShape { hands: self.hands, images: self.images_a_hand, kinds: self.kinds }
    }

    /// Pictures in a batch.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.hands * self.images_a_hand
    }
}
