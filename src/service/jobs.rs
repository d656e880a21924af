//! What jobs do, and what a caller can ask of them. `crate::jobs` runs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Caller;
use crate::domain::{GalleryId, Scope};
use crate::gallery::{Gallery, GalleryError};
use crate::jobs::{Handlers, JobContext, JobFailure, JobFilter, JobId, Stage, Subscription};

use super::audit::Deed;
use super::error::ServiceError;
use super::galleries::PageRequest;
use super::keys::require;
use super::recognition::check_limit;
use super::views::{JobPageView, JobView};
use super::workshop::Workshop;
use super::{Service, blocking};

/// Every kind of job there is.
pub const JOB_KINDS: [&str; 5] = [AUDIT, COMPACT, DEPLOY, EVALUATE, TRAIN];
const AUDIT: &str = "audit_gallery";
const COMPACT: &str = "compact_gallery";
pub(super) const DEPLOY: &str = "deploy";
pub(super) const EVALUATE: &str = "evaluate";
pub(super) const TRAIN: &str = "train";

/// Which jobs of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobsRequest {
    /// Only those in this state.
    pub state: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
}

impl JobsRequest {
    fn filter(&self) -> Result<JobFilter, ServiceError> {
        let stage = match &self.state {
            None => None,
            Some(name) => {
                let found = Stage::ALL.into_iter().find(|stage| stage.as_str() == name);
                let names = Stage::ALL.map(Stage::as_str).join(", ");
                let problem = format!("must be one of {names}");
                Some(found.ok_or(ServiceError::Invalid { field: "state", problem })?)
            }
        };
        if self.kind.as_ref().is_some_and(|kind| !JOB_KINDS.contains(&kind.as_str())) {
            let problem = format!("must be one of {}", JOB_KINDS.join(", "));
            return Err(ServiceError::Invalid { field: "kind", problem });
        }
        Ok(JobFilter { stage, kind: self.kind.clone() })
    }
}

/// The input of a job that works on a gallery.
#[derive(Serialize, Deserialize)]
struct OfGallery {
    gallery: GalleryId,
}

impl Service {
    /// Has a job look for every sample of a gallery with its own template.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`], [`ServiceError::QueueFull`].
    pub async fn start_audit(&self, id: &GalleryId) -> Result<JobView, ServiceError> {
        self.start_on_gallery(AUDIT, id).await
    }

    /// Has a job merge recent enrolments into a gallery's index and write its snapshot.
    ///
    /// # Errors
    /// [`ServiceError::GalleryNotFound`], [`ServiceError::QueueFull`].
    pub async fn start_compaction(&self, id: &GalleryId) -> Result<JobView, ServiceError> {
        self.start_on_gallery(COMPACT, id).await
    }

    async fn start_on_gallery(
        &self,
        kind: &'static str,
        id: &GalleryId,
    ) -> Result<JobView, ServiceError> {
        self.0.galleries.get(id)?;
        let (jobs, input) = (self.0.jobs.clone(), json!({ "gallery": id }));
        blocking(move || Ok(jobs.enqueue(kind, input)?.into())).await
    }

    /// A page of the jobs, the newest first.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a filter or a limit out of bounds or a token that is none.
    pub fn jobs(
        &self,
        request: &JobsRequest,
        page: &PageRequest,
    ) -> Result<JobPageView, ServiceError> {
        check_limit(page.limit)?;
        let found = self.0.jobs.list(&request.filter()?, page.token.as_deref(), page.limit)?;
        let jobs = found.jobs.into_iter().map(JobView::from).collect();
        Ok(JobPageView { jobs, next_page_token: found.next })
    }

    /// How many jobs of each kind stand where.
    #[must_use]
    pub fn job_counts(&self) -> BTreeMap<(String, Stage), usize> {
        self.0.jobs.counts()
    }

    /// One job.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`].
    pub fn job(&self, id: JobId) -> Result<JobView, ServiceError> {
        Ok(self.0.jobs.read(id)?.into())
    }

    /// A job's events after a number, as they come.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`].
    pub async fn job_events(&self, id: JobId, after: u64) -> Result<Subscription, ServiceError> {
        let jobs = self.0.jobs.clone();
        blocking(move || Ok(jobs.subscribe(id, after)?)).await
    }

