//! Who is trained on and who is tested on.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::domain::{Aspect, Side};
use crate::evaluation::one_a_label;

use super::DatasetError;
use super::read::LabelledImage;

/// How a data set is divided. Subjects are compared as numbers where their ids are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// The published one for 11k Hands: each of the four hands by itself, images without accessories, half
    /// of its subjects by ascending id to train on. The halves differ from hand to hand, so a subject may
    /// be trained on in one and tested on in another: for models of one hand only.
    Published,
    /// The same, with the smallest of the four halves (ids up to 1037) for every hand: for models of all
    /// hands. No subject is on both sides.
    Joint,
    /// Any data set: this share of the subjects, drawn by the seed, to train on.
    Subjects {
        /// Share of the subjects to train on.
        train: f64,
    },
}

/// A hand of 11k Hands as the published splits name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand {
    /// The end of its folder's name.
    pub name: &'static str,
    /// As the published tables name it.
    pub code: &'static str,
    /// Surface shown.
    pub aspect: Aspect,
    /// Hand shown.
    pub side: Side,
    /// Last id of the published training half.
    last_train: u64,
    /// Where its distractors come from, the first offset first.
    distractors: [usize; 3],
}

/// The four hands in the order of the published tables.
pub const HANDS: [Hand; 4] = [
    Hand::new(["dorsal_r", "D-r"], (Aspect::Dorsal, Side::Right), 1050, [1, 2, 3]),
    Hand::new(["dorsal_l", "D-l"], (Aspect::Dorsal, Side::Left), 1037, [0, 2, 3]),
    Hand::new(["palmar_r", "P-r"], (Aspect::Palmar, Side::Right), 1051, [1, 0, 3]),
    Hand::new(["palmar_l", "P-l"], (Aspect::Palmar, Side::Left), 1042, [2, 0, 1]),
];
/// Last id that is in the training half of every hand.
const LAST_TRAIN_OF_ALL: u64 = 1037;
/// Added to the ids of distractors, by where they stand in [`Hand::distractors`].
const OFFSETS: [u64; 3] = [11_000_000, 21_000_000, 31_000_000];
/// The person behind an id of a gallery with distractors.
#[must_use]
pub fn without_offset(id: u64) -> u64 {
    OFFSETS.iter().rev().find_map(|offset| id.checked_sub(*offset)).unwrap_or(id)
}

/// Draws of gallery and query.
pub const RUNS: usize = 10;

impl Hand {
    const fn new(
        [name, code]: [&'static str; 2],
        (aspect, side): (Aspect, Side),
        last_train: u64,
        distractors: [usize; 3],
    ) -> Self {
        Self { name, code, aspect, side, last_train, distractors }
    }

    /// The hand that the published tables (`D-r`) or folders (`dorsal_r`) name so; letters of either case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let same = |hand: &&Self| {
            hand.code.eq_ignore_ascii_case(name) || hand.name.eq_ignore_ascii_case(name)
        };
        HANDS.iter().find(same).copied()
    }

    /// Whether an image shows this kind of hand.
    #[must_use]
    pub fn is_of(&self, image: &LabelledImage) -> bool {
        let attributes = &image.attributes;
        attributes.aspect == Some(self.aspect) && attributes.side == Some(self.side)
    }
}

/// One draw: one image of every subject of the test half enrolled, the others asked about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Indices enrolled.
    pub gallery: Vec<usize>,
    /// Indices asked about.
    pub query: Vec<usize>,
    /// Indices enrolled besides, under ids that no query has.
    pub distractors: Vec<(usize, u64)>,
}

/// A data set divided. Indices are into the images that were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// `dorsal_r` and its like; `all` where hands are not told apart.
    pub name: String,
    /// Trained on.
    pub train: Vec<usize>,
    /// One image of every subject trained on, kept out of `train`.
    pub val: Vec<usize>,
    /// Tested on.
    pub test: Vec<usize>,
    /// Draws from `test`.
    pub runs: Vec<Run>,
}

