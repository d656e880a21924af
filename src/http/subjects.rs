use actix_web::{HttpRequest, HttpResponse, delete, get, post, put, web};
use utoipa::IntoParams;

use crate::domain::{Consent, GalleryId, SubjectId};
use crate::service::{
    Caller, ConsentSchema, ErasureCheckView, ErasureList, ErasureView, Service, ServiceError,
    SubjectPage, SubjectView,
};

use super::error::ApiError;
use super::extract::{Incoming, nothing_else, page, query};

/// A gallery and a subject, as a path names them.
pub(super) type SubjectPath = web::Path<(String, String)>;

pub(super) fn ids(path: SubjectPath) -> Result<(GalleryId, SubjectId), ApiError> {
    let (gallery, subject) = path.into_inner();
    Ok((GalleryId::new(gallery)?, SubjectId::new(subject)?))
}

/// Which page.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `query` reads it with errors in our form")]
pub(super) struct PageQuery {
    /// Most entries, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// What the page before gave.
    page_token: Option<String>,
}

/// List a gallery's subjects.
#[utoipa::path(tag = "subjects", params(("gallery" = String, Path, description = "The gallery"), PageQuery),
    responses((status = 200, description = "A page, by id", body = SubjectPage)))]
#[get("/v1/galleries/{gallery}/subjects")]
pub(super) async fn list(
    service: web::Data<Service>,
    path: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let mut query = query(&request)?;
    let page = page(&mut query)?;
    nothing_else(&query)?;
    Ok(HttpResponse::Ok().json(service.subjects(&gallery, &page)?))
}

/// Read a subject with their samples.
#[utoipa::path(tag = "subjects",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "The subject")),
    responses((status = 200, description = "The subject", body = SubjectView)))]
#[get("/v1/galleries/{gallery}/subjects/{subject}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: SubjectPath,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = ids(path)?;
    Ok(HttpResponse::Ok().json(service.subject(&gallery, &subject)?))
}

/// Erase a subject.
///
/// Their data key is destroyed first, then every record under it. The answer is the receipt.
#[utoipa::path(tag = "subjects",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "The subject")),
    responses((status = 200, description = "Erased, durably", body = ErasureView)))]
#[delete("/v1/galleries/{gallery}/subjects/{subject}")]
pub(super) async fn erase(
    service: web::Data<Service>,
    path: SubjectPath,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = ids(path)?;
    Ok(HttpResponse::Ok().json(service.erase_subject(&gallery, &subject).await?))
}

/// Write down a consent.
///
/// What the subject agreed to, in the place of what they agreed to before. They are erased when it ends, so having it
/// end sooner than it did (or, where there was none, within a day) takes the scope `erase` as well.
#[utoipa::path(tag = "subjects",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "The subject")),
    request_body = ConsentSchema,
    responses((status = 200, description = "The subject", body = SubjectView)))]
#[put("/v1/galleries/{gallery}/subjects/{subject}/consent")]
pub(super) async fn set_consent(
    service: web::Data<Service>,
    path: SubjectPath,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = ids(path)?;
    let consent: Consent = incoming.json().await?;
    Ok(HttpResponse::Ok().json(service.set_consent(&gallery, &subject, consent).await?))
}

/// List erasures.
///
/// Everything that was ever erased, naming nobody. Kept apart from the data it lets whoever puts back a backup after a loss do so
/// without those who are in it and were erased since: `handclip gallery restore --erasures`.
#[utoipa::path(tag = "audit", operation_id = "list_erasures",
    responses((status = 200, description = "The list", body = ErasureList)))]
#[get("/v1/erasures")]
pub(super) async fn erasures(service: web::Data<Service>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.erasures().await?))
}

/// Check a receipt of an erasure.
///
/// Whether this store issued it, unaltered, and whether somebody of that name is enrolled now.
#[utoipa::path(tag = "audit", operation_id = "verify_erasure", request_body = ErasureView,
    responses((status = 200, description = "What it is worth", body = ErasureCheckView)))]
#[post("/v1/erasures:verify")]
pub(super) async fn verify_erasure(
    service: web::Data<Service>,
    caller: web::ReqData<Caller>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let receipt: ErasureView = incoming.json().await?;
    if !caller.may_reach(receipt.gallery.as_str()) {
        return Err(ServiceError::GalleryForbidden(receipt.gallery.to_string()).into());
    }
    Ok(HttpResponse::Ok().json(service.verify_erasure(receipt)?))
}
