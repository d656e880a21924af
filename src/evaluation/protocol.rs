use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::EvaluationError;

/// A sample that takes part in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Its row among the embeddings.
    pub row: usize,
    /// Whose it is. Distractors come with labels that no probe has, so the caller adds their offsets.
    pub label: u64,
}

/// Who is enrolled and who asks. A probe without a mate in the gallery counts as such.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    /// Enrolled, in the order that decides ties.
    pub gallery: Vec<Entry>,
    /// Asked about.
    pub probes: Vec<Entry>,
}

/// One split of samples into gallery and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Indices enrolled, by ascending label.
    pub gallery: Vec<usize>,
    /// Indices asked about, in order.
    pub query: Vec<usize>,
}

/// The protocol of 11k Hands: one random sample of every label in the gallery, the rest asked about.
/// Labels are compared as numbers.
#[must_use]
pub fn one_a_label<L: Ord + Copy>(labels: &[L], seed: u64) -> Draw {
    let everything: Vec<usize> = (0..labels.len()).collect();
    let gallery = some_a_label(labels, &everything, 1, seed);
    let mut enrolled = vec![false; labels.len()];
    gallery.iter().for_each(|index| enrolled[*index] = true);
    let query = (0..labels.len()).filter(|index| !enrolled[*index]).collect();
    Draw { gallery, query }
}

/// Seeded draws of gallery and probes from labelled samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonteCarlo {
    /// Draws.
    pub runs: usize,
    /// Samples of every label that are enrolled; all it has where it has fewer.
    pub samples: usize,
    /// Run r draws with `seed + r`.
    pub seed: u64,
}

impl Default for MonteCarlo {
    /// The published protocol's: ten draws of one sample a label.
    fn default() -> Self {
        Self { runs: 10, samples: 1, seed: 0 }
    }
}

impl MonteCarlo {
    /// Draws from one flat set: `samples` of every label enrolled, the rest asked about. Row i has label
    /// `labels[i]`. With one sample a label, run r is [`one_a_label`] with `seed + r`.
    #[must_use]
    pub fn within(&self, labels: &[u64]) -> Vec<Session> {
        let everything: Vec<usize> = (0..labels.len()).collect();
        self.across(labels, &everything, &everything)
    }

    /// Draws from two groups of rows, as of another aspect or another data set: `samples` of every label
    /// of `gallery` enrolled, and all of `probes` asked about that are not enrolled.
    #[must_use]
    pub fn across(&self, labels: &[u64], gallery: &[usize], probes: &[usize]) -> Vec<Session> {
        self.seeds().map(|seed| self.session(labels, gallery, probes, seed)).collect()
    }

    /// Open-set draws from one flat set: `share` of the labels, rounded up and drawn anew in each run, is
    /// not enrolled, and all of its samples ask as strangers; the others are as in [`Self::within`].
    ///
    /// # Errors
    /// [`EvaluationError::Share`] unless the share lies between 0 and 1, neither included.
    pub fn open_set(&self, labels: &[u64], share: f64) -> Result<Vec<Session>, EvaluationError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(EvaluationError::Share(share));
        }
        let subjects: Vec<u64> =
            labels.iter().copied().collect::<BTreeSet<u64>>().into_iter().collect();
        let everything: Vec<usize> = (0..labels.len()).collect();
        Ok(self
            .seeds()
            .map(|seed| {
                let mut order = subjects.clone();
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                // A stream of its own, so that who is left out does not decide which samples are drawn.
                rng.set_stream(1);
                order.shuffle(&mut rng);
                let out = (order.len() as f64 * share).ceil() as usize;
                let strangers: BTreeSet<u64> = order[..out].iter().copied().collect();
                let known: Vec<usize> =
                    (0..labels.len()).filter(|row| !strangers.contains(&labels[*row])).collect();
                self.session(labels, &known, &everything, seed)
            })
            .collect())
    }

    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let seed = self.seed;
        (0..self.runs as u64).map(move |run| seed.wrapping_add(run))
    }

    fn session(&self, labels: &[u64], gallery: &[usize], probes: &[usize], seed: u64) -> Session {
        let enrolled = some_a_label(labels, gallery, self.samples, seed);
        let known: BTreeSet<usize> = enrolled.iter().copied().collect();
        let entry = |row: usize| Entry { row, label: labels[row] };
        Session {
            gallery: enrolled.into_iter().map(entry).collect(),
            probes: probes
                .iter()
                .filter(|row| !known.contains(row))
                .map(|row| entry(*row))
                .collect(),
        }
    }
}

