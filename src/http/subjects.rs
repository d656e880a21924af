use actix_web::{HttpRequest, HttpResponse, delete, get, web};
use utoipa::IntoParams;

use crate::domain::{GalleryId, SubjectId};
use crate::service::{ErasureView, Service, SubjectPage, SubjectView};

use super::error::ApiError;
use super::extract::{nothing_else, page, query};

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
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = path.into_inner();
    let (gallery, subject) = (GalleryId::new(gallery)?, SubjectId::new(subject)?);
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
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = path.into_inner();
    let (gallery, subject) = (GalleryId::new(gallery)?, SubjectId::new(subject)?);
    Ok(HttpResponse::Ok().json(service.erase_subject(&gallery, &subject).await?))
}
