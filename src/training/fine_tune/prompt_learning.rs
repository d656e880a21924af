//! Words for every hand, learned with both towers frozen: the first stage of CLIP-ReID (Li et al., 2023).

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Tensor, Var};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::model::{Clip, normalise};
use crate::tensor::backward;
use crate::training::error::TrainingError;
use crate::training::heads::uniform;
use crate::training::loss::matching_info_nce;
use crate::training::optimizer::{Optimizer, OptimizerConfig, Rule};
use crate::training::schedule::{Decay, Schedule};

use super::recipe::PromptLearning;
use super::types::{FineTuneInputs, FineTuneProgress, Stage};

/// What stands before and behind the learned words.
const FRAME: [&str; 2] = ["a photo of a", "hand."];
/// Images or prompts embedded at a time.
const CHUNK: usize = 64;

/// Learns the words on images as they are, without augmentation, and gives the text feature of every hand,
/// `[hands, dim]`, unit rows. With a cancelled run the words learned so far.
pub(super) fn learn_prompts(
    inputs: FineTuneInputs<'_>,
    recipe: &PromptLearning,
    progress: &dyn Fn(FineTuneProgress),
    cancel: &AtomicBool,
) -> Result<Tensor, TrainingError> {
    let clip = Clip::frozen(inputs.model, inputs.parameters)?;
    let (images, labels) = image_features(inputs, &clip, cancel)?;
    let hands = inputs.pictures.iter().map(|picture| picture.hand as usize + 1).max().unwrap_or(0);
    let seed = inputs.recipe.seed;
    let prompts = Prompts::new(inputs, &clip, hands, recipe.tokens)?;
    let config = OptimizerConfig {
        rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        weight_decay: 1e-4,
        clip_norm: 5.0,
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(&[("prompts".to_owned(), prompts.words.clone())], config)?;
    let an_epoch = labels.len().div_ceil(recipe.batch);
    let steps = an_epoch * recipe.epochs;
    let warmup = (an_epoch * 5).min(steps / 10);
    let schedule = Schedule { peak: recipe.learning_rate, warmup, steps, decay: Decay::Cosine };
    let scale = clip.logit_scale().exp()?;
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9e3d);
    let mut order: Vec<u32> = (0..labels.len() as u32).collect();
    let mut step = 0;
    for epoch in 1..=recipe.epochs {
        order.shuffle(rng);
        for batch in order.chunks(recipe.batch) {
            if cancel.load(Ordering::Relaxed) {
                return prompts.features_of_all();
            }
            let of: Vec<u32> = batch.iter().map(|at| labels[*at as usize]).collect();
            let mut shown = of.clone();
            shown.sort_unstable();
            shown.dedup();
            let texts = prompts.features(&shown)?;
            let index = Tensor::new(batch, inputs.device)?;
            let matches: Vec<f32> = of
                .iter()
                .flat_map(|own| shown.iter().map(move |hand| f32::from(u8::from(hand == own))))
                .collect();
            let matches = Tensor::from_vec(matches, (of.len(), shown.len()), inputs.device)?;
            let loss =
                matching_info_nce(&images.index_select(&index, 0)?, &texts, &matches, &scale)?;
            let value = loss.to_scalar::<f32>()?;
            let rate = schedule.at(step, 0);
            if !value.is_finite() {
                return Err(TrainingError::Diverged {
                    step: step + 1,
                    loss: value,
                    learning_rate: rate,
                });
            }
            optimizer.step(&backward(&loss)?, rate)?;
            step += 1;
            progress(FineTuneProgress {
                stage: Stage::Prompts,
                epoch,
                step,
                steps,
                loss: value,
                images_per_second: 0.0,
                waiting: 0.0,
            });
        }
    }
    prompts.features_of_all()
}

