//! What helps the towers while they train and is thrown away after.

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::model::normalise;

use super::batch::matches;
use super::error::TrainingError;
use super::loss::contradiction_info_nce;
use super::prompts::{Claim, Facts, Feature, Prompts, Question};

/// Predicts what describes a hand from its embedding. It shows the image tower what to look at long
/// before telling people apart does, and is thrown away after training.
pub(super) struct TraitHead {
    weight: Var,
    bias: Var,
}

impl TraitHead {
    /// Weights start at random: from zero, neither they nor the tower would get a gradient for what the
    /// tower does not see yet.
    pub(super) fn new(
        traits: usize,
        dim: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let traits = traits.max(1);
        let bound = 0.5 * (3.0 / dim as f32).sqrt();
        let weight = uniform(&[traits, dim], bound, seed ^ 0x7a17, device)?;
        Ok(Self { weight, bias: Var::zeros(traits, DType::F32, device)? })
    }

    pub(super) fn vars(&self) -> [(String, Var); 2] {
        [
            ("heads.traits".to_owned(), self.weight.clone()),
            ("heads.traits_bias".to_owned(), self.bias.clone()),
        ]
    }

    /// embeddings: `[batch, dim]`, unit rows; the result is `[batch, traits]`.
    pub(super) fn forward(&self, embeddings: &Tensor) -> candle_core::Result<Tensor> {
        let size = (embeddings.dim(1)? as f64).sqrt();
        ((embeddings * size)?.matmul(&self.weight.t()?)?).broadcast_add(&self.bias)
    }
}

/// Values between `-bound` and `bound` by a stream of the seed.
pub(super) fn uniform(
    shape: &[usize],
    bound: f32,
    seed: u64,
    device: &Device,
) -> Result<Var, TrainingError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
    Ok(Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?)
}

/// A learned direction for each answer to each question, in the place of prompts: the text tower starts
/// with nearly one direction for all prompts and the image tower with one for all hands, and while neither
/// tells sides apart neither gets a gradient to. Thrown away after training.
pub(super) struct Anchors {
    pub(super) directions: Var,
    sets: Vec<(Vec<Claim>, f64)>,
}

impl Anchors {
    pub(super) fn new(dim: usize, seed: u64, device: &Device) -> Result<Self, TrainingError> {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut claims = |question| -> Vec<Claim> {
            Prompts::contradicting(question, rng).into_iter().map(|(_, claim)| claim).collect()
        };
        let mut sets = vec![(claims(Question::Kind), 1.0)];
        for feature in Feature::ALL {
            let weight = if feature == Feature::Accessories { 1.0 } else { 0.3 };
            sets.push((claims(Question::Worn(feature)), weight));
        }
        let count = sets.iter().map(|(claims, _)| claims.len()).sum();
        Ok(Self { directions: uniform(&[count, dim], 1.0, seed ^ 0xa2c4, device)?, sets })
    }

    pub(super) fn loss(
        &self,
        images: &Tensor,
        facts: &[Facts],
        scale: &Tensor,
    ) -> Result<Tensor, TrainingError> {
        let directions = normalise(self.directions.as_tensor())?;
        let mut loss = Tensor::new(0.0_f32, images.device())?;
        let mut start = 0;
        for (claims, weight) in &self.sets {
            let matches = matches(facts, claims, images.device())?;
            let set = directions.narrow(0, start, claims.len())?;
            let part = contradiction_info_nce(images, &set, &matches, scale)?;
            loss = (loss + (part * *weight)?)?;
            start += claims.len();
        }
        Ok(loss)
    }
}
