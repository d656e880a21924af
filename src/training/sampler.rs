use rand::Rng as _;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::error::TrainingError;

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Different hands (P).
    pub hands: usize,
    /// Pictures of each (K).
    pub images: usize,
    /// Kinds of hand that the hands are drawn from in equal shares; `hands` is a multiple of it.
    pub kinds: usize,
}

/// Batches of P hands with K pictures each, from few kinds of hand, so that most other hands of a
/// batch are hard to tell apart. No hand comes up again before the round through all is over. A hand with fewer
/// than K pictures, but two, gives some of them more than once, and a kind with too few hands for its share of a
/// batch, but two, gives all it has.
#[derive(Debug)]
pub struct PkSampler {
    /// Pictures of each hand.
    by_hand: Vec<Vec<usize>>,
    /// Hands of each kind.
    by_kind: Vec<Vec<usize>>,
    /// Hands of the batches that remain of this round.
    round: Vec<Vec<usize>>,
    shape: BatchShape,
    rng: ChaCha8Rng,
}

impl PkSampler {
    /// `pictures`: hand and kind of each picture, numbered from 0.
    ///
    /// # Errors
    /// [`TrainingError::TooFewHands`] when the pictures cannot fill one batch,
    /// [`TrainingError::Setting`] for a shape that makes no batch.
    pub fn new(
        pictures: &[(u32, usize)],
        shape: BatchShape,
        seed: u64,
    ) -> Result<Self, TrainingError> {
        let BatchShape { hands, images, kinds } = shape;
        if hands == 0 || kinds == 0 || !hands.is_multiple_of(kinds) {
            return Err(TrainingError::Setting {
                setting: "hands",
                rule: "a multiple of kinds, and both more than 0",
                got: format!("{hands} of {kinds} kinds"),
            });
        }
        let classes = pictures.iter().map(|(hand, _)| *hand as usize + 1).max().unwrap_or(0);
        let top = pictures.iter().map(|(_, kind)| kind + 1).max().unwrap_or(0);
        let (mut by_hand, mut kind_of) = (vec![Vec::new(); classes], vec![0; classes]);
        for (index, (hand, kind)) in pictures.iter().enumerate() {
            by_hand[*hand as usize].push(index);
            kind_of[*hand as usize] = *kind;
        }
        // The only picture of a hand has no mate but itself.
        let fewest = images.clamp(1, 2);
        let mut by_kind = vec![Vec::new(); top];
        for hand in (0..classes).filter(|hand| by_hand[*hand].len() >= fewest) {
            by_kind[kind_of[hand]].push(hand);
        }
        let share = hands / kinds;
        let enough = by_kind.iter().filter(|of_kind| of_kind.len() >= share).count();
        if images == 0 || enough < kinds {
            let got = by_kind.iter().map(Vec::len).sum();
            return Err(TrainingError::TooFewHands { wanted: hands, kinds, images: fewest, got });
        }
        // The only hand of a kind has nobody to be told from.
        by_kind.iter_mut().filter(|of_kind| of_kind.len() < share.min(2)).for_each(Vec::clear);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self { by_hand, by_kind, round: Vec::new(), shape, rng })
    }

    /// Indices of the next batch, `[hands * images]`, the pictures of a hand together.
    pub fn batch(&mut self) -> Vec<usize> {
        if self.round.is_empty() {
            self.round = self.plan();
        }
        let hands = self.round.pop().unwrap_or_default();
        let mut batch = Vec::with_capacity(hands.len() * self.shape.images);
        for hand in hands {
            let pictures = &self.by_hand[hand];
            let different = self.shape.images.min(pictures.len());
            let picked = rand::seq::index::sample(&mut self.rng, pictures.len(), different);
            let picked = picked.into_vec();
            batch.extend(picked.iter().cycle().take(self.shape.images).map(|i| pictures[*i]));
        }
        batch
    }

    /// Pictures that never come up: of hands with a single one where mates are wanted, and of a kind's only hand.
    #[must_use]
    pub fn left_out(&self) -> Vec<usize> {
        let mut drawn = vec![false; self.by_hand.len()];
        self.by_kind.iter().flatten().for_each(|hand| drawn[*hand] = true);
        let others = self.by_hand.iter().zip(drawn).filter(|(_, drawn)| !drawn);
        let mut pictures: Vec<usize> = others.flat_map(|(pictures, _)| pictures).copied().collect();
        pictures.sort_unstable();
        pictures
    }

    /// Batches of one round, in random order. The kinds with most hands left go first, so that they run
    /// out together; what does not fill a batch is left out of the round.
    fn plan(&mut self) -> Vec<Vec<usize>> {
        let BatchShape { hands, kinds, .. } = self.shape;
        let share = hands / kinds;
        let mut portions: Vec<Vec<Vec<usize>>> = Vec::with_capacity(self.by_kind.len());
        for of_kind in &mut self.by_kind {
            of_kind.shuffle(&mut self.rng);
            let few = !of_kind.is_empty() && of_kind.len() < share;
            let portion = if few { of_kind.len() } else { share };
            portions.push(of_kind.chunks_exact(portion).map(<[usize]>::to_vec).collect());
        }
        let mut batches = Vec::new();
        loop {
            portions.shuffle(&mut self.rng);
            portions.sort_by_key(|left| std::cmp::Reverse(left.len()));
            let batch: Vec<Vec<usize>> =
                portions.iter_mut().take(kinds).filter_map(Vec::pop).collect();
            if batch.len() < kinds {
                break;
            }
            batches.push(batch.concat());
        }
        batches.shuffle(&mut self.rng);
        batches
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

    const SHAPE: BatchShape = BatchShape { hands: 6, images: 2, kinds: 2 };

    /// 24 hands of 4 kinds with three pictures each, and one with a single picture.
    fn pictures() -> Vec<(u32, usize)> {
        (0..72).map(|i| (i / 3, (i as usize / 3) % 4)).chain([(24, 0)]).collect()
    }

    #[test]
    fn a_batch_has_p_hands_of_few_kinds_with_k_different_pictures() {
        let pictures = pictures();
        let mut sampler = PkSampler::new(&pictures, SHAPE, 3).unwrap();
        for _ in 0..40 {
            let mut by_hand: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
            let mut by_kind: BTreeMap<usize, usize> = BTreeMap::new();
            for index in sampler.batch() {
                let (hand, kind) = pictures[index];
                by_hand.entry(hand).or_default().insert(index);
                *by_kind.entry(kind).or_default() += 1;
            }
            assert_eq!(by_hand.len(), 6);
            assert!(by_hand.values().all(|pictures| pictures.len() == 2));
            assert_eq!(by_kind.values().collect::<Vec<_>>(), [&6, &6], "two kinds, equal shares");
            assert!(!by_hand.contains_key(&24), "a hand with one picture cannot give two");
        }
    }

    #[test]
    fn every_hand_comes_up_once_before_any_comes_up_again() {
        let pictures = pictures();
        let mut sampler = PkSampler::new(&pictures, SHAPE, 3).unwrap();
        for round in 0..5 {
            let seen: Vec<usize> = (0..4).flat_map(|_| sampler.batch()).collect();
            let hands: BTreeSet<u32> = seen.iter().map(|i| pictures[*i].0).collect();
            assert_eq!((seen.len(), hands.len()), (48, 24), "round {round}");
        }
    }

    #[test]
    fn hands_and_kinds_with_few_pictures_take_part_and_the_others_are_named() {
        // Kind 0: four hands with four pictures; kind 1: three hands, of one, two and three pictures;
        // kind 2: one hand.
        let of = |hand: u32, kind, count| vec![(hand, kind); count];
        let pictures: Vec<(u32, usize)> = [
            (0..4).flat_map(|hand| of(hand, 0, 4)).collect(),
            of(4, 1, 1),
            of(5, 1, 2),
            of(6, 1, 3),
            of(7, 2, 5),
        ]
        .concat();
        let shape = BatchShape { hands: 4, images: 4, kinds: 1 };
        let mut sampler = PkSampler::new(&pictures, shape, 3).unwrap();
        assert_eq!(sampler.left_out(), [16, 22, 23, 24, 25, 26]);
        for _ in 0..20 {
            let mut batches = [sampler.batch(), sampler.batch()];
            batches.sort_by_key(Vec::len);
            let [few, whole] = batches.map(|batch| {
                let mut counts: BTreeMap<u32, BTreeMap<usize, usize>> = BTreeMap::new();
                for at in batch {
                    *counts.entry(pictures[at].0).or_default().entry(at).or_default() += 1;
                }
                counts
            });
            assert_eq!(whole.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
            assert!(whole.values().all(|of| of.values().eq(&[1; 4])), "{whole:?}");
            assert_eq!(few.keys().copied().collect::<Vec<_>>(), [5, 6]);
            assert!(few[&5].values().eq(&[2, 2]), "each of two comes up twice: {few:?}");
            let mut of_three: Vec<usize> = few[&6].values().copied().collect();
            of_three.sort_unstable();
            assert_eq!(of_three, [1, 1, 2]);
        }
        let all = PkSampler::new(&self::pictures()[..72], SHAPE, 3).unwrap();
        assert_eq!(all.left_out(), [0; 0]);
    }

    #[test]
    fn all_kinds_meet() {
        let pictures = pictures();
        let mut sampler = PkSampler::new(&pictures, SHAPE, 3).unwrap();
        let pairs: BTreeSet<BTreeSet<usize>> =
            (0..100).map(|_| sampler.batch().iter().map(|i| pictures[*i].1).collect()).collect();
        assert_eq!(pairs.len(), 6);
    }

    #[test]
    fn batches_follow_from_the_seed() {
        let run = |seed| {
            let mut sampler = PkSampler::new(&pictures(), SHAPE, seed).unwrap();
            (0..10).flat_map(|_| sampler.batch()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn shapes_that_make_no_batch_are_errors() {
        let of = |shape| PkSampler::new(&[(0, 0), (0, 0), (1, 1)], shape, 0).unwrap_err();
        let one_hand_has_two = of(BatchShape { hands: 2, images: 2, kinds: 2 });
        assert!(matches!(one_hand_has_two, TrainingError::TooFewHands { wanted: 2, got: 1, .. }));
        let uneven = of(BatchShape { hands: 3, images: 1, kinds: 2 });
        assert!(matches!(uneven, TrainingError::Setting { setting: "hands", .. }));
        assert!(PkSampler::new(&[], SHAPE, 0).is_err());
    }
}
