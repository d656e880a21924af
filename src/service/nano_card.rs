//! Figures of a model on hands it never saw: generated people, and photographs where there are some.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{self, DatasetError, LabelledImage};
use crate::domain::{Aspect, Embedding, Side};
use crate::evaluation::{RankFigures, one_a_label, rank_figures};
use crate::image::{DecodeLimits, ImageError, Picture, decode};
use crate::model::{Embedder, ModelError};
use crate::synth::{HANDS, SynthSpec};

/// Names the population that the card's figures are taken on. Training and validation draw their people
/// from populations of other names.
pub const CARD_SEED: u64 = 0xca4d;
/// Side of the generated pictures, pixels: larger than the model's input, as what callers send.
const PICTURE: u32 = 224;
/// Pictures prepared at a time; bounds the memory.
const CHUNK: usize = 64;
/// Draws of gallery and query that a figure is the mean of.
const DRAWS: u64 = 10;

/// Why no figures could be taken.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The model refused a picture or a prompt.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A picture was refused.
    #[error("cannot use {path}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// A generated picture was refused.
    #[error("a generated picture was refused")]
    Generated(#[source] ImageError),
    /// A file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder is no data set.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// What is known of a scored picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The person, as a number.
    pub subject: u32,
    /// Surface and hand shown, where both are known.
    pub kind: Option<(Aspect, Side)>,
    /// Whether jewellery is worn, where that is known.
    pub accessories: Option<bool>,
}

/// Identification within one kind of hand: one picture of each subject enrolled, the rest asked about; mean of
/// ten draws. Pictures of which aspect or side is not known are a kind of their own. Shares, not percentages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HandFigures {
    /// Surface; `None` for the kind that is not known.
    pub aspect: Option<Aspect>,
    /// Hand; `None` for the kind that is not known.
    pub side: Option<Side>,
    /// Subjects in the gallery.
    pub subjects: usize,
    /// Pictures asked about in a draw.
    pub probes: usize,
    /// Share of probes whose first candidate is right.
    pub rank1: f64,
    /// Its standard deviation over the draws.
    pub rank1_sd: f64,
    /// Mean average precision, standard.
    pub map: f64,
    /// Its standard deviation over the draws.
    pub map_sd: f64,
}

/// Figures on people that training never saw. Shares, not percentages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// People.
    pub subjects: usize,
    /// Pictures.
    pub images: usize,
    /// Mean of the kinds of hand that somebody asks about.
    pub rank1: f64,
    /// Mean of the kinds of hand that somebody asks about.
    pub map: f64,
    /// Share of pictures whose most similar of four prompts names their aspect and side; `None` where neither
    /// is known of any.
    pub aspect_side: Option<f64>,
    /// Share of pictures whose more similar of two prompts says rightly whether accessories are worn; `None`
    /// where that is known of none.
    pub accessories: Option<f64>,
    /// Share of pictures that wear none: what always saying so would score.
    pub without_accessories: Option<f64>,
    /// Each of the four kinds of hand, and the one that is not known where there are such pictures.
    pub hands: Vec<HandFigures>,
}

impl HandFigures {
    /// The kind in words.
    pub(super) fn name(&self) -> String {
        self.aspect
            .zip(self.side)
            .map_or_else(|| "not known".to_owned(), |(aspect, side)| format!("{aspect} {side}"))
    }
}

/// The prompt for one kind of hand that the figures are taken with.
#[must_use]
pub fn hand_prompt(aspect: Aspect, side: Side) -> String {
    format!("a photo of a {aspect} {side} hand")
}

/// The prompts for accessories, without and with.
pub const ACCESSORY_PROMPTS: [&str; 2] =
    ["a photo of a hand without accessories", "a photo of a hand with accessories"];

