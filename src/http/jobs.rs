use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ContentEncoding, LOCATION};
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa::{IntoParams, ToSchema};

use crate::domain::GalleryId;
use crate::service::{
    Caller, JobEvent, JobEvents, JobId, JobPageView, JobView, JobsRequest, Service, ServiceError,
};

use super::error::ApiError;
use super::extract::{nothing_else, page, query};

/// Streams of events that may be open at a time.
const MAX_STREAMS: usize = 32;
/// How often a stream that has nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The open streams of events, and the sign for them to end. Shared by all workers.
#[derive(Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Streams {
    pub(super) fn new(closing: watch::Receiver<bool>) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_STREAMS)), closing }
    }
}

/// Which jobs.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `query` reads it with errors in our form")]
pub(super) struct JobsQuery {
    /// Only those in this state: `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    state: Option<String>,
    /// Only those of this kind: `audit_gallery`, `compact_gallery`, `deploy`, `evaluate`, `train`.
    kind: Option<String>,
    /// Most entries, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// What the page before gave.
    page_token: Option<String>,
}

fn job_id(path: web::Path<String>) -> Result<JobId, ApiError> {
    Ok(path.into_inner().parse().map_err(ServiceError::JobId)?)
}

pub(super) fn accepted(job: &JobView) -> HttpResponse {
    let location = format!("/v1/jobs/{}", job.job);
    HttpResponse::Accepted().insert_header((LOCATION, location)).json(job)
}

/// Audit a gallery's index.
///
/// A job looks for every sample with its own template; a sound index finds all. Its output has the numbers.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 202, description = "Queued; `Location` names the job", body = JobView)))]
#[post("/v1/galleries/{gallery}:audit")]
pub(super) async fn audit(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted(&service.start_audit(&GalleryId::new(path.into_inner())?).await?))
}

/// Merge a gallery's index.
///
/// A job merges recent enrolments into the index and saves it for a fast start. Nothing depends on it: the server
/// does so by itself when it is due.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 202, description = "Queued; `Location` names the job", body = JobView)))]
#[post("/v1/galleries/{gallery}:compact")]
pub(super) async fn compact(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted(&service.start_compaction(&GalleryId::new(path.into_inner())?).await?))
}

/// List jobs.
///
/// Ended ones are kept for 30 days, the newest thousand at most.
#[utoipa::path(tag = "jobs", params(JobsQuery),
    responses((status = 200, description = "A page, the newest first", body = JobPageView)))]
#[get("/v1/jobs")]
pub(super) async fn list(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let page = page(&mut query)?;
    let wanted = JobsRequest { state: query.remove("state"), kind: query.remove("kind") };
    nothing_else(&query)?;
    Ok(HttpResponse::Ok().json(service.jobs(&wanted, &page)?))
}

/// Read a job.
#[utoipa::path(tag = "jobs", params(("job" = String, Path, description = "The job")),
    responses((status = 200, description = "The job", body = JobView)))]
#[get("/v1/jobs/{job:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.job(job_id(path)?)?))
}

/// Cancel a job.
///
/// One that waits has ended with the answer; one that runs ends soon after, or succeeds if it was about to. Asking
/// again changes nothing.
#[utoipa::path(tag = "jobs", params(("job" = String, Path, description = "The job")),
    responses((status = 202, description = "Cancelled, or told to end", body = JobView)))]
#[post("/v1/jobs/{job}:cancel")]
pub(super) async fn cancel(
    service: web::Data<Service>,
    path: web::Path<String>,
    caller: web::ReqData<Caller>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted(&service.cancel_job(job_id(path)?, &caller).await?))
}

/// Retry a job.
///
/// One that failed or was cancelled is queued again under its own name, and goes on from its last durable step.
#[utoipa::path(tag = "jobs", params(("job" = String, Path, description = "The job")),
    responses((status = 202, description = "Queued again", body = JobView)))]
#[post("/v1/jobs/{job}:retry")]
pub(super) async fn retry(
    service: web::Data<Service>,
    path: web::Path<String>,
    caller: web::ReqData<Caller>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted(&service.retry_job(job_id(path)?, &caller).await?))
}

/// An event of a stream, as the schema shows it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the stream")]
pub(super) struct StreamedEvent {
    /// The event's number.
    id: String,
    /// `state`, `progress` or `log`.
    event: String,
    /// The event as JSON.
    data: String,
}

/// Follow a job.
///
/// Server-sent events: `id` is the event's number, `event` is `state`, `progress` or `log`, `data` is one line of JSON
/// with `id`, `at_ms`, `event`, and for a state `stage`, `attempts`, `resumed`, `cancelling`, `failure`; for
/// progress `done`, `total`, `rate`, `eta_s`; for a log `line`. Those that are kept come first, those after
/// `Last-Event-ID` if it is given, then others as they happen; a progress is dropped once there is a newer one. The stream
/// ends when the job does; asking again after its last event answers 204, at which a browser gives up.
#[utoipa::path(tag = "jobs",
    params(("job" = String, Path, description = "The job"), ("Last-Event-ID" = Option<u64>, Header, description = "The number of the last event that was read")),
    responses(
        (status = 200, description = "The events", body = StreamedEvent, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended and its last event was read")))]
#[get("/v1/jobs/{job:[^:/]+}/events")]
pub(super) async fn follow(
    service: web::Data<Service>,
    streams: web::Data<Streams>,
    path: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let id = job_id(path)?;
    let after = last_event_id(&request)?;
    let events = service.job_events(id, after.unwrap_or(0)).await?;
    if after.is_some() && events.is_over() {
        return Ok(HttpResponse::NoContent().finish());
    }
    let place = Arc::clone(&streams.places).try_acquire_owned().map_err(|_| {
        let detail =
            format!("{MAX_STREAMS} streams of events are open, which is as many as may be");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(5)
    })?;
    let feed = Feed { events, closing: streams.closing.clone(), begun: false, _place: place };
    let body = unfold(feed, |mut feed| async move {
        let text = feed.next().await?;
        Some((Ok::<_, actix_web::Error>(web::Bytes::from(text)), feed))
    });
    // Compression would hold events back until it has enough of them.
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(ContentEncoding::Identity)
        .streaming(body))
}

fn last_event_id(request: &HttpRequest) -> Result<Option<u64>, ApiError> {
    let Some(header) = request.headers().get("last-event-id") else { return Ok(None) };
    let number = header.to_str().ok().and_then(|text| text.trim().parse().ok());
    let refuse = || ApiError::field("Last-Event-ID", "is not the number of an event");
    number.map(Some).ok_or_else(refuse)
}

/// An open stream.
struct Feed {
    events: JobEvents,
    closing: watch::Receiver<bool>,
    begun: bool,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// What to send next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            return Some("retry: 2000\n\n".to_owned());
        }
        tokio::select! {
            // An end that is near is told before the server goes.
            biased;
            events = self.events.next() => Some(events?.iter().map(written).collect()),
            _ = self.closing.wait_for(|closing| *closing) => None,
            () = tokio::time::sleep(HEARTBEAT) => Some(": still here\n\n".to_owned()),
        }
    }
}

/// An event on the wire. JSON has no bare line ends, so it is one line of data.
fn written(event: &JobEvent) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind.name())
}
