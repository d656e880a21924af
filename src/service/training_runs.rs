//! Fine-tuning as jobs: from a recipe and labelled images to a model of the registry.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::{GalleryId, ModelName};
use crate::jobs::{JobContext, JobFailure, JobId, Stage};
use crate::storage::file::UNFINISHED;
use crate::training::fine_tune::Recipe;

use super::audit::Deed;
use super::error::{ServiceError, chain};
use super::evaluations::{ReportFile, hold, report_file};
use super::fine_tune::{
    FineTuneError, FineTuneEvent, FineTuneRequest, FineTuneSummary, TrainingData, charts,
    fine_tune_model, gallery_images,
};
use super::galleries::PageRequest;
use super::jobs::TRAIN;
use super::registry::{Origin, RESERVED, RegistryError};
use super::sources::{ImageSource, resolve_images};
use super::training_failure::{data_failure, fine_tune_failure, is_full};
use super::views::{JobPageView, JobView};
use super::workshop::Workshop;
use super::{Service, blocking};

/// Folder of the runs, in the data directory.
pub(super) const FOLDER: &str = "runs";
/// Memory for decoded pictures of a run.
const CACHE_BYTES: usize = 512 << 20;
/// Longest recipe, in bytes: it goes into the job's record.
const MOST_RECIPE: usize = 6 * 1024;

/// What to train on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingAsk {
    /// The model to start from.
    pub model: String,
    /// Labelled images.
    pub data: ImageSource,
    /// The recipe, as TOML.
    pub recipe: String,
    /// Share of the subjects that are held out and scored before and after.
    pub hold_out: f64,
    /// Names the draw of the held-out subjects.
    pub split_seed: u64,
    /// Whether images that cannot be decoded are left out.
    pub skip_unreadable: bool,
    /// What the best weights are called in the registry.
    pub name: String,
}

/// A training run, and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TrainingRunView {
    /// The job.
    pub job: JobView,
    /// One entry an epoch: `epoch` with losses, learning rate and gradient norm, `validation` with figures where there are
    /// subjects to validate on.
    #[schema(value_type = Vec<Object>)]
    pub epochs: Vec<Value>,
    /// Names of the files that `GET …/{file}` gives.
    pub files: Vec<String>,
}

impl Service {
    /// Has a job fine-tune a model.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`], [`ServiceError::Recipe`], [`ServiceError::ModelNotFound`], [`ServiceError::ModelExists`],
    /// [`ServiceError::NoConsent`], [`ServiceError::GalleryNotFound`], [`ServiceError::QueueFull`].
    pub async fn start_training(&self, ask: TrainingAsk) -> Result<JobView, ServiceError> {
        let service = self.clone();
        let deed = Deed::new("training.start").about(&ask.name);
        self.change(deed, move || {
            let workshop = &service.0.workshop;
            let mut ask = ask;
            if ask.recipe.len() > MOST_RECIPE {
                let problem =
                    format!("takes {} bytes, at most {MOST_RECIPE} are taken", ask.recipe.len());
                return Err(ServiceError::Invalid { field: "recipe", problem });
            }
            Recipe::from_toml(&ask.recipe).map_err(|error| ServiceError::Recipe(chain(&error)))?;
            if !(0.0..1.0).contains(&ask.hold_out) {
                let problem = format!("is {}, 0 to less than 1 is taken", ask.hold_out);
                return Err(ServiceError::Invalid { field: "hold_out", problem });
            }
            let name = ModelName::new(ask.name.as_str())?;
            if RESERVED.contains(&name.as_str()) {
                return Err(RegistryError::Reserved(name.to_string()).into());
            }
            if workshop.registry.read(name.as_str()).is_ok() {
                return Err(ServiceError::ModelExists(name.to_string()));
            }
            // What a name means now is what is trained, whatever is deployed until then.
            ask.model = service.alias(&ask.model)?;
            workshop.choice(&ask.model)?;
            workshop.images(&ask.data)?;
            let input = serde_json::to_value(ask)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
            Ok(service.0.jobs.enqueue(TRAIN, input)?.into())
        })
        .await
    }

    /// A page of the training runs, the newest first.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a limit out of bounds or a token that is none.
    pub fn training_runs(&self, page: &PageRequest) -> Result<JobPageView, ServiceError> {
        self.jobs_of(TRAIN, page)
    }