/// Divides `images` by `protocol`.
///
/// # Errors
/// [`DatasetError::NotANumber`] for an id that the published protocols cannot compare;
/// [`DatasetError::TooFew`] when a side is left with no subject.
pub fn split(
    images: &[LabelledImage],
    protocol: Protocol,
    seed: u64,
) -> Result<Vec<Split>, DatasetError> {
    let splits = match protocol {
        Protocol::Published => by_hand(images, |hand| hand.last_train, seed)?,
        Protocol::Joint => by_hand(images, |_| LAST_TRAIN_OF_ALL, seed)?,
        Protocol::Subjects { train } => vec![by_share(images, train, seed)?],
    };
    match splits.iter().find(|split| split.train.is_empty() || split.test.is_empty()) {
        Some(split) => Err(DatasetError::TooFew(split.name.clone())),
        None => Ok(splits),
    }
}

fn by_hand(
    images: &[LabelledImage],
    last_train: impl Fn(&Hand) -> u64,
    seed: u64,
) -> Result<Vec<Split>, DatasetError> {
    let ids: Vec<u64> = images.iter().map(number).collect::<Result<_, _>>()?;
    let mut splits: Vec<Split> = Vec::with_capacity(HANDS.len());
    for (at, hand) in (0_u64..).zip(&HANDS) {
        let of_hand = |index: &usize| {
            let image = &images[*index];
            hand.is_of(image) && image.attributes.accessories == Some(false)
        };
        let (train, test): (Vec<usize>, Vec<usize>) =
            (0..images.len()).filter(of_hand).partition(|index| ids[*index] <= last_train(hand));
        splits.push(drawn(hand.name, &ids, &train, test, seed.wrapping_add(at << 32)));
    }
    let galleries: Vec<Vec<Vec<usize>>> = splits
        .iter()
        .map(|split| split.runs.iter().map(|run| run.gallery.clone()).collect())
        .collect();
    for (split, hand) in splits.iter_mut().zip(&HANDS) {
        for (number, run) in split.runs.iter_mut().enumerate() {
            for (other, offset) in hand.distractors.iter().zip(OFFSETS) {
                let of_other = &galleries[*other][number];
                run.distractors.extend(of_other.iter().map(|index| (*index, ids[*index] + offset)));
            }
        }
    }
    Ok(splits)
}

fn by_share(images: &[LabelledImage], share: f64, seed: u64) -> Result<Split, DatasetError> {
    if !(share > 0.0 && share < 1.0) {
        return Err(DatasetError::Share(share));
    }
    let names: BTreeSet<String> = images.iter().map(LabelledImage::key).collect();
    let numbers: BTreeMap<&String, u64> = names.iter().zip(0..).collect();
    let ids: Vec<u64> = images.iter().map(|image| numbers[&image.key()]).collect();
    let mut order: Vec<u64> = (0..names.len() as u64).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let trained: BTreeSet<u64> =
        order[..(names.len() as f64 * share).round() as usize].iter().copied().collect();
    let (train, test): (Vec<usize>, Vec<usize>) =
        (0..images.len()).partition(|index| trained.contains(&ids[*index]));
    Ok(drawn("all", &ids, &train, test, seed))
}

/// Keeps one image a subject of `train` out, and draws gallery and query from `test`.
fn drawn(name: &str, ids: &[u64], train: &[usize], test: Vec<usize>, seed: u64) -> Split {
    let draw = |of: &[usize], seed: u64| {
        let labels: Vec<u64> = of.iter().map(|index| ids[*index]).collect();
        let draw = one_a_label(&labels, seed);
        let back = |at: Vec<usize>| at.into_iter().map(|at| of[at]).collect::<Vec<usize>>();
        (back(draw.gallery), back(draw.query))
    };
    let (val, train) = draw(train, seed);
    let runs = (1..=RUNS as u64)
        .map(|run| {
            let (gallery, query) = draw(&test, seed.wrapping_add(run));
            Run { gallery, query, distractors: Vec::new() }
        })
        .collect();
    Split { name: name.to_owned(), train, val, test, runs }
}

fn number(image: &LabelledImage) -> Result<u64, DatasetError> {
    let text = image.subject.as_str();
    text.parse().map_err(|_| DatasetError::NotANumber(text.to_owned()))
}