/// Scores a model on `subjects` generated people, `images` pictures of each of their four hands, drawn at
/// 224 px and preprocessed like any upload.
///
/// # Errors
/// [`CardError`].
pub fn score_generated(
    embedder: &Embedder,
    subjects: u64,
    images: u64,
) -> Result<Figures, CardError> {
    let spec = SynthSpec { first: 0, subjects, images, seed: CARD_SEED, size: PICTURE };
    let (mut labels, mut embeddings) = (Vec::new(), Vec::new());
    for start in (0..spec.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(spec.len());
        let drawn: Vec<(Label, Vec<f32>)> = (start..end)
            .into_par_iter()
            .map(|index| {
                let sample = spec.sample(index);
                let drawn = sample.render(spec.size);
                let picture = Picture::from_rgb(drawn.width, drawn.height, drawn.rgb)?;
                let label = Label {
                    subject: sample.subject as u32,
                    kind: Some((sample.shot.aspect, sample.shot.side)),
                    accessories: Some(sample.shot.accessories()),
                };
                Ok((label, embedder.preprocessing().apply(&picture)))
            })
            .collect::<Result<_, ImageError>>()
            .map_err(CardError::Generated)?;
        let (chunk, pixels): (Vec<Label>, Vec<Vec<f32>>) = drawn.into_iter().unzip();
        labels.extend(chunk);
        embeddings.extend(embed(embedder, &pixels)?);
    }
    score(embedder, &labels, &embeddings)
}

/// Scores a model on photographs laid out as 11k Hands (`HandInfo.csv` and `Hands/`), by that data's
/// protocol: pictures without accessories only when `bare`, all otherwise.
///
/// # Errors
/// [`CardError`].
pub fn score_photographs(
    embedder: &Embedder,
    folder: &Path,
    bare: bool,
) -> Result<Figures, CardError> {
    let mut images = dataset::read_to_test(folder)?.images;
    images.retain(|image| !(bare && image.attributes.accessories == Some(true)));
    let listed: Vec<(Label, PathBuf)> = Label::of_all(&images)
        .into_iter()
        .zip(images.into_iter().map(|image| image.path))
        .collect();
    let (mut labels, mut embeddings) = (Vec::new(), Vec::new());
    for chunk in listed.chunks(CHUNK) {
        let pixels: Vec<Vec<f32>> = chunk
            .par_iter()
            .map(|(_, path)| {
                let bytes = std::fs::read(path)
                    .map_err(|source| CardError::Read { path: path.clone(), source })?;
                let picture = decode(&bytes, &DecodeLimits::default())
                    .map_err(|source| CardError::Picture { path: path.clone(), source })?;
                Ok(embedder.preprocessing().apply(&picture))
            })
            .collect::<Result<_, CardError>>()?;
        labels.extend(chunk.iter().map(|(label, _)| *label));
        embeddings.extend(embed(embedder, &pixels)?);
    }
    score(embedder, &labels, &embeddings)
}

impl Label {
    /// One for each image. Whatever ids are, subjects get numbers in the order of theirs, as an evaluation gives
    /// them: the draws are the same.
    pub(super) fn of_all<'a>(images: impl IntoIterator<Item = &'a LabelledImage>) -> Vec<Self> {
        let keyed: Vec<((usize, String), &LabelledImage)> = images
            .into_iter()
            .map(|image| (image.key(), image))
            .map(|(key, image)| ((key.len(), key), image))
            .collect();
        let keys: BTreeSet<&(usize, String)> = keyed.iter().map(|(key, _)| key).collect();
        let numbers: BTreeMap<_, u32> = keys.into_iter().zip(0..).collect();
        let label = |(key, image): &((usize, String), &LabelledImage)| Self {
            subject: numbers[key],
            kind: image.attributes.aspect.zip(image.attributes.side),
            accessories: image.attributes.accessories,
        };
        keyed.iter().map(label).collect()
    }
}

/// Whether a search among pictures with these labels can be right, and wrong: somebody has two pictures of one
/// kind of hand, and somebody else has one.
pub(super) fn can_be_scored(labels: &[Label]) -> bool {
    let mut counts: BTreeMap<Option<(Aspect, Side)>, BTreeMap<u32, usize>> = BTreeMap::new();
    for label in labels {
        *counts.entry(label.kind).or_default().entry(label.subject).or_default() += 1;
    }
    counts.values().any(|subjects| subjects.len() > 1 && subjects.values().any(|count| *count > 1))
}

/// Embeds preprocessed pictures; one that is refused is an error.
pub(super) fn embed(
    embedder: &Embedder,
    pixels: &[Vec<f32>],
) -> Result<Vec<Embedding>, ModelError> {
    embedder.embed_pixels(pixels)?.into_iter().collect()
}

/// Works out the figures from the embeddings of labelled pictures.
pub(super) fn score(
    embedder: &Embedder,
    labels: &[Label],
    embeddings: &[Embedding],
) -> Result<Figures, CardError> {
    let prompts = |texts: &[String]| -> Result<Vec<Embedding>, ModelError> {
        embedder.embed_texts(texts)?.into_iter().collect()
    };
    let kinds = prompts(&HANDS.map(|(aspect, side)| hand_prompt(aspect, side)))?;
    let worn = prompts(&ACCESSORY_PROMPTS.map(str::to_owned))?;
    Ok(figures(labels, embeddings, &kinds, &worn))
}

