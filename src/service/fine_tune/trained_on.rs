//! Which images a run saw: so that nobody evaluates a model on the people it was trained on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::{GalleryId, SubjectId, hex};
use crate::service::words::overwrite_words;
use crate::storage::StorageError;
use crate::storage::file::write_atomic;

/// The record's file, in the run's folder.
pub(in crate::service) const FILE: &str = "data.json";

/// SHA-256 of every image file of a run, hexadecimal, by what it was used for. Says nothing else of anyone. In the place of who was
/// erased from the gallery since stand zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// Of this file.
    format: u32,
    trained: Vec<String>,
    validated: Vec<String>,
    held_out: Vec<String>,
    /// Names this list: who knows an id can ask whether it is in it, and two lists of the same people look different.
    #[serde(default)]
    salt: String,
    /// SHA-256 of the salt and the id of every subject trained on or validated on, sorted.
    #[serde(default)]
    subjects: Vec<String>,
    /// Where the images were retained, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gallery: Option<GalleryId>,
    /// What the models before were trained on, from the one that the run started from back to the first: their weights know it still.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inherited: Vec<Self>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrainedOnError {
    /// The file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is there and damaged: whom the model knows is not known.
    #[error("{path} is damaged: {problem}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        problem: String,
    },
}

impl TrainedOn {
    pub(super) fn new<'a>(
        parts: [Vec<String>; 3],
        subjects: impl IntoIterator<Item = &'a str>,
        gallery: Option<GalleryId>,
    ) -> Self {
        let [trained, validated, held_out] = parts;
        // The same for the same images, so that a run that goes on writes the same list again.
        let salt = hash(trained.concat().as_bytes());
        let hashed = subjects.into_iter().map(|id| name(&salt, id));
        let subjects: BTreeSet<String> = hashed.collect();
        let subjects = subjects.into_iter().collect();
        let inherited = Vec::new();
        Self { format: 1, trained, validated, held_out, salt, subjects, gallery, inherited }
    }

    /// The list of a run that starts from a model with this one. Whom that was only tested on its weights do not know.
    pub(super) fn inheriting(mut self, before: Option<Self>) -> Self {
        let Some(mut before) = before else { return self };
        let further = std::mem::take(&mut before.inherited);
        for mut list in std::iter::once(before).chain(further) {
            list.held_out.clear();
            // Trained on the same again and again it would grow without saying more.
            if !self.inherited.contains(&list) {
                self.inherited.push(list);
            }
        }
        self
    }

    pub(super) fn save(&self, run: &Path) -> Result<(), StorageError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_atomic(&run.join(FILE), &text)
    }

    /// The record of the run that made a model: it lies beside `best` and `last`. `None` for other models.
    ///
    /// # Errors
    /// [`TrainedOnError`].
    pub fn beside(model: &Path) -> Result<Option<Self>, TrainedOnError> {
        let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
        let Some(run) = model.parent() else { return Ok(None) };
        let path = run.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&path)
            .map_err(|source| TrainedOnError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| TrainedOnError::Damaged { path, problem: error.to_string() })
    }

    /// Whether somebody was struck from it.
    pub(in crate::service) fn lacks_somebody(&self) -> bool {
        let mut words = self.lists().flat_map(Self::words);
        words.any(|word| !word.is_empty() && word.bytes().all(|byte| byte == b'0'))
    }

    /// Images that the weights were trained on or chosen by, in this run or in one before that it started from.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.lists().flat_map(|list| list.trained.iter().chain(&list.validated)).map(String::as_str)
    }

    /// This list and those inherited, each of a gallery and with a salt of its own.
    fn lists(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.inherited)
    }

    /// What this one says of anyone, without what is inherited.
    fn words(&self) -> impl Iterator<Item = &str> {
        let parts = [&self.trained, &self.validated, &self.held_out, &self.subjects];
        parts.into_iter().flatten().map(String::as_str)
    }
}

/// Who is enrolled in a gallery, or no more.
pub(in crate::service) struct People<'a> {
    pub(in crate::service) gallery: &'a GalleryId,
    pub(in crate::service) subjects: Vec<SubjectId>,
    /// SHA-256 of their image files.
    pub(in crate::service) images: Vec<[u8; 32]>,
}

