use std::time::Instant;

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::service::{Readiness, Service};

use super::error::ApiError;
use super::frame::Frame;

/// When the server started.
#[derive(Clone, Copy)]
pub(super) struct Started(pub(super) Instant);

/// A sign of life.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {
    /// Always true.
    alive: bool,
    /// The program's version.
    version: &'static str,
}

/// Is the process alive?
#[utoipa::path(tag = "health", responses((status = 200, description = "It is", body = Alive)))]
#[get("/livez")]
pub(super) async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(Alive { alive: true, version: env!("CARGO_PKG_VERSION") })
}

/// Can it answer?
///
/// A test picture goes through the model.
#[utoipa::path(tag = "health", responses((status = 200, description = "It can", body = Readiness)))]
#[get("/readyz")]
pub(super) async fn readyz(service: web::Data<Service>) -> Result<HttpResponse, ApiError> {
    match service.ready().await {
        Ok(readiness) => Ok(HttpResponse::Ok().json(readiness)),
        Err(error) => {
            let status = actix_web::http::StatusCode::SERVICE_UNAVAILABLE;
            tracing::warn!(%error, "not ready");
            Err(ApiError::new(status, "not_ready", "the model does not answer").retry_after(1))
        }
    }
}

/// Metrics in OpenMetrics text format.
#[utoipa::path(tag = "health", responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text")))]
#[get("/metrics")]
pub(super) async fn metrics(
    service: web::Data<Service>,
    frame: web::Data<Frame>,
    started: web::Data<Started>,
) -> HttpResponse {
    let metrics = frame.metrics();
    metrics.set_in_flight(frame.in_flight());
    metrics.set_queue(service.queue_depth());
    metrics.set_uptime(started.0.elapsed());
    let galleries = service.galleries();
    metrics.set_galleries(galleries.iter().map(|gallery| (gallery.id.as_str(), gallery.samples)));
    let jobs = service.job_counts();
    let counted = jobs.iter().map(|((kind, state), count)| (kind.as_str(), state.as_str(), *count));
    metrics.set_work(counted, service.generation());
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(metrics.render())
}
