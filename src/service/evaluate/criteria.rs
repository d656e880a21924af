//! What the gate judges, measured on both models: misses in searches, words, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::domain::{Aspect, HandAttributes, Side};
use crate::evaluation::{OpenSet, Paired, ProbeValue, Ranking, claim_fpir};
use crate::model::Embedder;
use crate::service::nano_card::hand_prompt;

use super::asked::{STRANGERS, open_set};
use super::compare::CompareRequest;
use super::embed::{Embedded, pixels};
use super::figures::Measure;
use super::plan::Plan;
use super::{EvaluateError, EvaluateOptions, Protocol, SystemChoice};

/// Pictures that are embedded one by one to compare the time that takes.
const TIMED: usize = 40;

/// What is known of a criterion before it is judged.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Measured {
    /// The challenger is `a`, the champion `b`.
    Paired(Paired),
    /// It cannot be told, which is no pass.
    Unknown(String),
    /// It does not apply to this data.
    LeftOut(String),
}

/// The two sides of a contest, the champion first.
pub(super) struct Sides<'a> {
    pub(super) plan: &'a Plan,
    pub(super) request: &'a CompareRequest,
    pub(super) embedded: [&'a Embedded; 2],
}

/// Misses at each model's own threshold for the same rate of false positives, over the probes that either could search:
/// what one lost is its miss.
pub(super) fn fnir(
    sides: &Sides<'_>,
    measure: &Measure<'_>,
    target: f64,
) -> Result<Measured, EvaluateError> {
    let plan = sides.plan;
    if plan.protocol == Protocol::CrossAspect {
        let reason = "across aspects there are no searches for people who are not enrolled";
        return Ok(Measured::Unknown(reason.to_owned()));
    }
    let mut searched: [Vec<Ranking>; 2] = [Vec::new(), Vec::new()];
    for (embedded, rankings) in sides.embedded.iter().zip(&mut searched) {
        let captures = plan.captures.as_ref().map(|captures| embedded.by_row(captures));
        for set in &plan.sets {
            let searches = open_set(set, embedded, &sides.request.selection, captures.as_deref())?;
            rankings.extend(searches.rankings);
        }
    }
    let files = sides.embedded.map(Embedded::files);
    let asked = |side: usize, ranking: &Ranking| -> BTreeMap<usize, u64> {
        let file = |row: usize| files[side].get(row).copied().unwrap_or(row);
        ranking.outcomes.iter().map(|outcome| (file(outcome.row), outcome.label)).collect()
    };
    let mut lost: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
    for (champion, challenger) in searched[0].iter().zip(&searched[1]) {
        let asked = [asked(0, champion), asked(1, challenger)];
        for (side, other) in [(0, 1), (1, 0)] {
            let only = asked[other].iter().filter(|(file, _)| !asked[side].contains_key(file));
            lost[side].extend(only.map(|(_, label)| *label));
        }
    }
    let person = |label: u64| plan.people.get(label as usize).copied().unwrap_or(label);
    let of = |side: usize| OpenSet::of(&searched[side], &lost[side], person);
    let (Ok(champion), Ok(challenger)) = (of(0), of(1)) else {
        let share = (100.0 * STRANGERS).round();
        return Ok(Measured::Unknown(format!(
            "too few subjects to leave {share} % of them out of the gallery"
        )));
    };
    let strangers = champion.strangers().min(challenger.strangers());
    Ok(match claim_fpir(target, strangers) {
        Ok(()) => Measured::Paired(challenger.paired(&champion, target, 1, &measure.bootstrap)),
        Err(refused) => Measured::Unknown(refused.to_string()),
    })
}

/// Values of the probes that either side has; what a side lacks is its miss.
pub(super) fn pair(
    a: &BTreeMap<usize, (u64, f64)>,
    b: &BTreeMap<usize, (u64, f64)>,
) -> (Vec<ProbeValue>, Vec<ProbeValue>) {
    let either: BTreeMap<usize, u64> =
        a.iter().chain(b).map(|(file, (label, _))| (*file, *label)).collect();
    let values = |of: &BTreeMap<usize, (u64, f64)>| -> Vec<ProbeValue> {
        let value = |file: &usize| of.get(file).map_or(0.0, |(_, value)| *value);
        let all = either.iter();
        all.map(|(probe, subject)| ProbeValue {
            probe: *probe,
            subject: *subject,
            value: value(probe),
        })
        .collect()
    };
    (values(a), values(b))
}

