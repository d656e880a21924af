//! Evaluations as jobs: on folders that the administrator listed, of models of the registry, with reports that can be read
//! over the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::Calibration;
use crate::jobs::{JobContext, JobError, JobFailure, JobFilter, JobId, Jobs, Stage};

use super::audit::Deed;
use super::error::{ServiceError, chain};
use super::evaluate::{
    Cancel, CompareRequest, Comparison, EvaluateError, EvaluateEvent, EvaluateOptions,
    EvaluateRequest, Evaluation, GateTable, Protocol, Selection, SystemChoice, compare, evaluate,
};
use super::galleries::PageRequest;
use super::jobs::EVALUATE;
use super::recognition::check_limit;
use super::registry::Held;
use super::sources::{ImageSource, resolve_images};
use super::views::{JobPageView, JobView};
use super::workshop::Workshop;
use super::{ModelChoice, Service, blocking};

/// Folder of the evaluations, in the data directory.
pub(super) const FOLDER: &str = "evaluations";
/// Most models of a comparison.
const MOST_MODELS: usize = 8;
/// Most draws.
const MOST_RUNS: usize = 100;

/// What to evaluate on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationAsk {
    /// Models by name; the first is what the others are compared with.
    pub models: Vec<String>,
    /// Labelled images; not a gallery's.
    pub data: ImageSource,
    /// Which of its images.
    pub selection: Selection,
    /// Subject-bootstrap replicates of an interval.
    pub replicates: usize,
    /// Whether people that a model was trained on may be evaluated.
    pub allow_leak: bool,
}

impl EvaluationAsk {
    fn check(&self) -> Result<(), ServiceError> {
        let within = |field, got: usize, low: usize, high: usize| {
            if (low..=high).contains(&got) {
                return Ok(());
            }
            let problem = format!("is {got}, {low} to {high} is taken");
            Err(ServiceError::Invalid { field, problem })
        };
        within("models", self.models.len(), 1, MOST_MODELS)?;
        within("runs", self.selection.runs, 1, MOST_RUNS)?;
        within("enrolled", self.selection.enrolled, 1, 1000)?;
        within("replicates", self.replicates, 100, 100_000)?;
        let mut names = self.models.clone();
        names.sort();
        names.dedup();
        if names.len() != self.models.len() {
            let problem = "names a model twice".to_owned();
            return Err(ServiceError::Invalid { field: "models", problem });
        }
        if self.selection.hold_out.is_some_and(|(share, _)| !(0.0..1.0).contains(&share)) {
            let problem = "must be at least 0 and less than 1".to_owned();
            return Err(ServiceError::Invalid { field: "hold_out", problem });
        }
        Ok(())
    }
}

/// What an evaluation found, or how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EvaluationView {
    /// The job.
    pub job: JobView,
    /// The evaluation or comparison in full, once there is one.
    pub result: Option<Value>,
    /// Whether the second model may take the first one's place, where the first one served and two were compared.
    pub gate: Option<GateTable>,
    /// Names of the charts that `GET …/{file}` gives.
    pub charts: Vec<String>,
}

/// A file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFile {
    /// Its media type.
    pub content_type: &'static str,
    /// Its content.
    pub content: Vec<u8>,
}

/// The job's input.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    #[serde(flatten)]
    ask: EvaluationAsk,
    /// Whether the first model served when it was asked for, so that there is a gate.
    gate: bool,
}

impl Service {
    /// Has a job evaluate a model, or compare several.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`], [`ServiceError::ModelNotFound`], [`ServiceError::QueueFull`].
    pub async fn start_evaluation(&self, ask: EvaluationAsk) -> Result<JobView, ServiceError> {
        ask.check()?;
        let service = self.clone();
        let deed = Deed::new("evaluation.start").about(ask.models.join(","));
        self.change(deed, move || {
            let workshop = &service.0.workshop;
            let mut ask = ask;
            // What a name means now is what is evaluated, whatever is deployed until then.
            for name in &mut ask.models {
                *name = service.alias(name)?;
                workshop.choice(name)?;
            }
            workshop.evaluation_images(&ask.data)?;
            let champion = service.alias("champion")?;
            // Whoever was trained on is no witness for a challenger.
            let gate = ask.models.len() == 2 && ask.models[0] == champion && !ask.allow_leak;
            ask.check()?;
            let input = serde_json::to_value(Input { ask, gate })
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
            Ok(service.0.jobs.enqueue(EVALUATE, input)?.into())
        })
        .await
    }