/// Unit features of every picture, computed once, and whose hand each shows.
fn image_features(
    inputs: FineTuneInputs<'_>,
    clip: &Clip,
    cancel: &AtomicBool,
) -> Result<(Tensor, Vec<u32>), TrainingError> {
    let side = inputs.model.vision.image_size;
    let (mut features, mut labels) = (Vec::new(), Vec::new());
    for pictures in inputs.pictures.chunks(CHUNK) {
        // Some features have to be there, for what is made of them.
        if cancel.load(Ordering::Relaxed) && !features.is_empty() {
            break;
        }
        let mut pixels = Vec::new();
        for picture in pictures {
            if let Some(framed) = inputs.files.pixels(picture.file)? {
                pixels.extend(inputs.files.preprocessing().normalise(&framed));
                labels.push(picture.hand);
            }
        }
        let count = pixels.len() / (3 * side * side);
        if count > 0 {
            let pixels = Tensor::from_vec(pixels, (count, 3, side, side), inputs.device)?;
            features.push(normalise(&clip.image_features(&pixels)?)?);
        }
    }
    Ok((Tensor::cat(&features, 0)?, labels))
}

/// "a photo of a w w w w hand." with other words `w` for every hand.
pub(super) struct Prompts<'a> {
    pub(super) clip: &'a Clip,
    /// Embeddings before and behind the words, `[1, tokens, dim]`, start and end token included.
    pub(super) frame: [Tensor; 2],
    /// `[hands, words, dim]`.
    pub(super) words: Var,
}

impl<'a> Prompts<'a> {
    fn new(
        inputs: FineTuneInputs<'_>,
        clip: &'a Clip,
        hands: usize,
        words: usize,
    ) -> Result<Self, TrainingError> {
        let part = |text: &str| -> Result<(Tensor, usize), TrainingError> {
            let ids = Tensor::new((inputs.tokens)(&[text.to_owned()])?, inputs.device)?;
            let (embeddings, ends) = clip.token_embeddings(&ids)?;
            Ok((embeddings, ends[0]))
        };
        let (before, end) = part(FRAME[0])?;
        let before = before.narrow(1, 0, end)?;
        let (behind, end) = part(FRAME[1])?;
        let behind = behind.narrow(1, 1, end)?;
        let tokens = before.dim(1)? + words + behind.dim(1)?;
        let positions = inputs.model.text.max_position_embeddings;
        if tokens > positions {
            return Err(TrainingError::Setting {
                setting: "prompt_learning.tokens",
                rule: "so few that the prompt fits the model's positions",
                got: format!("{words}, which makes {tokens} of {positions}"),
            });
        }
        // As wide as the embeddings of a trained vocabulary are: deviation 0.02.
        let bound = 0.02 * 3.0_f32.sqrt();
        let shape = [hands, words, inputs.model.text.hidden_size];
        let words = uniform(&shape, bound, inputs.recipe.seed ^ 0x40d5, inputs.device)?;
        Ok(Self { clip, frame: [before, behind], words })
    }

    /// Unit text features of these hands, `[hands, dim]`, taken at the end token: at the start token, which
    /// sees nothing before it, all hands would have the same.
    pub(super) fn features(&self, hands: &[u32]) -> Result<Tensor, TrainingError> {
        let index = Tensor::new(hands, self.words.device())?;
        let words = self.words.as_tensor().index_select(&index, 0)?;
        let n = hands.len();
        let wide = |part: &Tensor| part.broadcast_as((n, part.dim(1)?, part.dim(2)?));
        let [before, behind] = &self.frame;
        let whole = Tensor::cat(&[wide(before)?, words, wide(behind)?], 1)?;
        let ends = vec![whole.dim(1)? - 1; n];
        Ok(normalise(&self.clip.text_features_of_embeddings(whole, &ends)?)?)
    }

    fn features_of_all(&self) -> Result<Tensor, TrainingError> {
        let hands: Vec<u32> = (0..self.words.dim(0)? as u32).collect();
        let chunks = hands.chunks(CHUNK).map(|chunk| Ok(self.features(chunk)?.detach()));
        let chunks = chunks.collect::<Result<Vec<Tensor>, TrainingError>>()?;
        Ok(Tensor::cat(&chunks, 0)?)
    }
}
