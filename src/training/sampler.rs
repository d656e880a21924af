use rand::Rng as _;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::error::TrainingError;

/// Batches of P hands with K pictures each. Every hand comes up once before any comes up again.
#[derive(Debug)]
pub struct PkSampler {
    by_hand: Vec<Vec<usize>>,
    order: Vec<usize>,
    next: usize,
    hands: usize,
    images: usize,
    rng: ChaCha8Rng,
}

impl PkSampler {
    /// `labels`: the hand of each picture.
    ///
    /// # Errors
    /// [`TrainingError::TooFewHands`] when the pictures cannot fill one batch.
    pub fn new(
        labels: &[u32],
        hands: usize,
        images: usize,
        seed: u64,
    ) -> Result<Self, TrainingError> {
        let classes = labels.iter().max().map_or(0, |top| *top as usize + 1);
        let mut by_hand = vec![Vec::new(); classes];
        for (index, label) in labels.iter().enumerate() {
            by_hand[*label as usize].push(index);
        }
        let order: Vec<usize> =
            (0..classes).filter(|hand| by_hand[*hand].len() >= images.max(1)).collect();
        if hands == 0 || images == 0 || order.len() < hands {
            return Err(TrainingError::TooFewHands { wanted: hands, images, got: order.len() });
        }
        let next = order.len();
        Ok(Self { by_hand, order, next, hands, images, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Indices of the next batch, `[hands * images]`, the pictures of a hand together.
    pub fn batch(&mut self) -> Vec<usize> {
        let mut batch = Vec::with_capacity(self.hands * self.images);
        if self.next + self.hands > self.order.len() {
            self.order.shuffle(&mut self.rng);
            self.next = 0;
        }
        for &hand in &self.order[self.next..self.next + self.hands] {
            let pictures = &self.by_hand[hand];
            let picked = rand::seq::index::sample(&mut self.rng, pictures.len(), self.images);
            batch.extend(picked.iter().map(|i| pictures[i]));
        }
        self.next += self.hands;
        batch
    }

    /// A seed for what else is drawn for a batch.
    pub fn draw_seed(&mut self) -> u64 {
        self.rng.random()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn labels() -> Vec<u32> {
        (0..60).map(|i| i / 3).chain([20]).collect()
    }

    #[test]
    fn a_batch_has_p_hands_with_k_different_pictures() {
        let labels = labels();
        let mut sampler = PkSampler::new(&labels, 5, 2, 3).unwrap();
        for _ in 0..40 {
            let batch = sampler.batch();
            let mut by_hand: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
            for index in batch {
                by_hand.entry(labels[index]).or_default().insert(index);
            }
            assert_eq!(by_hand.len(), 5);
            assert!(by_hand.values().all(|pictures| pictures.len() == 2));
            assert!(!by_hand.contains_key(&20), "a hand with one picture cannot give two");
        }
    }

    #[test]
    fn every_hand_comes_up_once_before_any_comes_up_again() {
        let labels = labels();
        let mut sampler = PkSampler::new(&labels, 5, 2, 3).unwrap();
        let seen: BTreeSet<u32> = (0..4).flat_map(|_| sampler.batch()).map(|i| labels[i]).collect();
        assert_eq!(seen.len(), 20);
    }

    #[test]
    fn batches_follow_from_the_seed() {
        let run = |seed| {
            let mut sampler = PkSampler::new(&labels(), 4, 2, seed).unwrap();
            (0..10).flat_map(|_| sampler.batch()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn too_few_hands_are_an_error() {
        let error = PkSampler::new(&[0, 0, 1], 2, 2, 0).unwrap_err();
        assert!(matches!(error, TrainingError::TooFewHands { wanted: 2, got: 1, .. }));
    }
}
