use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::service::evaluate::GateTable;
use crate::service::{Refusal, ServiceError};

/// An error as RFC 9457 lays it out. `code` is stable; the words are for people.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Names the kind of error.
    #[serde(rename = "type")]
    #[schema(example = "urn:handclip:error:gallery_not_found")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do.
    detail: String,
    /// Stable; for programs.
    #[schema(example = "gallery_not_found")]
    code: String,
    /// The request's number, also in the header `x-request-id` and in the log.
    request_id: String,
    /// What is wrong with single fields.
    errors: Vec<FieldError>,
    /// What the gate found, of `gate_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateTable>,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// The field.
    pub(super) field: String,
    /// What is wrong with it.
    pub(super) problem: String,
}

/// An error on its way to the wire; the frame adds the request's number and writes it.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u32>,
    gate: Option<Box<GateTable>>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            gate: None,
        }
    }

    pub(super) fn field(field: &str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let mut error =
            Self::new(StatusCode::BAD_REQUEST, "invalid_request", format!("`{field}` {problem}"));
        error.errors.push(FieldError { field: field.to_owned(), problem });
        error
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(super) fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: format!("urn:handclip:error:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            code: self.code.to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
            gate: self.gate.as_deref().cloned(),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"handclip\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self.clone());
        response
    }
}