    /// One training run.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`].
    pub async fn training_run(&self, id: JobId) -> Result<TrainingRunView, ServiceError> {
        let service = self.clone();
        blocking(move || {
            let job = service.job_of(TRAIN, id)?;
            let dir = service.0.workshop.folder(FOLDER, id);
            let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
            let epochs =
                metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let mut files: Vec<String> = charts(&dir).into_iter().map(|(name, _)| name).collect();
            if job.state == Stage::Succeeded {
                files.extend(["report.html".to_owned(), "report.md".to_owned()]);
            }
            Ok(TrainingRunView { job, epochs, files })
        })
        .await
    }

    /// A file of a training run: a chart, which is there as soon as an epoch has ended, or the report. `curves.svg` is the
    /// first of the charts.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::NoSuchFile`].
    pub async fn training_run_file(
        &self,
        id: JobId,
        name: &str,
    ) -> Result<ReportFile, ServiceError> {
        self.job_of(TRAIN, id)?;
        let (dir, name) = (self.0.workshop.folder(FOLDER, id), name.to_owned());
        blocking(move || {
            let mut charts = charts(&dir).into_iter();
            let found = charts.find(|(chart, _)| *chart == name || name == "curves.svg");
            match found {
                Some((_, svg)) => {
                    Ok(ReportFile { content_type: "image/svg+xml", content: svg.into_bytes() })
                }
                None => report_file(&dir, &name),
            }
        })
        .await
    }

    /// Ends a training run that waits, or asks one that runs to end.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::JobNotCancellable`].
    pub async fn cancel_training(&self, id: JobId) -> Result<JobView, ServiceError> {
        self.job_of(TRAIN, id)?;
        self.cancel_any_job(id).await
    }
}

impl Workshop {
    /// Labelled images, if they may be used.
    pub(super) fn images(&self, source: &ImageSource) -> Result<TrainingData, ServiceError> {
        match source {
            ImageSource::Directory(given) => {
                let folder = resolve_images(&self.data_roots, "directory", given)?;
                Ok(TrainingData::Directory(folder))
            }
            ImageSource::Dataset(name) => Ok(TrainingData::Directory(self.dataset(name)?)),
            ImageSource::Gallery(id) => {
                let gallery = self.galleries.get(&GalleryId::new(id.as_str())?)?;
                if !gallery.info().allow_training {
                    return Err(ServiceError::NoConsent(gallery.id().clone()));
                }
                Ok(TrainingData::Gallery(gallery_images(&gallery)?))
            }
        }
    }
}

fn failure(code: &str, error: &dyn std::error::Error) -> JobFailure {
    JobFailure::new(code, chain(error))
}

