//! Reading bodies within bounds, and paths, queries and JSON with errors in our form.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::service::{ArchivePart, PageRequest};

use super::error::ApiError;

/// Largest JSON body without an image in it, in bytes.
const MAX_SMALL_BODY: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;
/// What a body of any length must come at, in bytes a second.
const LEAST_RATE: usize = 16 * 1024;

/// How long a body may have taken of which so much has come.
fn time_for(received: usize, timeout: Duration) -> Duration {
    timeout.saturating_add(Duration::from_secs((received / LEAST_RATE) as u64))
}

/// Bounds on request bodies. Bodies are held in memory while they are read, so their sum is bounded
/// too: one more is told to come back.
#[derive(Clone)]
pub(super) struct BodyLimits {
    max_image: usize,
    timeout: Duration,
    budget: Arc<Semaphore>,
    budget_mib: usize,
}

/// A body, and its share of the memory for bodies, given back when it is dropped.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

impl BodyLimits {
    pub(super) fn new(max_image: usize, timeout: Duration) -> Self {
        // Eight of the largest uploads at a time, base64 and a copy counted.
        let budget_mib = (max_image.div_ceil(MIB) * 16).max(64);
        Self { max_image, timeout, budget: Arc::new(Semaphore::new(budget_mib)), budget_mib }
    }

    /// Largest body that holds `images` images, base64 counted.
    fn with_images(&self, images: usize) -> usize {
        (self.max_image / 3 * 4 * images + MAX_SMALL_BODY).min(self.budget_mib * MIB / 2)
    }

    async fn read(
        &self,
        request: &HttpRequest,
        mut payload: web::Payload,
        max: usize,
    ) -> Result<Body, ApiError> {
        let encoding = request.headers().get(CONTENT_ENCODING);
        if encoding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "send the body as it is, without a content-encoding";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ApiError::new(status, "unsupported_media_type", detail));
        }
        let too_large = || {
            let detail = format!("the body is larger than {max} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        };
        let declared = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let declared = declared.and_then(|text| text.parse::<usize>().ok());
        if declared.is_some_and(|length| length > max) {
            return Err(too_large());
        }
        // What was announced is all that is reserved, so no more than that is read.
        let max = declared.unwrap_or(max);
        let share = u32::try_from(max.div_ceil(MIB).max(1)).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.budget).try_acquire_many_owned(share).map_err(|_| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many uploads at a time")
                .retry_after(1)
        })?;
        let read = async {
            let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(MIB));
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| {
                    ApiError::new(StatusCode::BAD_REQUEST, "body_incomplete", error.to_string())
                })?;
                if bytes.len() + chunk.len() > max {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        match tokio::time::timeout(self.timeout, read).await {
            Ok(bytes) => Ok(Body { bytes: bytes?, _share: share }),
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", self.timeout.as_secs());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
            }
        }
    }
}

/// A request whose body is yet to be read.
pub(super) struct Incoming {
    request: HttpRequest,
    payload: web::Payload,
    limits: web::Data<BodyLimits>,
}

impl FromRequest for Incoming {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limits = request.app_data::<web::Data<BodyLimits>>().cloned();
        let internal = || super::error::from_status(StatusCode::INTERNAL_SERVER_ERROR);
        let body = web::Payload::from_request(request, payload).into_inner();
        std::future::ready(body.and_then(|payload| {
            let limits = limits.ok_or_else(internal)?;
            Ok(Self { request: request.clone(), payload, limits })
        }))
    }
}

impl Incoming {
    pub(super) fn request(&self) -> &HttpRequest {
        &self.request
    }