    /// A page of the evaluations, the newest first.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a limit out of bounds or a token that is none.
    pub fn evaluations(&self, page: &PageRequest) -> Result<JobPageView, ServiceError> {
        self.jobs_of(EVALUATE, page)
    }

    /// The jobs of a kind.
    pub(super) fn jobs_of(
        &self,
        kind: &str,
        page: &PageRequest,
    ) -> Result<JobPageView, ServiceError> {
        check_limit(page.limit)?;
        let filter = JobFilter { kind: Some(kind.to_owned()), ..JobFilter::default() };
        let found = self.0.jobs.list(&filter, page.token.as_deref(), page.limit)?;
        let jobs = found.jobs.into_iter().map(JobView::from).collect();
        Ok(JobPageView { jobs, next_page_token: found.next })
    }

    /// A job of a kind; one of another kind is not there.
    pub(super) fn job_of(&self, kind: &str, id: JobId) -> Result<JobView, ServiceError> {
        let job = self.0.jobs.read(id)?;
        if job.kind == kind { Ok(job.into()) } else { Err(ServiceError::JobNotFound(id)) }
    }

    /// Ends an evaluation that waits, or asks one that runs to end.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::JobNotCancellable`].
    pub async fn cancel_evaluation(&self, id: JobId) -> Result<JobView, ServiceError> {
        self.job_of(EVALUATE, id)?;
        self.cancel_any_job(id).await
    }

    /// One evaluation.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`].
    pub async fn evaluation(&self, id: JobId) -> Result<EvaluationView, ServiceError> {
        let service = self.clone();
        blocking(move || {
            let job = service.job_of(EVALUATE, id)?;
            let dir = service.0.workshop.folder(FOLDER, id);
            if job.state != Stage::Succeeded {
                return Ok(EvaluationView { job, result: None, gate: None, charts: Vec::new() });
            }
            let json = |name: &str| -> Option<Value> {
                serde_json::from_slice(&std::fs::read(dir.join(name)).ok()?).ok()
            };
            let result = json("comparison.json").or_else(|| json("evaluation.json"));
            let gate = json("gate.json").and_then(|table| serde_json::from_value(table).ok());
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let mut charts: Vec<String> = entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.ends_with(".svg"))
                .collect();
            charts.sort();
            Ok(EvaluationView { job, result, gate, charts })
        })
        .await
    }

    /// A file of an evaluation's report: `report.html`, `report.md`, or a chart. `cmc.svg` and `det.svg` are those of the first
    /// kind of hand.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::NoSuchFile`].
    pub async fn evaluation_file(&self, id: JobId, name: &str) -> Result<ReportFile, ServiceError> {
        self.job_of(EVALUATE, id)?;
        let (dir, name) = (self.0.workshop.folder(FOLDER, id), name.to_owned());
        blocking(move || report_file(&dir, &name)).await
    }

    /// The table of an evaluation that compared the model that serves with another, and that other's thresholds.
    pub(super) fn gate_of(
        &self,
        id: JobId,
    ) -> Result<(GateTable, Option<Calibration>), ServiceError> {
        let job = self.job_of(EVALUATE, id)?;
        let dir = self.0.workshop.folder(FOLDER, id);
        let table = std::fs::read(dir.join("gate.json")).ok();
        let table = table.and_then(|text| serde_json::from_slice(&text).ok());
        let table = table.filter(|_| job.state == Stage::Succeeded);
        let calibration = std::fs::read(dir.join("calibration.json")).ok();
        let calibration = calibration.and_then(|text| serde_json::from_slice(&text).ok());
        Ok((table.ok_or(ServiceError::GateMissing)?, calibration))
    }
}