/// Subjects that one split trains on and the same or another one tests on, each with the two splits'
/// names.
#[must_use]
pub fn leaks(images: &[LabelledImage], splits: &[Split]) -> BTreeMap<String, (String, String)> {
    let subjects = |indices: &[usize]| -> BTreeSet<String> {
        indices.iter().map(|index| images[*index].key()).collect()
    };
    let mut leaks = BTreeMap::new();
    for trained in splits {
        let known: BTreeSet<String> = &subjects(&trained.train) | &subjects(&trained.val);
        for tested in splits {
            for subject in known.intersection(&subjects(&tested.test)) {
                let names = (trained.name.clone(), tested.name.clone());
                leaks.entry(subject.clone()).or_insert(names);
            }
        }
    }
    leaks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{HandAttributes, SubjectId};

    fn image(id: &str, at: usize, hand: &Hand, accessories: bool) -> LabelledImage {
        LabelledImage {
            path: format!("Hands/{id}_{}_{at}.jpg", hand.name).into(),
            subject: SubjectId::new(id).unwrap(),
            attributes: HandAttributes {
                aspect: Some(hand.aspect),
                side: Some(hand.side),
                accessories: Some(accessories),
                ..HandAttributes::default()
            },
        }
    }

    /// Subjects on both sides of every limit, three images of each hand, one more with a ring.
    fn images() -> Vec<LabelledImage> {
        let ids = ["0000007", "1037", "01038", "1050", "1051", "1052", "2000"];
        let mut images = Vec::new();
        for id in ids {
            for hand in &HANDS {
                images.extend((0..4).map(|at| image(id, at, hand, at == 3)));
            }
        }
        images
    }

    #[test]
    fn the_published_halves_are_by_number_and_without_accessories() {
        let images = images();
        let splits = split(&images, Protocol::Published, 1).unwrap();
        let subjects: Vec<(usize, usize)> =
            splits.iter().map(|split| (split.val.len(), split.runs[0].gallery.len())).collect();
        assert_eq!(subjects, [(4, 3), (2, 5), (5, 2), (3, 4)]);
        for split in &splits {
            assert_eq!(split.train.len(), 2 * split.val.len());
            let run = &split.runs[0];
            assert_eq!(run.query.len() + run.gallery.len(), split.test.len());
            let everything = split.train.iter().chain(&split.val).chain(&split.test);
            assert!(everything.clone().all(|i| images[*i].attributes.accessories == Some(false)));
            let once: BTreeSet<&usize> = everything.clone().collect();
            assert_eq!(once.len(), everything.count(), "an image on two sides");
        }
        let first = &splits[0].runs[0];
        assert_eq!(first.distractors.len(), 5 + 2 + 4);
        let (index, id) = first.distractors[0];
        assert_eq!(images[index].attributes.side, Some(Side::Left));
        assert_eq!(id, 11_000_000 + number(&images[index]).unwrap());
        assert_ne!(splits[0].runs[0], splits[0].runs[1], "runs are drawn anew");
    }

    #[test]
    fn subjects_trained_on_in_one_hand_and_tested_on_in_another_are_found() {
        let images = images();
        let published = split(&images, Protocol::Published, 1).unwrap();
        let found: Vec<String> = leaks(&images, &published).into_keys().collect();
        assert_eq!(found, ["1038", "1050", "1051"]);
        let joint = split(&images, Protocol::Joint, 1).unwrap();
        assert!(leaks(&images, &joint).is_empty());
        let mut bad = joint;
        let moved = bad[3].test[0];
        bad[0].train.push(moved);
        assert_eq!(leaks(&images, &bad).len(), 1);
    }

    #[test]
    fn a_share_of_the_subjects_is_drawn_by_the_seed() {
        let images = images();
        let halves = |seed| split(&images, Protocol::Subjects { train: 0.5 }, seed).unwrap();
        assert_eq!(halves(3), halves(3));
        assert_ne!(halves(3), halves(4));
        assert!(leaks(&images, &halves(3)).is_empty());
        assert_eq!(halves(3)[0].val.len(), 4);
        for share in [0.0, 1.0, f64::NAN] {
            let refused = split(&images, Protocol::Subjects { train: share }, 1);
            assert!(matches!(refused, Err(DatasetError::Share(_))));
        }
        let refused = split(&images[..4], Protocol::Subjects { train: 0.5 }, 1);
        assert!(matches!(refused, Err(DatasetError::TooFew(_))));
    }

    #[test]
    fn the_published_protocols_need_numbers() {
        let mut images = images();
        images[0].subject = SubjectId::new("ann").unwrap();
        let refused = split(&images, Protocol::Published, 1);
        assert!(matches!(refused, Err(DatasetError::NotANumber(id)) if id == "ann"));
    }
}