    /// The essence of the content type, lower case, without parameters.
    pub(super) fn content_type(&self) -> String {
        let header = self.request.headers().get(CONTENT_TYPE);
        let text = header.and_then(|value| value.to_str().ok()).unwrap_or("");
        text.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    /// The body, which may hold `images` images.
    pub(super) async fn body(self, images: usize) -> Result<Body, ApiError> {
        let max = self.limits.with_images(images);
        self.limits.read(&self.request, self.payload, max).await
    }

    /// A body that is too large for memory, part by part on its way to whoever takes it. It may pause for as long as any other
    /// body may take, and must come at [`LEAST_RATE`] on the whole: few are taken at a time. The code is `upload_refused` when nobody takes it any more: they say why.
    pub(super) async fn stream(
        mut self,
        content_type: &str,
        parts: tokio::sync::mpsc::Sender<ArchivePart>,
    ) -> Result<(), ApiError> {
        let unsupported = |detail: String| {
            ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        };
        if self.content_type() != content_type {
            return Err(unsupported(format!("send `content-type: {content_type}`")));
        }
        if self.request.headers().contains_key(CONTENT_ENCODING) {
            return Err(unsupported("send the body as it is, without a content-encoding".into()));
        }
        // Time that went by while nobody here took anything does not count.
        let (mut waited, mut received) = (Duration::ZERO, 0);
        loop {
            let begun = Instant::now();
            let left = time_for(received, self.limits.timeout).saturating_sub(waited);
            let left = left.min(self.limits.timeout);
            let next = tokio::time::timeout(left, self.payload.next()).await;
            let next = next.map_err(|_| {
                let detail = format!(
                    "the body came too slowly, or nothing for {} s",
                    self.limits.timeout.as_secs()
                );
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
            })?;
            waited += begun.elapsed();
            let Some(chunk) = next else {
                // Who has all that they want of it need not hear this.
                let _ = parts.send(ArchivePart::End).await;
                return Ok(());
            };
            let chunk = chunk.map_err(|error| {
                ApiError::new(StatusCode::BAD_REQUEST, "body_incomplete", error.to_string())
            })?;
            received += chunk.len();
            if parts.send(ArchivePart::Bytes(chunk.to_vec())).await.is_err() {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Err(ApiError::new(status, "upload_refused", "the upload was refused"));
            }
        }
    }

    /// A small JSON body.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        Ok(self.json_with_images(0).await?.0)
    }

    /// A JSON body, which may hold `images` images, and its share of the memory for bodies: to be held for as long as what was
    /// in it is.
    pub(super) async fn json_with_images<T: DeserializeOwned>(
        self,
        images: usize,
    ) -> Result<(T, Body), ApiError> {
        if self.content_type() != "application/json" {
            let detail = "send `content-type: application/json`";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ApiError::new(status, "unsupported_media_type", detail));
        }
        let mut body = self.body(images).await?;
        let parsed = parse(&body.bytes)?;
        body.bytes = Vec::new();
        Ok((parsed, body))
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let code = if error.is_data() { "invalid_request" } else { "malformed_json" };
        ApiError::new(StatusCode::BAD_REQUEST, code, format!("the body: {error}"))
    })
}

/// The query's parameters. One that comes twice is refused, so that no two readers differ on which holds.
pub(super) fn query(request: &HttpRequest) -> Result<HashMap<String, String>, ApiError> {
    let pairs: Vec<(String, String)> =
        web::Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|error| {
                ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", error.to_string())
            })?
            .into_inner();
    let mut map = HashMap::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value).is_some() {
            return Err(ApiError::field(&name, "is given twice"));
        }
    }
    Ok(map)
}

/// Takes which page of a list is wanted out of a query.
pub(super) fn page(query: &mut HashMap<String, String>) -> Result<PageRequest, ApiError> {
    let limit = match query.remove("limit") {
        None => 100,
        Some(text) => {
            text.parse().map_err(|_| ApiError::field("limit", "must be a whole number"))?
        }
    };
    Ok(PageRequest { limit, token: query.remove("page_token") })
}

/// Refuses a query of which something is left.
pub(super) fn nothing_else(query: &HashMap<String, String>) -> Result<(), ApiError> {
    match query.keys().next() {
        Some(name) => Err(ApiError::field(name, "is not a parameter of this request")),
        None => Ok(()),
    }
}
