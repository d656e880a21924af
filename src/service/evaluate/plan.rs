//! Which images are enrolled and which ask, by the protocol.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::dataset::{self, DrawTree, LabelledImage, Protocol as Division, sha256};
use crate::domain::{Aspect, HandAttributes, Side};
use crate::evaluation::{Entry, MonteCarlo, Session};
use crate::service::ledger::data_name;
use crate::service::measured::{Measured, measured};

use super::embed::Refusal;
use super::types::DataCard;
use super::{EvaluateError, EvaluateEvent, Protocol, Selection};

/// A file that is embedded once, however many draws use it.
#[derive(Debug, Clone)]
pub(super) struct EvaluatedFile {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    pub(super) subject: String,
    pub(super) attributes: HandAttributes,
}

/// Draws of one kind of hand, or of one folder. Rows are indices of [`Plan::files`].
#[derive(Debug, Clone)]
pub(super) struct PlannedSet {
    pub(super) name: String,
    pub(super) sessions: Vec<Session>,
}

/// Everything an evaluation looks at. Two systems that are compared share one plan.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) protocol: Protocol,
    pub(super) files: Vec<EvaluatedFile>,
    pub(super) sets: Vec<PlannedSet>,
    /// Subjects by label; distractors under the ids that their folders give them.
    pub(super) subjects: Vec<String>,
    /// Who is behind each label: distractors are hands of people under ids of their own.
    pub(super) people: Vec<u64>,
    /// The data set's name.
    pub(super) name: String,
    /// The capture of each file, where the data set says so.
    pub(super) captures: Option<Vec<u64>>,
    /// Subjects of the whole data set, not only those that are evaluated.
    pub(super) everybody: Vec<LabelledImage>,
}

/// Hands in the order of the published tables.
const KINDS: [(&str, Aspect, Side); 4] = [
    ("dorsal right", Aspect::Dorsal, Side::Right),
    ("dorsal left", Aspect::Dorsal, Side::Left),
    ("palmar right", Aspect::Palmar, Side::Right),
    ("palmar left", Aspect::Palmar, Side::Left),
];

/// Images that take part, as they are labelled.
#[derive(Default)]
struct Register {
    images: Vec<LabelledImage>,
    by_path: HashMap<PathBuf, usize>,
}

impl Register {
    fn index(&mut self, image: &LabelledImage) -> usize {
        *self.by_path.entry(image.path.clone()).or_insert_with(|| {
            self.images.push(image.clone());
            self.images.len() - 1
        })
    }
}

