//! What happens round every request: its number, the bound on requests in flight, who may ask from
//! where, metrics, safe headers, and the one place where errors are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse, ResponseError as _, web};

use crate::service::{Caller, Service};
use crate::telemetry::Metrics;

use super::auth::{Operation, authorize};
use super::error::{ApiError, from_status};
use super::rate::{Allowance, Rates};

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
    rates: Option<Rates>,
    /// The whole API. A request that matches none of it goes no further, so that nothing is reached that this table does not know.
    operations: Vec<Operation>,
}

impl Frame {
    pub(super) fn new(
        metrics: Metrics,
        max_requests: usize,
        rates: Option<Rates>,
        paths: Vec<(String, Vec<Method>)>,
    ) -> Self {
        let operations = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.iter().map(|method| Operation::new(method.clone(), path))
            })
            .collect();
        let in_flight = AtomicUsize::new(0);
        Self(Arc::new(Inner { metrics, in_flight, max_requests, rates, operations }))
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
    let method = known(request.method());
    let Some(frame) = request.app_data::<web::Data<Frame>>().cloned() else {
        let error = from_status(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(request.into_response(error.error_response()).map_into_right_body());
    };
    let inner = &frame.0;
    let running = inner.in_flight.fetch_add(1, Ordering::Relaxed);
    let _in_flight = InFlight(&inner.in_flight);

    let is_probe = matches!(request.path(), "/livez" | "/readyz" | "/metrics");
    let admitted = if running >= inner.max_requests && !is_probe {
        let detail = format!("{running} requests are being answered, which is as many as may be");
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(1))
    } else {
        inner.admit(&request)
    };
    let response = match admitted {
        Err(error) => request.into_response(error.error_response()).map_into_right_body(),
        Ok(Admitted::Nothing(response)) => request.into_response(response).map_into_right_body(),
        Ok(Admitted::As(caller)) => {
            request.extensions_mut().insert(caller.clone());
            match caller.acting(next.call(request)).await {
                Ok(response) => response.map_into_left_body(),
                Err(error) => return Err(error),
            }
        }
    };
    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let allowance = response.request().extensions().get::<Allowance>().copied();
    let mut response = written(response, &id);
    let headers = response.headers_mut();
    if let Some(allowance) = allowance {
        allowance.write(headers);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if route.starts_with("/v1") {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let status = response.status().as_u16();
    inner.metrics.answered(method, &route, status, started.elapsed());
    tracing::info!(request_id = %id, method, route = %route, status, us = started.elapsed().as_micros() as u64, "answered");
    Ok(response)
}

/// A method's name, of those that anybody asks with. It stays in the metrics, and a client can make up any number of them.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
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

/// What becomes of a request.
enum Admitted {
    /// There is nothing there.
    Nothing(HttpResponse),
    /// It is answered.
    As(Caller),
}

impl Inner {
    /// Who asks, if they may.
    fn admit(&self, request: &ServiceRequest) -> Result<Admitted, ApiError> {
        let service = request.app_data::<web::Data<Service>>();
        let service = service.ok_or_else(|| from_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        if service.is_open() {
            refuse_strangers(request)?;
        }
        // The path that the router matches.
        let path = request.match_info().as_str();
        let documents = ["/docs", "/openapi.json"];
        if documents.contains(&path) || path.starts_with("/docs/") {
            return Ok(Admitted::As(Caller::local()));
        }
        let at: Vec<&Operation> = self.operations.iter().filter(|o| o.is_at(path)).collect();
        let asked: Vec<&Operation> =
            at.iter().copied().filter(|o| o.method == *request.method()).collect();
        if asked.is_empty() {
            return Ok(Admitted::Nothing(unmatched(&at)));
        }
        authorize(service, request, self.rates.as_ref(), &asked).map(Admitted::As)
    }
}

/// Without keys, a page in a browser on this machine must not reach the API: neither from
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
    for name in [ALLOW, RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = response.headers().get(&name) {
            answer.insert_header((name, value.clone()));
        }
    }
    let body = serde_json::to_string(&error.problem(id)).unwrap_or_default();
    response.into_response(answer.body(body)).map_into_right_body()
}

/// Where no operation matched: 405 with what is allowed, or 404.
fn unmatched(at: &[&Operation]) -> HttpResponse {
    let mut allowed: Vec<&str> = at.iter().map(|operation| operation.method.as_str()).collect();
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
