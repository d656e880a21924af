use actix_web::{HttpResponse, delete, get, put, web};

use crate::domain::{Calibration, CalibrationParts, GalleryId};
use crate::service::{CalibrationSchema, Service};

use super::error::ApiError;
use super::extract::Incoming;

/// Read a gallery's thresholds.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 200, description = "The thresholds in use", body = CalibrationSchema)))]
#[get("/v1/galleries/{gallery:[^:/]+}/calibration")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let calibration = service.calibration(&GalleryId::new(path.into_inner())?)?;
    Ok(HttpResponse::Ok().json(&*calibration))
}

/// Use these thresholds.
///
/// What `handclip calibrate` wrote: measured with the gallery's model, on subjects that nothing else was measured on.
/// Answers to identify and verify carry a decision from now on.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    request_body = CalibrationSchema,
    responses((status = 200, description = "In use, and durable", body = CalibrationSchema)))]
#[put("/v1/galleries/{gallery:[^:/]+}/calibration")]
pub(super) async fn replace(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let id = GalleryId::new(path.into_inner())?;
    let parts: CalibrationParts = incoming.json().await?;
    let calibration = Calibration::try_from(parts)
        .map_err(|error| ApiError::field("calibration", error.to_string()))?;
    service.set_calibration(&id, Some(calibration.clone())).await?;
    Ok(HttpResponse::Ok().json(calibration))
}

/// Use no thresholds.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 204, description = "Answers carry no decision any more")))]
#[delete("/v1/galleries/{gallery:[^:/]+}/calibration")]
pub(super) async fn remove(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    service.set_calibration(&GalleryId::new(path.into_inner())?, None).await?;
    Ok(HttpResponse::NoContent().finish())
}
