use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::service::{ModelView, Service};

use super::error::ApiError;

/// The models that can serve.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// By name.
    models: Vec<ModelView>,
}

/// List models.
#[utoipa::path(tag = "models", responses((status = 200, description = "All models", body = ModelList)))]
#[get("/v1/models")]
pub(super) async fn list(service: web::Data<Service>) -> HttpResponse {
    HttpResponse::Ok().json(ModelList { models: service.models() })
}

/// Read a model.
#[utoipa::path(tag = "models", operation_id = "read_model", params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "The model", body = ModelView)))]
#[get("/v1/models/{model}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.model(&path)?))
}