/// Runs, or goes on with, a training run.
pub(super) fn run(workshop: &Workshop, context: &JobContext<'_>) -> Result<Value, JobFailure> {
    let ask: TrainingAsk = serde_json::from_value(context.input().clone())
        .map_err(|error| JobFailure::new("invalid_input", error))?;
    let name =
        ModelName::new(ask.name.as_str()).map_err(|error| failure("invalid_input", &error))?;
    let out = workshop.folder(FOLDER, context.id());
    // Registered, and the process ended before that was told.
    if let Ok(model) = workshop.registry.read(name.as_str()) {
        if model.origin == Origin::TrainingRun(context.id().to_string()) {
            return Ok(json!({ "model": name, "fingerprint": model.fingerprint }));
        }
        return Err(failure("model_exists", &ServiceError::ModelExists(name.to_string())));
    }
    let (mut choices, _held) = hold(workshop, std::slice::from_ref(&ask.model))?;
    let data = workshop.images(&ask.data).map_err(|error| data_failure(&error, &ask.data))?;
    let of_gallery = matches!(data, TrainingData::Gallery(_));
    let mut request = FineTuneRequest {
        model: choices.pop().ok_or_else(|| JobFailure::new("model_not_found", "no model"))?,
        data,
        recipe: ask.recipe,
        hold_out: ask.hold_out,
        split_seed: ask.split_seed,
        device: context.slot().to_owned(),
        // Of people who may be erased meanwhile nothing is kept; each picture is read when it is needed.
        cache_bytes: if of_gallery { 0 } else { CACHE_BYTES },
        skip_unreadable: ask.skip_unreadable || of_gallery,
        resume: out.join("last/state.safetensors").is_file(),
        out,
    };
    if !request.resume {
        workshop.new_folder(FOLDER, context.id())?;
    }
    let progress = |event: FineTuneEvent| match event {
        FineTuneEvent::Notice(text) => context.log(text),
        FineTuneEvent::Step(step) => context.progress(step.step as u64, step.steps as u64),
        FineTuneEvent::Epoch { report, figures } => context.log(match figures {
            Some(figures) => format!(
                "epoch {}: loss {:.3}, validation rank-1 {:.3}, mAP {:.3}",
                report.epoch, report.loss, figures.rank1, figures.map
            ),
            None => format!("epoch {}: loss {:.3}", report.epoch, report.loss),
        }),
    };
    let cancel = context.cancel_flag();
    let mut tuned = fine_tune_model(&request, &progress, cancel);
    // The people of a gallery are not who they were: what was learnt of them is no state to go on from.
    let cannot_go_on =
        |error: &FineTuneError| matches!(error, FineTuneError::Training(_)) && !is_full(error);
    if request.resume && tuned.as_ref().is_err_and(cannot_go_on) && !context.cancelled() {
        context.log("the images or the recipe have changed since; starting over");
        workshop.new_folder(FOLDER, context.id())?;
        request.resume = false;
        tuned = fine_tune_model(&request, &progress, cancel);
    }
    let failed = match tuned {
        Ok(summary) if !(summary.cancelled || context.cancelled()) => {
            return finish(workshop, context, &name, &request, &summary);
        }
        Ok(_) => JobFailure::interrupted(),
        Err(_) if context.cancelled() => JobFailure::interrupted(),
        Err(error) => fine_tune_failure(&error, &request.data),
    };
    if of_gallery && !context.stopping() {
        // Nobody would look there when people of the gallery are erased.
        ["best", "last"].iter().for_each(|folder| remove(&request.out.join(folder)));
    }
    Err(failed)
}

/// Registers the best weights; of the run its reports are left.
fn finish(
    workshop: &Workshop,
    context: &JobContext<'_>,
    name: &ModelName,
    request: &FineTuneRequest,
    summary: &FineTuneSummary,
) -> Result<Value, JobFailure> {
    let command = format!("POST /v1/training-runs ({})", context.id());
    summary
        .record(request, &command)
        .save(&request.out)
        .map_err(|error| failure("storage", &error))?;
    // From here to where the model is found in the registry nobody is erased without being struck from its list.
    let lists = workshop.lists.lock();
    if let TrainingData::Gallery(images) = &request.data {
        workshop
            .strike_absent(&request.out, images.id())
            .map_err(|error| failure("storage", &error))?;
    }
    workshop
        .strike_inherited(&request.out, &request.model)
        .map_err(|error| failure("storage", &error))?;
    let origin = Origin::TrainingRun(context.id().to_string());
    let model =
        workshop.registry.import_directory(name, &request.out, origin).map_err(|error| {
            let taken = matches!(error, RegistryError::Exists(_));
            let code = if is_full(&error) { "storage_full" } else { "registry" };
            failure(if taken { "model_exists" } else { code }, &error)
        })?;
    drop(lists);
    for folder in ["best", "last", "tensorboard"] {
        remove(&request.out.join(folder));
    }
    context.log(format!("registered as {name}"));
    let merit = |figures: &Option<super::nano_card::Figures>| {
        figures.as_ref().map(|f| json!({ "rank1": f.rank1, "map": f.map }))
    };
    Ok(json!({
        "model": name,
        "fingerprint": model.fingerprint,
        "subjects": summary.subjects,
        "images": summary.images,
        "best_epoch": summary.best_epoch,
        "stopped_early": summary.stopped_early,
        "before": merit(&summary.before),
        "after": merit(&summary.after),
    }))
}

/// Removes the files of a folder that a run may be writing into: it stays, and so do files that are not whole yet.
pub(super) fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_whole = path.extension().is_none_or(|extension| extension != UNFINISHED);
        if is_whole
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a file of a training run is not removed");
        }
    }
}

/// Removes a folder of a run that is of no use any more.
pub(super) fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a folder of a training run is not removed");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_cleared_can_be_written_into_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), b"").unwrap();
        write("state.safetensors");
        write("model.safetensors.0a.tmp");
        clear(dir.path());
        clear(&dir.path().join("none"));
        let left = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["model.safetensors.0a.tmp"]);
    }
}
