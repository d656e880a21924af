//! What each model says of each pair of pictures, worked out apart from the server: an answer that mixes two models agrees
//! with neither.

use std::path::Path;

use handclip::domain::Embedding;
use handclip::image::{DecodeLimits, decode};
use handclip::model::Embedder;

use crate::support::app::hands;

/// How far a similarity may be from the one worked out here: batches differ in the last digits.
const TOLERANCE: f64 = 2e-4;

pub(super) struct Oracle {
    fingerprint: String,
    hands: Vec<Embedding>,
    prompt: Embedding,
}

impl Oracle {
    pub(super) fn of(model: Option<&Path>, prompt: &str) -> Self {
        let device = handclip::tensor::open("cpu".parse().unwrap()).0;
        let embedder = match model {
            None => Embedder::nano(&device).unwrap(),
            Some(dir) => Embedder::open(dir, &device).unwrap(),
        };
        let pixels: Vec<Vec<f32>> = hands()
            .iter()
            .map(|hand| {
                let picture = decode(&hand.jpeg, &DecodeLimits::default()).unwrap();
                embedder.preprocessing().apply(&picture)
            })
            .collect();
        let embedded = embedder.embed_pixels(&pixels).unwrap();
        let texts = embedder.embed_texts(&[prompt.to_owned()]).unwrap();
        Self {
            fingerprint: embedder.fingerprint().to_string(),
            hands: embedded.into_iter().map(Result::unwrap).collect(),
            prompt: texts.into_iter().next().unwrap().unwrap(),
        }
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn similarity(&self, a: usize, b: usize) -> f64 {
        f64::from(self.hands[a].similarity(&self.hands[b]).unwrap().get())
    }

    fn of_prompt(&self, b: usize) -> f64 {
        f64::from(self.prompt.similarity(&self.hands[b]).unwrap().get())
    }

    /// Whether this model says so of a probe and an enrolled picture.
    pub(super) fn agrees(&self, probe: usize, enrolled: usize, similarity: f64) -> bool {
        (self.similarity(probe, enrolled) - similarity).abs() < TOLERANCE
    }

    pub(super) fn agrees_on_words(&self, enrolled: usize, similarity: f64) -> bool {
        (self.of_prompt(enrolled) - similarity).abs() < TOLERANCE
    }
}

#[test]
fn two_models_say_different_things_of_most_pairs() {
    let dir = tempfile::tempdir().unwrap();
    super::write_variant(dir.path(), 1);
    let words = "a palmar left hand";
    let (a, b) = (Oracle::of(None, words), Oracle::of(Some(dir.path()), words));
    let pairs = (0..hands().len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let (mut differ, mut all) = (0, 0);
    for (i, j) in pairs {
        all += 1;
        differ += usize::from(!b.agrees(i, j, a.similarity(i, j)));
    }
    assert!(differ * 10 > all * 9, "{differ} of {all}: the oracle would not see a mixture");
    let words = (0..hands().len()).filter(|i| !b.agrees_on_words(*i, a.of_prompt(*i))).count();
    assert!(words * 10 > hands().len() * 9, "{words}");
}