fn figures(
    labels: &[Label],
    embeddings: &[Embedding],
    kinds: &[Embedding],
    worn: &[Embedding],
) -> Figures {
    let both = || labels.iter().zip(embeddings);
    let unknown = labels.iter().any(|label| label.kind.is_none()).then_some(None);
    let hands: Vec<HandFigures> = HANDS
        .into_iter()
        .map(Some)
        .chain(unknown)
        .map(|kind| identification(labels, embeddings, kind))
        .collect();
    // A kind that nobody asks about is neither found nor missed.
    let asked = hands.iter().filter(|hand| hand.probes > 0).count().max(1) as f64;
    let mean = |of: fn(&HandFigures) -> f64| {
        hands.iter().filter(|hand| hand.probes > 0).map(of).sum::<f64>() / asked
    };
    Figures {
        subjects: labels.iter().map(|l| (l.subject, ())).collect::<BTreeMap<_, _>>().len(),
        images: labels.len(),
        rank1: mean(|f| f.rank1),
        map: mean(|f| f.map),
        aspect_side: share(both().filter_map(|(l, e)| Some(HANDS[nearest(e, kinds)] == l.kind?))),
        accessories: share(
            both().filter_map(|(l, e)| Some((nearest(e, worn) == 1) == l.accessories?)),
        ),
        without_accessories: share(labels.iter().filter_map(|l| Some(!l.accessories?))),
        hands,
    }
}

/// Of those that are known; `None` where nothing is.
fn share(known: impl Iterator<Item = bool>) -> Option<f64> {
    let known: Vec<bool> = known.collect();
    let right = known.iter().filter(|right| **right).count();
    (!known.is_empty()).then(|| right as f64 / known.len() as f64)
}

fn identification(
    labels: &[Label],
    embeddings: &[Embedding],
    kind: Option<(Aspect, Side)>,
) -> HandFigures {
    let members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i].kind == kind).collect();
    let subjects: Vec<u32> = members.iter().map(|i| labels[*i].subject).collect();
    let pick = |of: &[usize]| -> Vec<(&[f32], u32)> {
        of.iter().map(|i| (embeddings[members[*i]].as_slice(), subjects[*i])).collect()
    };
    let mut enrolled = 0;
    let draws: Vec<RankFigures> = (0..DRAWS)
        .map(|seed| {
            let draw = one_a_label(&subjects, seed);
            enrolled = draw.gallery.len();
            rank_figures(&pick(&draw.query), &pick(&draw.gallery))
        })
        .collect();
    let mean = |of: fn(&RankFigures) -> f64| draws.iter().map(of).sum::<f64>() / DRAWS as f64;
    let deviation = |of: fn(&RankFigures) -> f64| {
        let squares = draws.iter().map(|draw| (of(draw) - mean(of)).powi(2)).sum::<f64>();
        (squares / (DRAWS - 1) as f64).sqrt()
    };
    HandFigures {
        aspect: kind.map(|(aspect, _)| aspect),
        side: kind.map(|(_, side)| side),
        subjects: enrolled,
        probes: draws.first().map_or(0, |draw| draw.probes),
        rank1: mean(|f| f.rank1),
        rank1_sd: deviation(|f| f.rank1),
        map: mean(|f| f.map),
        map_sd: deviation(|f| f.map),
    }
}