impl People<'_> {
    /// The words of a list that are about them; those that need its salt only if there is a list.
    fn words(&self, list: Option<&TrainedOn>) -> BTreeSet<String> {
        let names = list.into_iter().flat_map(|list| {
            self.subjects.iter().map(|subject| name(&list.salt, subject.as_str()))
        });
        self.images.iter().map(|image| hex(image)).chain(names).collect()
    }

    /// The same for a list that is known, if it is of their gallery.
    fn words_in(&self, list: &TrainedOn) -> BTreeSet<String> {
        match list.gallery.as_ref() == Some(self.gallery) {
            true => self.words(Some(list)),
            false => BTreeSet::new(),
        }
    }
}

/// Overwrites with zeros, in place, what a run's list says of somebody, inherited or not; says whether it said anything. What it says of another
/// gallery or of a data set is left as it is, one that cannot be read is searched all the same.
pub(in crate::service) fn strike(run: &Path, who: &People<'_>) -> std::io::Result<bool> {
    overwrite(run, |list| match list {
        Some(list) => list.lists().flat_map(|list| who.words_in(list)).collect(),
        None => who.words(None),
    })
}

/// The same with everybody of the run's own gallery but those who are there.
pub(in crate::service) fn strike_all_but(run: &Path, there: &People<'_>) -> std::io::Result<bool> {
    overwrite(run, |list| {
        let Some(list) = list.filter(|list| list.gallery.as_ref() == Some(there.gallery)) else {
            return BTreeSet::new();
        };
        let kept = there.words(Some(list));
        list.words().filter(|word| !kept.contains(*word)).map(str::to_owned).collect()
    })
}

/// The same with everybody who was inherited from a model and is not in its list any more.
pub(in crate::service) fn strike_as(run: &Path, model: &Path) -> Result<bool, TrainedOnError> {
    let Some(before) = TrainedOn::beside(model)? else { return Ok(false) };
    let kept: BTreeSet<&str> = before.lists().flat_map(TrainedOn::words).collect();
    let struck = overwrite(run, |list| {
        let inherited = list.into_iter().flat_map(|list| &list.inherited);
        let words = inherited.flat_map(TrainedOn::words);
        words.filter(|word| !kept.contains(*word)).map(str::to_owned).collect()
    });
    struck.map_err(|source| TrainedOnError::Read { path: run.join(FILE), source })
}

fn overwrite(
    run: &Path,
    unwanted: impl FnOnce(Option<&TrainedOn>) -> BTreeSet<String>,
) -> std::io::Result<bool> {
    overwrite_words(&run.join(FILE), |text| {
        let unwanted = unwanted(serde_json::from_slice(text).ok().as_ref());
        unwanted.into_iter().map(|word| (word.clone(), "0".repeat(word.len()))).collect()
    })
}

/// How a list names a subject.
fn name(salt: &str, id: &str) -> String {
    hash(format!("{salt}/{id}").as_bytes())
}