/// `samples` random rows of every label among `of`, by ascending label.
fn some_a_label<L: Ord + Copy>(
    labels: &[L],
    of: &[usize],
    samples: usize,
    seed: u64,
) -> Vec<usize> {
    let mut by_label: BTreeMap<L, Vec<usize>> = BTreeMap::new();
    for row in of {
        by_label.entry(labels[*row]).or_default().push(*row);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = Vec::new();
    for mut rows in by_label.into_values() {
        for at in 0..samples.min(rows.len()) {
            let other = rng.random_range(at..rows.len());
            rows.swap(at, other);
            drawn.push(rows[at]);
        }
    }
    drawn
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_enrolled_once_and_the_rest_is_asked_about() {
        let labels = [7, 7, 7, 3, 3, 1];
        let draw = one_a_label(&labels, 4);
        let enrolled: Vec<u32> = draw.gallery.iter().map(|i| labels[*i]).collect();
        assert_eq!(enrolled, [1, 3, 7]);
        assert_eq!(draw.query.len(), 3);
        assert!(draw.query.iter().all(|i| !draw.gallery.contains(i)));
    }

    #[test]
    fn draws_differ_by_seed_and_repeat_by_seed() {
        let labels: Vec<u32> = (0..200).map(|i| i / 10).collect();
        assert_eq!(one_a_label(&labels, 1), one_a_label(&labels, 1));
        assert_ne!(one_a_label(&labels, 1), one_a_label(&labels, 2));
    }

    fn rows(entries: &[Entry]) -> Vec<usize> {
        entries.iter().map(|entry| entry.row).collect()
    }

    #[test]
    fn one_sample_a_label_is_the_published_draw() {
        let labels: Vec<u64> = (0..60).map(|i| i % 7).collect();
        let draws = MonteCarlo { runs: 3, samples: 1, seed: 5 };
        for (session, seed) in draws.within(&labels).iter().zip(5..) {
            let draw = one_a_label(&labels, seed);
            assert_eq!((rows(&session.gallery), rows(&session.probes)), (draw.gallery, draw.query));
            assert!(session.probes.iter().all(|entry| entry.label == labels[entry.row]));
        }
    }

    #[test]
    fn several_samples_a_label_are_enrolled_where_there_are_so_many() {
        let labels = [4, 4, 4, 4, 9];
        let session = &MonteCarlo { runs: 1, samples: 3, seed: 2 }.within(&labels)[0];
        let enrolled: Vec<u64> = session.gallery.iter().map(|entry| entry.label).collect();
        assert_eq!(enrolled, [4, 4, 4, 9]);
        let mut everything = [rows(&session.gallery), rows(&session.probes)].concat();
        everything.sort_unstable();
        assert_eq!(everything, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn across_groups_the_gallery_is_drawn_from_one_and_the_other_asks() {
        let labels = [1, 1, 2, 2, 1, 2, 3];
        let session = &MonteCarlo { runs: 1, ..MonteCarlo::default() }.across(
            &labels,
            &[0, 1, 2, 3],
            &[4, 5, 6],
        )[0];
        assert_eq!(session.gallery.iter().map(|e| e.label).collect::<Vec<_>>(), [1, 2]);
        assert!(session.gallery.iter().all(|entry| entry.row < 4));
        assert_eq!(rows(&session.probes), [4, 5, 6]);
    }

    #[test]
    fn strangers_are_not_enrolled_and_all_their_samples_ask() {
        let labels: Vec<u64> = (0..50).map(|i| i / 5).collect();
        let draws = MonteCarlo { runs: 4, samples: 1, seed: 0 };
        let sessions = draws.open_set(&labels, 0.25).unwrap();
        for session in &sessions {
            let known: BTreeSet<u64> = session.gallery.iter().map(|entry| entry.label).collect();
            assert_eq!(known.len(), 7, "a quarter of ten, rounded up, is left out");
            let strange = session.probes.iter().filter(|entry| !known.contains(&entry.label));
            assert_eq!(strange.count(), 15);
            assert_eq!(session.probes.len(), 43);
        }
        assert_ne!(sessions[0], sessions[1]);
        assert_eq!(sessions, draws.open_set(&labels, 0.25).unwrap());
        for share in [0.0, 1.0, f64::NAN] {
            assert!(matches!(draws.open_set(&labels, share), Err(EvaluationError::Share(_))));
        }
    }
}