/// Index of the most similar candidate; the first of equals.
fn nearest(embedding: &Embedding, candidates: &[Embedding]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, candidate) in candidates.iter().enumerate() {
        let pairs = embedding.as_slice().iter().zip(candidate.as_slice());
        let similarity: f32 = pairs.map(|(a, b)| a * b).sum();
        if similarity > best.1 {
            best = (index, similarity);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{HandAttributes, SubjectId};

    fn unit(values: &[f32]) -> Embedding {
        Embedding::from_raw(values.to_vec()).unwrap()
    }

    #[test]
    fn figures_equal_those_worked_by_hand() {
        let label = |subject, accessories| Label {
            subject,
            kind: Some((Aspect::Palmar, Side::Left)),
            accessories: Some(accessories),
        };
        // Two subjects whose pictures lie together: whatever is enrolled, Rank-1 is 1.
        let labels = [label(7, false), label(7, true), label(9, false), label(9, false)];
        let embeddings =
            [[1.0, 0.0, 0.1], [1.0, 0.1, 0.1], [0.0, 1.0, 0.1], [0.1, 1.0, -0.1]].map(|e| unit(&e));
        // Prompts in the order of HANDS: palmar left is the last.
        let kinds = [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]];
        // "With accessories" lies along y: of the four only the first picture is told rightly.
        let worn = [unit(&[1.0, 0.0, 0.0]), unit(&[0.0, 1.0, 0.0])];
        let got = figures(&labels, &embeddings, &kinds.map(|k| unit(&k)), &worn);
        assert_eq!((got.subjects, got.images), (2, 4));
        assert_eq!((got.hands[3].rank1, got.hands[3].map), (1.0, 1.0));
        assert_eq!((got.hands[3].rank1_sd, got.hands[3].map_sd), (0.0, 0.0));
        assert_eq!((got.hands[3].subjects, got.hands[3].probes), (2, 2));
        assert_eq!((got.hands[0].subjects, got.hands[0].rank1), (0, 0.0));
        assert_eq!(
            (got.rank1, got.map),
            (1.0, 1.0),
            "three of the four are empty and do not count"
        );
        assert_eq!(got.aspect_side, Some(1.0));
        assert_eq!(got.accessories, Some(0.25));
        assert_eq!(got.without_accessories, Some(0.75));
        assert_eq!(got.hands.len(), 4, "of every picture the kind is known");
    }

    #[test]
    fn hands_of_which_nothing_is_known_are_a_kind_of_their_own() {
        let label = |subject| Label { subject, kind: None, accessories: None };
        let labels = [label(0), label(0), label(1), label(1)];
        let embeddings = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]].map(|e| unit(&e));
        let prompts = [unit(&[1.0, 0.0]), unit(&[0.0, 1.0])];
        let got = figures(&labels, &embeddings, &prompts, &prompts);
        assert_eq!((got.rank1, got.map), (1.0, 1.0));
        assert_eq!((got.aspect_side, got.accessories, got.without_accessories), (None, None, None));
        let hand = got.hands[4];
        assert_eq!((hand.aspect, hand.side, hand.subjects, hand.probes), (None, None, 2, 2));
        assert_eq!(
            (hand.name().as_str(), got.hands[3].name().as_str()),
            ("not known", "palmar left")
        );
    }

    #[test]
    fn a_search_that_cannot_be_right_or_cannot_be_wrong_is_no_score() {
        let label = |(subject, kind)| Label { subject, kind, accessories: None };
        let can = |of: &[(u32, Option<(Aspect, Side)>)]| {
            can_be_scored(&of.iter().copied().map(label).collect::<Vec<_>>())
        };
        let right = Some((Aspect::Dorsal, Side::Right));
        assert!(can(&[(0, None), (0, None), (1, None)]));
        assert!(!can(&[]));
        assert!(!can(&[(0, None), (1, None)]), "nobody can be found");
        assert!(!can(&[(0, None), (0, None)]), "nobody can be taken for somebody else");
        assert!(!can(&[(0, right), (0, None), (1, right), (1, None)]), "of different kinds");
        assert!(can(&[(0, right), (1, None), (1, right), (1, right)]));
    }

    #[test]
    fn subjects_are_numbered_whatever_their_ids_and_what_is_not_known_is_none() {
        let image = |id: &str, side| LabelledImage {
            path: "Hands/Hand_0000002.jpg".into(),
            subject: SubjectId::new(id).unwrap(),
            attributes: HandAttributes {
                aspect: Some(Aspect::Palmar),
                side,
                accessories: Some(true),
                ..HandAttributes::default()
            },
        };
        let left = Some(Side::Left);
        let images = [("ann", left), ("0000042", left), ("9", left), ("42", left), ("ann", None)];
        let labels = Label::of_all(&images.map(|(id, side)| image(id, side)));
        let want =
            Label { subject: 1, kind: Some((Aspect::Palmar, Side::Left)), accessories: Some(true) };
        assert_eq!(labels[1], want);
        // Ids with leading zeros are the same person; numbers keep their order.
        assert_eq!(labels.iter().map(|l| l.subject).collect::<Vec<_>>(), [2, 1, 0, 1, 2]);
        assert_eq!(labels[4], Label { subject: 2, kind: None, ..want });
    }
}