/// The table from errors to the wire.
impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        let (status, code) = match &error {
            ServiceError::GalleryNotFound(_) => (StatusCode::NOT_FOUND, "gallery_not_found"),
            ServiceError::SubjectNotFound(_) => (StatusCode::NOT_FOUND, "subject_not_found"),
            ServiceError::SampleNotFound { .. } => (StatusCode::NOT_FOUND, "sample_not_found"),
            ServiceError::ModelNotFound(_) => (StatusCode::NOT_FOUND, "model_not_found"),
            ServiceError::JobNotFound(_) => (StatusCode::NOT_FOUND, "job_not_found"),
            ServiceError::NotCalibrated(_) => (StatusCode::NOT_FOUND, "not_calibrated"),
            ServiceError::GalleryExists(_) => (StatusCode::CONFLICT, "gallery_exists"),
            ServiceError::SampleExists(_) => (StatusCode::CONFLICT, "sample_exists"),
            ServiceError::Erasing(_) => (StatusCode::CONFLICT, "subject_being_erased"),
            ServiceError::JobNotCancellable(_) => (StatusCode::CONFLICT, "job_not_cancellable"),
            ServiceError::JobNotRetryable(_) => (StatusCode::CONFLICT, "job_not_retryable"),
            ServiceError::ModelMismatch { .. } => (StatusCode::CONFLICT, "model_mismatch"),
            ServiceError::Recipe(_) => (StatusCode::UNPROCESSABLE_ENTITY, "recipe_refused"),
            ServiceError::NoConsent(_) => (StatusCode::CONFLICT, "no_training_consent"),
            ServiceError::DatasetNotFound(_) => (StatusCode::NOT_FOUND, "dataset_not_found"),
            ServiceError::DatasetExists(_) => (StatusCode::CONFLICT, "dataset_exists"),
            ServiceError::DatasetInUse(_) => (StatusCode::CONFLICT, "dataset_in_use"),
            ServiceError::DatasetRefused(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "dataset_refused")
            }
            ServiceError::DatasetTooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "dataset_too_large")
            }
            ServiceError::ModelExists(_) => (StatusCode::CONFLICT, "model_exists"),
            ServiceError::ModelNotRegistered(_) => (StatusCode::CONFLICT, "model_not_registered"),
            ServiceError::ModelDeployed(_) => (StatusCode::CONFLICT, "model_deployed"),
            ServiceError::ModelRefused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "model_refused"),
            ServiceError::ModelTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "model_too_large"),
            ServiceError::ModelDamaged(_) => (StatusCode::CONFLICT, "model_damaged"),
            ServiceError::AlreadyServes(_) => (StatusCode::CONFLICT, "already_serves"),
            ServiceError::DeploymentUnderWay => (StatusCode::CONFLICT, "deployment_under_way"),
            ServiceError::Soaking => (StatusCode::CONFLICT, "soaking"),
            ServiceError::NothingToRollBack => (StatusCode::CONFLICT, "nothing_to_roll_back"),
            ServiceError::NoDeployment => (StatusCode::CONFLICT, "no_deployment"),
            ServiceError::ModelChanged(_) => (StatusCode::CONFLICT, "model_changed"),
            ServiceError::MatchesAnother(_) => (StatusCode::CONFLICT, "matches_another_subject"),
            ServiceError::ConsentRequired(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "consent_required")
            }
            ServiceError::Backup(_) => (StatusCode::CONFLICT, "backup_refused"),
            ServiceError::WithoutImages { .. } => (StatusCode::CONFLICT, "samples_without_image"),
            ServiceError::Uncalibrated(_) => (StatusCode::CONFLICT, "uncalibrated"),
            ServiceError::GateFailed(table) => {
                let mut refused = Self::new(StatusCode::CONFLICT, "gate_failed", detail);
                refused.gate = Some(table.clone());
                return refused;
            }
            ServiceError::KeyRefused(refusal) => {
                let code = match refusal {
                    Refusal::Missing => "key_missing",
                    Refusal::Malformed => "key_malformed",
                    Refusal::Unknown => "key_unknown",
                    Refusal::Revoked => "key_revoked",
                    Refusal::Expired => "key_expired",
                };
                (StatusCode::UNAUTHORIZED, code)
            }
            ServiceError::ScopeMissing(_) => (StatusCode::FORBIDDEN, "scope_missing"),
            ServiceError::GalleryForbidden(_) => (StatusCode::FORBIDDEN, "gallery_forbidden"),
            ServiceError::KeyNotFound(_) => (StatusCode::NOT_FOUND, "key_not_found"),
            ServiceError::KeyRevoked(_) => (StatusCode::CONFLICT, "key_is_revoked"),
            ServiceError::FirstKey(_) => (StatusCode::CONFLICT, "first_key"),
            ServiceError::LastAdminKey(_) => (StatusCode::CONFLICT, "last_admin_key"),
            ServiceError::NoSuchFile(_) => (StatusCode::NOT_FOUND, "file_not_found"),
            ServiceError::GateMissing => (StatusCode::CONFLICT, "gate_missing"),
            ServiceError::InsufficientMemory { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "insufficient_memory")
            }
            ServiceError::Gaps(_) => (StatusCode::CONFLICT, "gaps"),
            ServiceError::Id(_) | ServiceError::JobId(_) | ServiceError::KeyId(_) => {
                (StatusCode::BAD_REQUEST, "invalid_id")
            }
            ServiceError::Attributes(_) => (StatusCode::BAD_REQUEST, "invalid_attributes"),
            ServiceError::Invalid { field, problem } => return Self::field(field, problem.clone()),
            ServiceError::Image { code, .. } => (StatusCode::UNPROCESSABLE_ENTITY, *code),
            ServiceError::UnsupportedMedia(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            ServiceError::ImageTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "image_too_large"),
            ServiceError::Prompt(_) => (StatusCode::UNPROCESSABLE_ENTITY, "prompt_refused"),
            ServiceError::Busy { .. } => {
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail).retry_after(1);
            }
            ServiceError::QueueFull { .. } => {
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail)
                    .retry_after(10);
            }
            ServiceError::Full(_) => (StatusCode::INSUFFICIENT_STORAGE, "limit_reached"),
            ServiceError::StorageFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "storage_full"),
            ServiceError::Stopping => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail)
                    .retry_after(5);
            }
            // What follows names paths and internals: it goes to the log, not to the caller.
            ServiceError::StoreInUse(_)
            | ServiceError::Damaged(_)
            | ServiceError::Model(_)
            | ServiceError::Device(_)
            | ServiceError::Internal(_) => {
                tracing::error!(error = %detail, "a request failed");
                let detail =
                    "something failed here; the log has the reason under this request's number";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
            }
        };
        Self::new(status, code, detail)
    }
}

impl From<crate::domain::IdError> for ApiError {
    fn from(error: crate::domain::IdError) -> Self {
        ServiceError::from(error).into()
    }
}

/// An error that actix made: its status, in our form.
pub(super) fn from_status(status: StatusCode) -> ApiError {
    let code = match status {
        StatusCode::BAD_REQUEST => "invalid_request",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::REQUEST_TIMEOUT => "request_timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ if status.is_client_error() => "refused",
        _ => "internal",
    };
    ApiError::new(status, code, status.canonical_reason().unwrap_or("error").to_lowercase())
}
