//! What lies outside the store and says whom a model was trained on: struck before somebody is erased, so that a crash between the two
//! leaves too little, never too much.

use std::path::{Path, PathBuf};

use crate::domain::{GalleryId, SampleId, SubjectId};
use crate::gallery::Gallery;

use super::error::ServiceError;
use super::fine_tune::{People, strike, strike_all_but, strike_as};
use super::options::ModelChoice;
use super::training_runs;
use super::workshop::Workshop;

impl Workshop {
    /// Strikes a subject, or one of their samples, from every list of what was trained on.
    pub(super) fn forget(
        &self,
        gallery: &Gallery,
        subject: &SubjectId,
        only: Option<&SampleId>,
    ) -> Result<(), ServiceError> {
        let mut of = gallery.contents(Some(subject));
        let all = of.len();
        of.retain(|(_, sample, _)| only.is_none_or(|only| only == sample));
        // Who keeps another sample is still one of those who were trained on.
        let subjects = if of.len() == all { vec![subject.clone()] } else { Vec::new() };
        let images = of.into_iter().map(|(_, _, hash)| hash).collect();
        self.strike(&People { gallery: gallery.id(), subjects, images })
    }

    /// Strikes everybody of a gallery.
    pub(super) fn forget_everybody(&self, gallery: &Gallery) -> Result<(), ServiceError> {
        self.strike(&everybody(gallery))
    }

    fn strike(&self, who: &People<'_>) -> Result<(), ServiceError> {
        let _lists = self.lists.lock();
        for run in folders(&self.data_dir.join(training_runs::FOLDER)) {
            if strike(&run, who).map_err(|error| unstruck(&run, &error))? {
                // To go on from it would be to go on with what was learnt of them; a run that was interrupted starts over. One
                // that is under way goes on writing there.
                training_runs::clear(&run.join("last"));
            }
        }
        self.registry.strike(who).map_err(|error| unstruck(Path::new("models"), &error))
    }

    /// Strikes from a run's list whom its gallery does not have any more: they were erased while it ran.
    ///
    /// Whoever calls it holds the lists until the run's model is among those that are searched.
    pub(super) fn strike_absent(&self, run: &Path, id: &GalleryId) -> Result<(), ServiceError> {
        let gallery = self.galleries.get(id).ok();
        let nobody = || People { gallery: id, subjects: Vec::new(), images: Vec::new() };
        let there = gallery.as_ref().map_or_else(nobody, |gallery| everybody(gallery));
        strike_all_but(run, &there).map_err(|error| unstruck(run, &error))?;
        Ok(())
    }

    /// Strikes from what a run's list inherited who was struck meanwhile from the list of the model that it started from. Held
    /// as in [`Self::strike_absent`].
    pub(super) fn strike_inherited(
        &self,
        run: &Path,
        model: &ModelChoice,
    ) -> Result<(), ServiceError> {
        let Some(files) = model.files() else { return Ok(()) };
        strike_as(run, files).map_err(|error| unstruck(run, &error))?;
        Ok(())
    }
}

fn everybody(gallery: &Gallery) -> People<'_> {
    let mut people = People { gallery: gallery.id(), subjects: Vec::new(), images: Vec::new() };
    for (subject, _, hash) in gallery.contents(None) {
        if people.subjects.last() != Some(&subject) {
            people.subjects.push(subject);
        }
        people.images.push(hash);
    }
    people
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn unstruck(run: &Path, error: &dyn std::error::Error) -> ServiceError {
    tracing::error!(run = %run.display(), %error, "whom a model was trained on cannot be struck");
    ServiceError::Internal(
        "a list of what a model was trained on cannot be written; the log says which: try again when it can"
            .to_owned(),
    )
}