/// SHA-256 of a file's bytes, hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;

    #[test]
    fn who_is_struck_is_nowhere_in_the_list_and_the_others_are() {
        let dir = tempfile::tempdir().unwrap();
        let (gallery, other) = (GalleryId::new("g").unwrap(), GalleryId::new("h").unwrap());
        let image = |n: u8| -> [u8; 32] { Sha256::digest([n]).into() };
        let texts = |of: &[u8]| of.iter().map(|n| hex(&image(*n))).collect::<Vec<_>>();
        let parts = [texts(&[1, 2, 3]), texts(&[4]), texts(&[5])];
        let list = TrainedOn::new(parts, ["anna", "ben"], Some(gallery.clone()));
        list.save(dir.path()).unwrap();
        let text = || std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let before = text();
        let who = |gallery| People {
            gallery,
            subjects: vec![SubjectId::new("anna").unwrap()],
            images: vec![image(2), image(5), image(9)],
        };
        assert!(!strike(dir.path(), &who(&other)).unwrap());
        assert_eq!(text(), before, "it is of another gallery");
        assert!(strike(dir.path(), &who(&gallery)).unwrap());
        assert!(!strike(dir.path(), &who(&gallery)).unwrap(), "nothing is left of them");
        let zeros = "0".repeat(64);
        let gone = [hex(&image(2)), hex(&image(5)), name(&list.salt, "anna")];
        let expected = gone.iter().fold(before.clone(), |text, hash| text.replace(hash, &zeros));
        assert_eq!(text(), expected);
        assert_eq!(expected.matches(&zeros).count(), 3);
        let path = dir.path().join("best");
        std::fs::create_dir(&path).unwrap();
        let left = TrainedOn::beside(&path).unwrap().unwrap();
        assert_eq!(left.images().filter(|image| **image != *zeros).count(), 3);

        let all_but = People { gallery: &gallery, subjects: vec![], images: vec![image(1)] };
        assert!(strike_all_but(dir.path(), &all_but).unwrap());
        let left = TrainedOn::beside(&path).unwrap().unwrap();
        assert_eq!(
            left.images().filter(|image| **image != *zeros).collect::<Vec<_>>(),
            [hex(&image(1))]
        );
        assert!(left.subjects.iter().all(|name| *name == zeros));

        // Damaged: its gallery is not known, so that it is searched too.
        std::fs::write(dir.path().join(FILE), &before[1..]).unwrap();
        assert!(strike(dir.path(), &who(&other)).unwrap());
        assert!(!text().contains(&gone[0]) && text().contains(&hex(&image(1))));
        assert!(!strike(&dir.path().join("none"), &who(&gallery)).unwrap());
    }

    #[test]
    fn what_a_model_was_trained_on_goes_on_to_those_that_start_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            let path = dir.path().join(name).join("best");
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let image = |n: u8| -> [u8; 32] { Sha256::digest([n]).into() };
        let texts = |of: &[u8]| of.iter().map(|n| hex(&image(*n))).collect::<Vec<_>>();
        let list = |of: [&[u8]; 3], gallery: Option<&GalleryId>| {
            TrainedOn::new(of.map(texts), ["anna"], gallery.cloned())
        };
        let (g, h) = (GalleryId::new("g").unwrap(), GalleryId::new("h").unwrap());
        let (first, second, third) = (run("a"), run("b"), run("c"));
        let save = |list: &TrainedOn, at: &Path| list.save(at.parent().unwrap()).unwrap();
        let read = |at: &Path| TrainedOn::beside(at).unwrap().unwrap();
        save(&list([&[1], &[2], &[3]], Some(&g)), &first);
        save(&list([&[4], &[], &[]], None).inheriting(Some(read(&first))), &second);
        save(&list([&[5], &[], &[]], Some(&h)).inheriting(Some(read(&second))), &third);
        assert_eq!(read(&third).images().collect::<Vec<_>>(), texts(&[5, 4, 1, 2]));
        assert!(!read(&third).lacks_somebody());
        let again = list([&[4], &[], &[]], None).inheriting(Some(read(&second)));
        let more = list([&[4], &[], &[]], None).inheriting(Some(again));
        assert_eq!(more.inherited.len(), 2, "the same is not inherited twice");

        // Whoever is erased from the first one's gallery is struck from all, by the salt of that list.
        let anna = || vec![SubjectId::new("anna").unwrap()];
        let who = |gallery| People { gallery, subjects: anna(), images: vec![image(1)] };
        assert!(strike(third.parent().unwrap(), &who(&g)).unwrap());
        let zeros = "0".repeat(64);
        let struck = read(&third);
        assert_eq!(struck.images().filter(|image| *image == zeros).count(), 1);
        assert_eq!(struck.inherited[1].subjects, [zeros.as_str()]);
        assert!(struck.lacks_somebody() && struck.subjects != [zeros.as_str()]);
        assert!(strike(third.parent().unwrap(), &who(&h)).unwrap(), "its own anna");

        // A list that was read before somebody was struck from it, and written down after.
        assert!(strike(first.parent().unwrap(), &who(&g)).unwrap());
        assert!(strike_as(second.parent().unwrap(), &first).unwrap());
        assert!(!strike_as(second.parent().unwrap(), &first).unwrap());
        assert_eq!(read(&second).images().collect::<Vec<_>>()[..2], [&texts(&[4])[0], &zeros]);
        assert!(!strike_as(first.parent().unwrap(), &dir.path().join("none/best")).unwrap());
    }
}