    /// Ends a job that waits, or asks one that runs to end.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::JobNotCancellable`], [`ServiceError::ScopeMissing`] for a caller who
    /// could not have asked for such a job.
    pub async fn cancel_job(&self, id: JobId, caller: &Caller) -> Result<JobView, ServiceError> {
        self.may_change(id, caller)?;
        self.cancel_any_job(id).await
    }

    /// As [`Self::cancel_job`], for those who know that the caller may.
    pub(super) async fn cancel_any_job(&self, id: JobId) -> Result<JobView, ServiceError> {
        let jobs = self.0.jobs.clone();
        self.change(Deed::new("job.cancel").about(id), move || Ok(jobs.cancel(id)?.into())).await
    }

    /// Refuses a caller who could not have asked for such a job.
    fn may_change(&self, id: JobId, caller: &Caller) -> Result<(), ServiceError> {
        let kind = self.0.jobs.read(id)?.kind;
        require(
            caller,
            match kind.as_str() {
                DEPLOY => &[Scope::Deploy],
                EVALUATE => &[Scope::Train, Scope::Deploy],
                TRAIN => &[Scope::Train],
                _ => &[Scope::Admin],
            },
        )
    }

    /// Queues a job again that failed or was cancelled.
    ///
    /// # Errors
    /// [`ServiceError::JobNotFound`], [`ServiceError::JobNotRetryable`], [`ServiceError::QueueFull`].
    pub async fn retry_job(&self, id: JobId, caller: &Caller) -> Result<JobView, ServiceError> {
        self.may_change(id, caller)?;
        let jobs = self.0.jobs.clone();
        self.change(Deed::new("job.retry").about(id), move || Ok(jobs.retry(id)?.into())).await
    }
}

/// What is done for each kind.
pub(super) fn handlers(workshop: &Arc<Workshop>) -> Handlers {
    let with = |work: fn(&Workshop, &JobContext<'_>) -> Result<Value, JobFailure>| {
        let workshop = Arc::clone(workshop);
        move |context: &JobContext<'_>| work(&workshop, context)
    };
    Handlers::default()
        .with(AUDIT, with(|shop, context| audit(&*gallery(shop, context)?, context)))
        .with(COMPACT, with(|shop, context| compact(&*gallery(shop, context)?, context)))
        .with(DEPLOY, with(super::deployment::deploy))
        .with(EVALUATE, with(super::evaluations::run))
        .with(TRAIN, with(super::training_runs::run))
}

fn gallery(workshop: &Workshop, context: &JobContext<'_>) -> Result<Arc<Gallery>, JobFailure> {
    let OfGallery { gallery } = serde_json::from_value(context.input().clone())
        .map_err(|error| JobFailure::new("invalid_input", error))?;
    workshop.galleries.get(&gallery).map_err(failure)
}

fn failure(error: GalleryError) -> JobFailure {
    let code = if matches!(error, GalleryError::GalleryNotFound(_)) {
        "gallery_not_found"
    } else if matches!(error, GalleryError::Storage(_)) {
        "storage"
    } else {
        "gallery"
    };
    JobFailure::new(code, error)
}

/// Starts over when it is resumed: what it says is of one moment. Gives numbers only, because the missed samples' ids
/// may name people; `handclip gallery check` prints them.
fn audit(gallery: &Gallery, context: &JobContext<'_>) -> Result<Value, JobFailure> {
    let audited = gallery.audit_while(|asked, of| {
        context.progress(asked as u64, of as u64);
        !context.cancelled()
    });
    let audit = audited.map_err(failure)?.ok_or_else(JobFailure::interrupted)?;
    context.log(format!("{} of {} samples find themselves", audit.found, audit.samples));
    Ok(json!({ "samples": audit.samples, "found": audit.found, "missed": audit.missed.len() }))
}

fn compact(gallery: &Gallery, context: &JobContext<'_>) -> Result<Value, JobFailure> {
    let before = gallery.info();
    context.log(format!(
        "{} samples, {} of them since the last merge",
        before.samples, before.index.tail
    ));
    match gallery.compact_unless(context.cancel_flag()) {
        Ok(()) => {}
        Err(GalleryError::Index(_)) if context.cancelled() => return Err(JobFailure::interrupted()),
        Err(error) => return Err(failure(error)),
    }
    let index = gallery.info().index;
    context.log("merged and saved");
    Ok(json!({ "segment": index.segment, "tail": index.tail, "removed": index.removed }))
}