/// A file of a report by its plain name.
pub(super) fn report_file(dir: &Path, name: &str) -> Result<ReportFile, ServiceError> {
    let missing = || ServiceError::NoSuchFile(name.chars().take(64).collect());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let content_type = match name.rsplit_once('.') {
        Some((_, "svg")) => "image/svg+xml",
        Some(("report", "html")) => "text/html; charset=utf-8",
        Some(("report", "md")) => "text/markdown; charset=utf-8",
        _ => return Err(missing()),
    };
    if !plain || name.starts_with('.') {
        return Err(missing());
    }
    let first = || -> Option<PathBuf> {
        if !name.ends_with(".svg") {
            return None;
        }
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let own = path.file_name().unwrap_or_default().to_string_lossy();
                let kind = name.trim_end_matches(".svg");
                own.starts_with(&format!("{kind}_"))
            })
            .collect();
        paths.sort();
        paths.into_iter().next()
    };
    let path = dir.join(name);
    let path = if path.is_file() { Some(path) } else { first() };
    let content = path.and_then(|path| std::fs::read(path).ok()).ok_or_else(missing)?;
    Ok(ReportFile { content_type, content })
}

/// Keeps the models of a job from being deleted while it runs.
pub(super) fn hold(
    workshop: &Workshop,
    names: &[String],
) -> Result<(Vec<ModelChoice>, Vec<Held>), JobFailure> {
    let (mut choices, mut held) = (Vec::new(), Vec::new());
    for name in names {
        let choice = workshop.choice(name).map_err(|e| failure("model_not_found", &e))?;
        if matches!(choice, ModelChoice::Registered { .. }) {
            let hold = workshop.registry.hold(name);
            held.push(hold.map_err(|e| failure("model_not_found", &e))?);
        }
        choices.push(choice);
    }
    Ok((choices, held))
}

fn failure(code: &str, error: &dyn std::error::Error) -> JobFailure {
    JobFailure::new(code, chain(error))
}

/// Why a job failed: a code, and words in which there is no path of the machine.
fn evaluate_failure(error: &EvaluateError) -> JobFailure {
    if matches!(error, EvaluateError::Cancelled) {
        return JobFailure::interrupted();
    }
    let told: &[(bool, &str, Option<&str>)] = &[
        (
            matches!(error, EvaluateError::Leak(_)),
            "leak",
            Some(
                "a model was trained on people of this data, or nobody can tell: allow it with `allow_leak`, or take \
                 other people, with `hold_out` for instance",
            ),
        ),
        (
            matches!(error, EvaluateError::Dataset(_)),
            "dataset",
            Some("the folder holds no data set that can be read: see `handclip dataset inspect`"),
        ),
        (
            matches!(error, EvaluateError::NoTree(_)),
            "dataset",
            Some("the folder holds no query0 and gallery0"),
        ),
        (
            matches!(error, EvaluateError::NoDistractors(_)),
            "dataset",
            Some("the folder holds no gallery0_all"),
        ),
        (
            matches!(
                error,
                EvaluateError::NothingLeft
                    | EvaluateError::HoldOut(_)
                    | EvaluateError::AllRefused { .. }
            ),
            "dataset",
            None,
        ),
        (matches!(error, EvaluateError::Model(_) | EvaluateError::Service(_)), "model", None),
        (
            matches!(error, EvaluateError::Storage(_) | EvaluateError::Write { .. }),
            "storage",
            Some("the evaluation's folder cannot be written"),
        ),
    ];
    let found = told.iter().find(|(is, ..)| *is);
    let (code, words) = found.map_or(("evaluation", None), |(_, code, words)| (*code, *words));
    JobFailure::new(code, words.map_or_else(|| chain(error), str::to_owned))
}

