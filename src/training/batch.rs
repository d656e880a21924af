use candle_core::{Device, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::error::TrainingError;
use super::loss::{contradiction_info_nce, matching_info_nce};
use super::prompts::{Claim, Facts, Feature, Prompts, Question};
use super::sampler::PkSampler;
use super::trainer::Inputs;

/// Pictures of one step, with the prompts that they are compared with.
pub(super) struct Batch {
    /// `[batch, 3, size, size]`
    pub(super) pixels: Tensor,
    /// The hand of each picture.
    pub(super) labels: Vec<u32>,
    /// What is true of each picture.
    pub(super) facts: Vec<Facts>,
    /// `[batch, traits]`, not a number where unknown.
    pub(super) traits: Vec<f32>,
    /// `[prompts, tokens]`
    pub(super) tokens: Tensor,
    /// `[batch, prompts]`, 1 where a prompt is true of a picture.
    matches: Tensor,
    /// How many prompts describe pictures of the batch; the contradicting ones follow.
    described: usize,
    /// How many prompts each set of contradicting ones has.
    sets: Vec<usize>,
}

impl Batch {
    pub(super) fn draw(
        inputs: &Inputs<'_>,
        sampler: &mut PkSampler,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let indices = sampler.batch();
        let seed = sampler.draw_seed();
        let data = inputs.data;
        let size = inputs.augment.size;
        let pixels: Vec<Vec<f32>> = indices
            .par_iter()
            .enumerate()
            .map(|(i, &index)| {
                let seed = seed.wrapping_add(i as u64);
                let changed = inputs.augment.apply(data.picture(index), data.size, seed);
                inputs.preprocessing.normalise(&changed)
            })
            .collect();
        let n = indices.len();
        let pixels = Tensor::from_vec(pixels.concat(), (n, 3, size, size), device)?;
        let labels: Vec<u32> = indices.iter().map(|i| data.hands[*i]).collect();
        let facts: Vec<Facts> = indices.iter().map(|i| data.facts[*i]).collect();
        let (mut texts, mut claims) = prompts(&facts, inputs.config.prompts, seed);
        let described = texts.len();
        let sets: Vec<Vec<(String, Claim)>> = questions(seed);
        let sizes = sets.iter().map(Vec::len).collect();
        for (text, claim) in sets.into_iter().flatten() {
            texts.push(text);
            claims.push(claim);
        }
        Ok(Self {
            pixels,
            labels,
            traits: indices.iter().flat_map(|i| data.traits_of(*i)).copied().collect(),
            tokens: padded(&(inputs.encode)(&texts)?, device)?,
            matches: matches(&facts, &claims, device)?,
            described,
            sets: sizes,
            facts,
        })
    }

    /// InfoNCE against the prompts that describe pictures of the batch, and within each set of
    /// contradicting ones: the first alone is slow to learn what two prompts differ in, because most
    /// prompts are true of many pictures.
    pub(super) fn text_loss(
        &self,
        images: &Tensor,
        texts: &Tensor,
        scale: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let part = |start: usize, len: usize| -> candle_core::Result<(Tensor, Tensor)> {
            let matches = self.matches.narrow(1, start, len)?.contiguous()?;
            Ok((texts.narrow(0, start, len)?, matches))
        };
        let (prompts, matches) = part(0, self.described)?;
        let mut loss = matching_info_nce(images, &prompts, &matches, scale)?;
        let mut start = self.described;
        for &len in &self.sets {
            let (prompts, matches) = part(start, len)?;
            loss = (loss + contradiction_info_nce(images, &prompts, &matches, scale)?)?;
            start += len;
        }
        Ok(loss)
    }
}

/// `[facts, claims]`, 1 where a claim is true.
pub(super) fn matches(
    facts: &[Facts],
    claims: &[Claim],
    device: &Device,
) -> candle_core::Result<Tensor> {
    let holds = |facts: &Facts, claim: &Claim| f32::from(u8::from(claim.holds(facts)));
    let values: Vec<f32> = facts
        .iter()
        .flat_map(|facts| claims.iter().map(move |claim| holds(facts, claim)))
        .collect();
    Tensor::from_vec(values, (facts.len(), claims.len()), device)
}

/// `[texts, tokens]`, short ones filled up with their last token.
fn padded(ids: &[Vec<u32>], device: &Device) -> candle_core::Result<Tensor> {
    let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
    let values: Vec<u32> = ids
        .iter()
        .flat_map(|row| (0..longest).map(move |i| row.get(i).or(row.last()).copied().unwrap_or(0)))
        .collect();
    Tensor::from_vec(values, (ids.len(), longest), device)
}

/// Prompts of randomly picked pictures, no claim twice.
fn prompts(facts: &[Facts], wanted: usize, seed: u64) -> (Vec<String>, Vec<Claim>) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x7e47);
    let (mut texts, mut claims) = (Vec::new(), Vec::new());
    for _ in 0..wanted * 4 {
        if texts.len() == wanted {
            break;
        }
        let (text, claim) = Prompts::describe(&facts[rng.random_range(0..facts.len())], rng);
        if !claims.contains(&claim) {
            texts.push(text);
            claims.push(claim);
        }
    }
    (texts, claims)
}

/// Contradicting prompts for a batch: always about the kind of hand and about accessories, and one more
/// question at random.
fn questions(seed: u64) -> Vec<Vec<(String, Claim)>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9e57);
    let feature = Feature::ALL[rng.random_range(0..Feature::ALL.len())];
    let third = match rng.random_range(0..4) {
        0 => Question::Aspect,
        1 => Question::Side,
        2 => Question::Worn(feature),
        _ => Question::KindAndWorn(feature),
    };
    [Question::Kind, Question::Worn(Feature::Accessories), third]
        .into_iter()
        .map(|question| Prompts::contradicting(question, rng))
        .collect()
}
