//! What happens round every request: its number, the bound on requests in flight, who may ask from
//! where, metrics, safe headers, and the one place where errors are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ResourceDef, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _, web};

use crate::telemetry::Metrics;

use super::error::{ApiError, from_status};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's number, for handlers that write errors themselves.
#[derive(Clone)]
pub(super) struct RequestNumber(pub(super) String);

/// Shared by all workers.
#[derive(Clone)]
pub(super) struct Frame(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    in_flight: AtomicUsize,
    max_requests: usize,
    /// Every path of the API with its methods, to tell a wrong method from a wrong path.
    paths: Vec<(ResourceDef, Vec<Method>)>,
}

impl Frame {
    pub(super) fn new(
        metrics: Metrics,
        max_requests: usize,
        paths: Vec<(String, Vec<Method>)>,
    ) -> Self {
        let paths = paths
            .into_iter()
            .map(|(path, methods)| {
                let path = path.replace("{gallery}", "{gallery:[^:/]+}");
                let path = path.replace("{model}", "{model:[^:/]+}");
                let path = path.replace("{run}", "{run:[^:/]+}");
                let path = path.replace("{evaluation}", "{evaluation:[^:/]+}");
                (ResourceDef::new(path.replace("{job}", "{job:[^:/]+}")), methods)
            })
            .collect();
        Self(Arc::new(Inner { metrics, in_flight: AtomicUsize::new(0), max_requests, paths }))
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    request.extensions_mut().insert(RequestNumber(id.clone()));
    let method = request.method().clone();
    let Some(frame) = request.app_data::<web::Data<Frame>>().cloned() else {
        let error = from_status(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(request.into_response(error.error_response()).map_into_right_body());
    };
    let inner = &frame.0;
    let running = inner.in_flight.fetch_add(1, Ordering::Relaxed);
    let _in_flight = InFlight(&inner.in_flight);

    let is_probe = matches!(request.path(), "/livez" | "/readyz" | "/metrics");
    let refusal = if running >= inner.max_requests && !is_probe {
        let detail = format!("{running} requests are being answered, which is as many as may be");
        Some(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(1))
    } else {
        refuse_strangers(&request).err()
    };
    let response = match refusal {
        Some(error) => request.into_response(error.error_response()).map_into_right_body(),
        None => match next.call(request).await {
            Ok(response) => response.map_into_left_body(),
            Err(error) => return Err(error),
        },
    };
    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let mut response = written(response, &id);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if route.starts_with("/v1") {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let status = response.status().as_u16();
    inner.metrics.answered(method.as_str(), &route, status, started.elapsed());
    tracing::info!(request_id = %id, method = %method, route = %route, status, us = started.elapsed().as_micros() as u64, "answered");
    Ok(response)
}

/// The caller's own number if it is sane, else a new one.
fn request_id(request: &ServiceRequest) -> String {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(sane).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// There are no keys yet, so a page in a browser on this machine must not reach the API: neither from
/// its own origin, nor by a name that was made to point here.
fn refuse_strangers(request: &ServiceRequest) -> Result<(), ApiError> {
    let header =
        |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = header(HOST).unwrap_or("");
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let local = name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !local {
        let detail = "without API keys only requests to a loopback host name are answered";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", detail));
    }
    match header(ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, rest)| rest) != Some(host) => {
            let detail = "requests from pages of another origin are not answered";
            Err(ApiError::new(StatusCode::FORBIDDEN, "cross_origin", detail))
        }
        _ => Ok(()),
    }
}

/// Writes errors as problem+json, ours and those that actix made.
fn written<B: MessageBody>(
    response: ServiceResponse<EitherBody<B>>,
    id: &str,
) -> ServiceResponse<EitherBody<B>> {
    let status = response.status();
    let ours = response.response().extensions().get::<ApiError>().cloned();
    let error = match ours {
        Some(error) => error,
        None if status.is_client_error() || status.is_server_error() => from_status(status),
        None => return response,
    };
    let mut answer = HttpResponse::build(error.status);
    answer.insert_header((CONTENT_TYPE, "application/problem+json"));
    for name in [ALLOW, actix_web::http::header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            answer.insert_header((name, value.clone()));
        }
    }
    let body = serde_json::to_string(&error.problem(id)).unwrap_or_default();
    response.into_response(answer.body(body)).map_into_right_body()
}

/// Where no operation matched: 405 with what is allowed, or 404.
pub(super) fn unmatched(request: &HttpRequest, frame: &Frame) -> HttpResponse {
    let matching = frame.0.paths.iter().filter(|(path, _)| path.is_match(request.path()));
    let mut allowed: Vec<&str> =
        matching.flat_map(|(_, methods)| methods.iter().map(Method::as_str)).collect();
    if allowed.is_empty() {
        let detail = "there is nothing at this path; GET /docs shows what there is";
        return ApiError::new(StatusCode::NOT_FOUND, "not_found", detail).error_response();
    }
    allowed.sort_unstable();
    allowed.dedup();
    let allowed = allowed.join(", ");
    let detail = format!("this path takes {allowed}");
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .error_response();
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}