/// Runs an evaluation; one that was interrupted starts over.
pub(super) fn run(workshop: &Workshop, context: &JobContext<'_>) -> Result<Value, JobFailure> {
    let Input { ask, gate } = serde_json::from_value(context.input().clone())
        .map_err(|error| JobFailure::new("invalid_input", error))?;
    let data = workshop.evaluation_images(&ask.data).map_err(|error| failure("dataset", &error))?;
    let (choices, _held) = hold(workshop, &ask.models)?;
    let out = workshop.new_folder(FOLDER, context.id())?;
    let cancel = Cancel::default();
    let options = EvaluateOptions {
        device: context.slot().to_owned(),
        cache: None,
        replicates: ask.replicates,
        allow_leak: ask.allow_leak,
        gate: gate.then_some(workshop.gate_margins),
        out: Some(out),
        show_images: false,
        command: format!("POST /v1/evaluations ({})", context.id()),
        cancel: cancel.clone(),
    };
    let models = ask.models.len() as u64;
    let turn = std::sync::atomic::AtomicU64::new(0);
    let progress = |event: EvaluateEvent| {
        if context.cancelled() {
            cancel.set();
        }
        match event {
            EvaluateEvent::Notice(line) => context.log(line),
            EvaluateEvent::System(name) => {
                turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                context.log(format!("embedding with {name}"));
            }
            EvaluateEvent::Embedded { done, total } => {
                let before = turn.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(1);
                let total = total as u64;
                context.progress(before * total + done as u64, models * total);
            }
            EvaluateEvent::Set(name) => context.log(format!("figures of {name}")),
        }
    };
    let mut systems = ask.models.iter().zip(choices);
    if models == 1
        && let Some((name, choice)) = systems.next()
    {
        let system = SystemChoice::of_model(name, choice);
        let request = EvaluateRequest { system, data, selection: ask.selection, options };
        let found = evaluate(&request, &progress).map_err(|error| evaluate_failure(&error))?;
        return Ok(json!({ "systems": [figures(&found)] }));
    }
    let systems = systems.map(|(name, choice)| SystemChoice::of_model(name, choice)).collect();
    let request = CompareRequest { systems, data, selection: ask.selection, options };
    let found = compare(&request, &progress).map_err(|error| evaluate_failure(&error))?;
    Ok(output(&found))
}

fn figures(evaluation: &Evaluation) -> Value {
    json!({
        "model": evaluation.system.name,
        "fingerprint": evaluation.system.fingerprint,
        "rank1": evaluation.overall.rank1.mean,
        "map": evaluation.overall.map.mean,
        "subjects": evaluation.data.subjects,
        "images": evaluation.data.images,
    })
}

fn output(comparison: &Comparison) -> Value {
    let systems: Vec<Value> = comparison.systems.iter().map(figures).collect();
    let gate = comparison.gate.as_ref().map(|table| {
        let failed: Vec<&str> =
            table.rows.iter().filter(|row| !row.passed).map(|row| row.criterion.as_str()).collect();
        json!({ "passed": table.passed, "failed": failed })
    });
    json!({ "systems": systems, "gate": gate })
}

/// What is evaluated when nothing is said of it.
#[must_use]
pub fn default_selection() -> Selection {
    Selection {
        protocol: Protocol::Auto,
        runs: 10,
        seed: 1,
        enrolled: 1,
        hold_out: None,
        accessories: false,
        other_capture: false,
    }
}

impl Workshop {
    fn evaluation_images(&self, source: &ImageSource) -> Result<PathBuf, ServiceError> {
        match source {
            ImageSource::Directory(given) => resolve_images(&self.data_roots, "directory", given),
            ImageSource::Dataset(name) => self.dataset(name),
            ImageSource::Gallery(_) => Err(ServiceError::Invalid {
                field: "data",
                problem: "must be a directory or a dataset: whoever is enrolled is no test"
                    .to_owned(),
            }),
        }
    }

    /// What opens a model.
    pub(super) fn choice(&self, name: &str) -> Result<ModelChoice, ServiceError> {
        // One that the server was started with has a name, and a folder of its own.
        let live = Arc::clone(&self.deployments.load().live);
        if let Some(choice) = live.directory(name) {
            return Ok(choice);
        }
        Ok(self.registry.choice(name)?)
    }

    /// Removes the folders of evaluations and training runs whose jobs are not kept any more. A job that has not ended is kept, and
    /// is there before its folder is.
    pub(super) fn sweep_folders(&self, jobs: &Jobs) {
        for of in [FOLDER, super::training_runs::FOLDER] {
            let entries = std::fs::read_dir(self.data_dir.join(of)).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(id) = name.parse::<JobId>() else { continue };
                if matches!(jobs.read(id), Err(JobError::NotFound(_)))
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(%error, "the folder of a job that is not kept is not removed");
                }
            }
        }
    }

    /// The folder of a job.
    pub(super) fn folder(&self, of: &str, job: JobId) -> PathBuf {
        self.data_dir.join(of).join(job.to_string())
    }

    /// The same, made anew and empty, for its owner only.
    pub(super) fn new_folder(&self, of: &str, job: JobId) -> Result<PathBuf, JobFailure> {
        let dir = self.folder(of, job);
        let cleared = match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        cleared.map_err(|error| failure("storage", &error))?;
        crate::storage::file::create_private_dir(&dir)
            .map_err(|error| failure("storage", &error))?;
        Ok(dir)
    }
}
