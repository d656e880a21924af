use actix_web::http::header::{CONTENT_DISPOSITION, ContentEncoding};
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use futures_util::stream::unfold;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::{GalleryId, SubjectId, now_ms};
use crate::service::{AuditCheckView, AuditHead, AuditPage, AuditQuery, Service};

use super::error::ApiError;
use super::extract::{Incoming, nothing_else, query};

/// Heads that were seen before.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditCheckBody {
    /// The chain must pass through each of them.
    #[serde(default)]
    expect: Vec<AuditHead>,
}

/// Read the audit log.
///
/// Who did what, the oldest first: a line before anything is changed, and one on how it went. People stand in it as keyed hashes; give
/// `subject` to find those of one.
#[utoipa::path(tag = "audit", operation_id = "read_audit", params(AuditQuery),
    responses((status = 200, description = "Some lines", body = AuditPage)))]
#[get("/v1/audit")]
pub(super) async fn read(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let number = |name: &str, text: Option<String>, default: u64| match text {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| ApiError::field(name, "must be a whole number")),
    };
    let after = number("after", query.remove("after"), 0)?;
    let limit = number("limit", query.remove("limit"), 100)?;
    let asked = AuditQuery {
        after,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        gallery: query.remove("gallery").map(GalleryId::new).transpose()?,
        subject: query.remove("subject").map(SubjectId::new).transpose()?,
    };
    nothing_else(&query)?;
    Ok(HttpResponse::Ok().json(service.audit_lines(asked).await?))
}

/// Check the audit log.
///
/// Follows the chain over every line. Heads that were kept elsewhere tell whether the end was taken away with everything else.
#[utoipa::path(tag = "audit", operation_id = "verify_audit", request_body = AuditCheckBody,
    responses((status = 200, description = "What was found", body = AuditCheckView)))]
#[post("/v1/audit:verify")]
pub(super) async fn verify(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let AuditCheckBody { expect } = incoming.json().await?;
    Ok(HttpResponse::Ok().json(service.check_audit(expect).await?))
}

/// Make a backup.
///
/// The whole store as it is at one moment, sealed under keys that the master key opens: galleries, keys, jobs, audit log; not the files of
/// registered models and uploads. Everything goes on meanwhile. `handclip gallery restore` puts it back.
#[utoipa::path(tag = "audit",
    responses((status = 200, description = "The backup", body = String, content_type = "application/octet-stream")))]
#[get("/v1/backup")]
pub(super) async fn backup(service: web::Data<Service>) -> Result<HttpResponse, ApiError> {
    let parts = service.backup().await?;
    // An error ends the connection, so that nobody takes half a backup for all of it.
    let body = unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part.map(web::Bytes::from), parts))
    });
    let name = format!("attachment; filename=\"handclip-{}.backup\"", now_ms());
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header(ContentEncoding::Identity)
        .insert_header((CONTENT_DISPOSITION, name))
        .streaming(body))
}