const KINDS: [(Aspect, Side); 4] = [
    (Aspect::Dorsal, Side::Right),
    (Aspect::Dorsal, Side::Left),
    (Aspect::Palmar, Side::Right),
    (Aspect::Palmar, Side::Left),
];

fn kind(attributes: &HandAttributes) -> Option<usize> {
    let own = (attributes.aspect?, attributes.side?);
    KINDS.iter().position(|kind| *kind == own)
}

/// Whether each hand is among the first hits of the words for its kind, of which there are as many as such hands.
pub(super) fn text_recall(
    sides: &Sides<'_>,
    measure: &Measure<'_>,
    models: &[Embedder],
) -> Result<Measured, EvaluateError> {
    let kinds: Vec<Option<usize>> =
        sides.plan.files.iter().map(|file| kind(&file.attributes)).collect();
    let present: BTreeSet<usize> = kinds.iter().flatten().copied().collect();
    if present.len() < 2 {
        let reason = "the images are not labelled with two kinds of hand";
        return Ok(Measured::LeftOut(reason.to_owned()));
    }
    let people: BTreeMap<&str, u64> = {
        let mut numbers = BTreeMap::new();
        for file in &sides.plan.files {
            let next = numbers.len() as u64;
            numbers.entry(file.subject.as_str()).or_insert(next);
        }
        numbers
    };
    let mut found = Vec::new();
    for (embedded, model) in sides.embedded.iter().zip(models) {
        let prompts: Vec<String> =
            KINDS.iter().map(|(aspect, side)| hand_prompt(*aspect, *side)).collect();
        let mut words = Vec::new();
        for embedding in model.embed_texts(&prompts)? {
            words.push(embedding?);
        }
        let mut hits: BTreeMap<usize, (u64, f64)> = BTreeMap::new();
        for wanted in &present {
            let mut ranked: Vec<(f32, usize)> = embedded
                .row_of
                .iter()
                .enumerate()
                .filter_map(|(file, row)| {
                    kinds[file]?;
                    let vector = embedded.vectors.row((*row)?);
                    let words = words[*wanted].as_slice();
                    Some((words.iter().zip(vector).map(|(a, b)| a * b).sum(), file))
                })
                .collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let such = kinds.iter().filter(|kind| **kind == Some(*wanted)).count();
            let first: BTreeSet<usize> = ranked.iter().take(such).map(|(_, file)| *file).collect();
            for (file, _) in kinds.iter().enumerate().filter(|(_, kind)| **kind == Some(*wanted)) {
                let subject = sides.plan.files[file].subject.as_str();
                let person = people.get(subject).copied().unwrap_or(0);
                hits.insert(file, (person, f64::from(u8::from(first.contains(&file)))));
            }
        }
        found.push(hits);
    }
    let (challenger, champion) = pair(&found[1], &found[0]);
    Ok(Measured::Paired(measure.bootstrap.paired(&[challenger], &[champion])?))
}

/// Median seconds for one picture, the champion's first; taken in turns, so that both meet the same noise.
pub(super) fn models_times(models: &[Embedder], plan: &Plan) -> Option<[f64; 2]> {
    let [champion, challenger] = models else { return None };
    let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let files: Vec<_> = plan.files.iter().take(TIMED).collect();
    for round in 0..TIMED {
        let file = files.get(round % files.len().max(1))?;
        for (model, times) in [champion, challenger].into_iter().zip(&mut times) {
            let Ok(pixels) = pixels(model, &file.path) else { continue };
            let begun = Instant::now();
            model.embed_pixels(&[pixels]).ok()?;
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let [a, b] = &mut times;
    Some([median(a)?, median(b)?])
}

impl SystemChoice {
    /// The model again, to ask it other things.
    pub(super) fn open(&self, options: &EvaluateOptions) -> Result<Embedder, EvaluateError> {
        let choice = self.model().ok_or(EvaluateError::NoModel)?;
        Ok(crate::service::open_model(choice, &options.device, &mut Vec::new())?)
    }
}