/// Reads the data set and draws from it.
pub(super) fn plan(
    data: &Path,
    selection: &Selection,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Plan, EvaluateError> {
    Ok(Plan { name: data_name(data), ..drawn(data, selection, progress)? })
}

fn drawn(
    data: &Path,
    selection: &Selection,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Plan, EvaluateError> {
    let trees = match selection.protocol {
        Protocol::Auto | Protocol::Tree { .. } => dataset::draw_trees(data, selection.runs)?,
        Protocol::Hands | Protocol::CrossAspect | Protocol::Published { .. } => Vec::new(),
    };
    let all = matches!(selection.protocol, Protocol::Tree { all: true });
    let found = if trees.is_empty() { selection.protocol } else { Protocol::Tree { all } };
    // Ignored in silence, the report would tell of a division that nobody made.
    if selection.hold_out.is_some()
        && matches!(found, Protocol::Tree { .. } | Protocol::Published { .. })
    {
        return Err(EvaluateError::HoldOut(found));
    }
    if !trees.is_empty() {
        return from_trees(&trees, selection);
    }
    if matches!(selection.protocol, Protocol::Tree { .. }) {
        return Err(EvaluateError::NoTree(data.to_path_buf()));
    }
    let everybody = dataset::read(data)?;
    if let Protocol::Published { all } = selection.protocol {
        dataset::check_undivided(data)?;
        let sets = published(&everybody, all, selection)?;
        return finish(selection.protocol, everybody.clone(), sets, selection, everybody);
    }
    let Measured { images, notes } = measured(data, selection.hold_out)?;
    notes.into_iter().for_each(|note| progress(EvaluateEvent::Notice(note)));
    let worn = |at: &usize| images[*at].attributes.accessories == Some(true);
    let chosen: Vec<usize> =
        (0..images.len()).filter(|at| selection.accessories || !worn(at)).collect();
    let (protocol, sets) = match selection.protocol {
        Protocol::CrossAspect => (Protocol::CrossAspect, cross_aspect(&images, &chosen, selection)),
        Protocol::Auto | Protocol::Hands | Protocol::Tree { .. } | Protocol::Published { .. } => {
            (Protocol::Hands, by_hand(&images, &chosen, selection))
        }
    };
    finish(protocol, images, sets, selection, everybody)
}

/// Labels before subjects have numbers: an image and the name that it goes by.
type Named = (usize, String);

struct NamedSet {
    name: String,
    sessions: Vec<(Vec<Named>, Vec<Named>)>,
}

fn from_trees(trees: &[DrawTree], selection: &Selection) -> Result<Plan, EvaluateError> {
    let all = matches!(selection.protocol, Protocol::Tree { all: true });
    let mut register = Register::default();
    let mut sets = Vec::new();
    let mut everybody = Vec::new();
    for tree in trees {
        let mut sessions = Vec::new();
        for draw in &tree.draws {
            let gallery = match (&draw.gallery_all, all) {
                (Some(gallery), true) => gallery,
                (None, true) => return Err(EvaluateError::NoDistractors(tree.path.clone())),
                (Some(_) | None, false) => &draw.gallery,
            };
            let mut named = |images: &[LabelledImage]| -> Vec<Named> {
                images.iter().map(|image| (register.index(image), image.key())).collect()
            };
            sessions.push((named(gallery), named(&draw.query)));
        }
        sets.push(NamedSet { name: spoken(&tree.name), sessions });
        everybody.extend(dataset::read(&tree.path)?);
    }
    finish(Protocol::Tree { all }, register.images, sets, selection, everybody)
}

/// `dorsal right` for `dorsal_r`; a folder of any other name keeps it.
fn spoken(name: &str) -> String {
    dataset::Hand::named(name)
        .map_or_else(|| name.to_owned(), |hand| format!("{} {}", hand.aspect, hand.side))
}

/// Rows of a session are places in `of`.
fn name(images: &[LabelledImage], of: &[usize], session: &Session) -> (Vec<Named>, Vec<Named>) {
    let names = |entries: &[Entry]| -> Vec<Named> {
        entries.iter().map(|entry| (of[entry.row], images[of[entry.row]].key())).collect()
    };
    (names(&session.gallery), names(&session.probes))
}

/// Numbers for the subjects of some images.
fn labels(images: &[LabelledImage], of: &[usize]) -> Vec<u64> {
    let keys: BTreeSet<(usize, String)> =
        of.iter().map(|at| by_number(images[*at].key())).collect();
    let numbers: BTreeMap<String, u64> = keys.into_iter().map(|(_, key)| key).zip(0..).collect();
    of.iter().map(|at| numbers[&images[*at].key()]).collect()
}

/// Numbers in their order, whatever their digits; keys have no leading zeros.
fn by_number(key: String) -> (usize, String) {
    (key.len(), key)
}

/// Run r draws with `seed + r`, whatever the set: the draws of the model card and of a run's own report.
fn monte_carlo(selection: &Selection) -> MonteCarlo {
    MonteCarlo { runs: selection.runs, samples: selection.enrolled, seed: selection.seed }
}

fn is_kind(image: &LabelledImage, aspect: Aspect, side: Side) -> bool {
    image.attributes.aspect == Some(aspect) && image.attributes.side == Some(side)
}

/// One set for each kind of hand; images of no known kind are one more.
fn by_hand(images: &[LabelledImage], chosen: &[usize], selection: &Selection) -> Vec<NamedSet> {
    let mut groups: Vec<(&str, Vec<usize>)> = KINDS
        .iter()
        .map(|(name, aspect, side)| {
            let of_kind = |at: &&usize| is_kind(&images[**at], *aspect, *side);
            (*name, chosen.iter().filter(of_kind).copied().collect())
        })
        .collect();
    let known = |at: &&usize| KINDS.iter().any(|(_, a, s)| is_kind(&images[**at], *a, *s));
    groups.push(("all", chosen.iter().filter(|at| !known(at)).copied().collect()));
    groups
        .into_iter()
        .filter(|(_, group)| !group.is_empty())
        .map(|(name_of, group)| {
            let sessions = monte_carlo(selection).within(&labels(images, &group));
            NamedSet {
                name: name_of.to_owned(),
                sessions: sessions.iter().map(|s| name(images, &group, s)).collect(),
            }
        })
        .collect()
}

/// One aspect enrolled, the other asked about, of the same side.
fn cross_aspect(
    images: &[LabelledImage],
    chosen: &[usize],
    selection: &Selection,
) -> Vec<NamedSet> {
    let of = |aspect, side| -> Vec<usize> {
        chosen.iter().filter(|at| is_kind(&images[**at], aspect, side)).copied().collect()
    };
    let mut sets = Vec::new();
    for side in [Side::Right, Side::Left] {
        let (dorsal, palmar) = (of(Aspect::Dorsal, side), of(Aspect::Palmar, side));
        for (way, probes, gallery) in
            [("dorsal -> palmar", &dorsal, &palmar), ("palmar -> dorsal", &palmar, &dorsal)]
        {
            if probes.is_empty() || gallery.is_empty() {
                continue;
            }
            let both: Vec<usize> = gallery.iter().chain(probes).copied().collect();
            let (enrolled, asking): (Vec<usize>, Vec<usize>) =
                (0..both.len()).partition(|at| *at < gallery.len());
            let draws = monte_carlo(selection);
            let sessions = draws.across(&labels(images, &both), &enrolled, &asking);
            sets.push(NamedSet {
                name: format!("{way} {side}"),
                sessions: sessions.iter().map(|s| name(images, &both, s)).collect(),
            });
        }
    }
    sets
}

/// The published protocol of 11k Hands on its test half.
fn published(
    images: &[LabelledImage],
    all: bool,
    selection: &Selection,
) -> Result<Vec<NamedSet>, EvaluateError> {
    let splits = dataset::split(images, Division::Published, selection.seed)?;
    let named = |at: &usize| (*at, images[*at].key());
    let set = |split: &dataset::Split| {
        let runs = split.runs.iter().take(selection.runs).map(|run| {
            let mut gallery: Vec<Named> = run.gallery.iter().map(named).collect();
            if all {
                gallery.extend(run.distractors.iter().map(|(at, id)| (*at, id.to_string())));
            }
            (gallery, run.query.iter().map(named).collect())
        });
        NamedSet { name: spoken(&split.name), sessions: runs.collect() }
    };
    Ok(splits.iter().map(set).collect())
}

/// Gives subjects their numbers, and files that are the same one row.
fn finish(
    protocol: Protocol,
    images: Vec<LabelledImage>,
    sets: Vec<NamedSet>,
    selection: &Selection,
    everybody: Vec<LabelledImage>,
) -> Result<Plan, EvaluateError> {
    let used: BTreeSet<usize> = sets
        .iter()
        .flat_map(|set| &set.sessions)
        .flat_map(|(gallery, probes)| gallery.iter().chain(probes))
        .map(|(at, _)| *at)
        .collect();
    if used.is_empty() {
        return Err(EvaluateError::NothingLeft);
    }
    let hashes: Vec<(usize, String)> = used
        .into_par_iter()
        .map(|at| Ok((at, sha256(&images[at].path)?)))
        .collect::<Result<_, dataset::DatasetError>>()?;
    let mut rows: HashMap<String, usize> = HashMap::new();
    let mut row_of: HashMap<usize, usize> = HashMap::new();
    let mut files: Vec<EvaluatedFile> = Vec::new();
    for (at, sha256) in hashes {
        let image = &images[at];
        let row = *rows.entry(sha256.clone()).or_insert_with(|| {
            files.push(EvaluatedFile {
                path: image.path.clone(),
                sha256,
                subject: image.key(),
                attributes: image.attributes.clone(),
            });
            files.len() - 1
        });
        row_of.insert(at, row);
    }
    let names: BTreeSet<&String> = sets
        .iter()
        .flat_map(|set| &set.sessions)
        .flat_map(|(gallery, probes)| gallery.iter().chain(probes))
        .map(|(_, name)| name)
        .collect();
    let labels: HashMap<&String, u64> = names.iter().copied().zip(0..).collect();
    let subjects: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
    let with_distractors =
        matches!(protocol, Protocol::Tree { all: true } | Protocol::Published { all: true });
    let people = people(&subjects, with_distractors);
    let entries = |named: &[Named]| -> Vec<Entry> {
        named.iter().map(|(at, name)| Entry { row: row_of[at], label: labels[name] }).collect()
    };
    let planned = sets
        .iter()
        .map(|set| PlannedSet {
            name: set.name.clone(),
            sessions: set
                .sessions
                .iter()
                .map(|(gallery, probes)| Session {
                    gallery: entries(gallery),
                    probes: entries(probes),
                })
                .collect(),
        })
        .collect();
    let captures = match selection.other_capture {
        true => Some(captures(&files)?),
        false => None,
    };
    Ok(Plan {
        protocol,
        files,
        sets: planned,
        subjects,
        people,
        name: String::new(),
        captures,
        everybody,
    })
}

/// A number for the person behind each name: where there are distractors, that of the name without its offset.
/// Elsewhere a large number is only a large number.
fn people(subjects: &[String], with_distractors: bool) -> Vec<u64> {
    let person = |name: &String| match name.parse().map(dataset::without_offset) {
        Ok(id) if with_distractors => id.to_string(),
        Ok(_) | Err(_) => name.clone(),
    };
    let mut numbers: HashMap<String, u64> = HashMap::new();
    subjects
        .iter()
        .map(|name| {
            let next = numbers.len() as u64;
            *numbers.entry(person(name)).or_insert(next)
        })
        .collect()
}

/// Numbers for what the column `capture` of a manifest says.
fn captures(files: &[EvaluatedFile]) -> Result<Vec<u64>, EvaluateError> {
    let mut numbers: HashMap<&String, u64> = HashMap::new();
    files
        .iter()
        .map(|file| {
            let capture = file.attributes.extra.get("capture");
            let capture = capture.ok_or_else(|| EvaluateError::NoCapture(file.path.clone()))?;
            let next = numbers.len() as u64;
            Ok(*numbers.entry(capture).or_insert(next))
        })
        .collect()
}

impl EvaluatedFile {
    /// The file's name without its folders: a report says nothing of this machine.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

impl Plan {
    /// What a report says of the data.
    pub(super) fn card(&self, refused: Vec<Refusal>) -> DataCard {
        let mut hashes: Vec<&str> = self.files.iter().map(|file| file.sha256.as_str()).collect();
        hashes.sort_unstable();
        let mut hash = Sha256::new();
        hashes.iter().for_each(|of_file| hash.update(of_file));
        DataCard {
            name: self.name.clone(),
            images: self.files.len(),
            subjects: self.subjects.len(),
            refused,
            sha256: crate::domain::hex(&hash.finalize()),
        }
    }
}

impl PlannedSet {
    /// The same draws without the samples of other labels.
    pub(super) fn only(&self, keep: impl Fn(u64) -> bool) -> Self {
        let some = |entries: &[Entry]| -> Vec<Entry> {
            entries.iter().filter(|entry| keep(entry.label)).copied().collect()
        };
        let sessions = self.sessions.iter().map(|session| Session {
            gallery: some(&session.gallery),
            probes: some(&session.probes),
        });
        Self { name: self.name.clone(), sessions: sessions.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distractors_are_people_without_their_offset_where_there_are_any() {
        let names: Vec<String> =
            ["1051", "11001051", "21001051", "ann"].map(str::to_owned).to_vec();
        assert_eq!(people(&names, true), [0, 0, 0, 1]);
        assert_eq!(people(&names, false), [0, 1, 2, 3]);
    }

    #[test]
    fn only_the_names_of_hands_are_spelt_out() {
        assert_eq!(spoken("dorsal_r"), "dorsal right");
        assert_eq!(spoken("palmar_l"), "palmar left");
        assert_eq!(spoken("my_run_large"), "my_run_large");
    }
}
