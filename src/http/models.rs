use actix_web::http::header::{CONTENT_DISPOSITION, ContentEncoding, LOCATION};
use actix_web::{HttpResponse, delete, get, post, web};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::service::{ModelView, RegisteredModel, Service, Upload};

use super::error::ApiError;
use super::extract::{Incoming, nothing_else, query};

/// The models that can serve.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// By name.
    models: Vec<ModelView>,
}

/// What to call an uploaded model.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `query` reads it with errors in our form")]
pub(super) struct ImportQuery {
    /// The model's name, beside an archive.
    name: Option<String>,
}

/// A model in a folder of the server.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportBody {
    /// What to call it.
    name: String,
    /// `NAME` or `NAME/FOLDER` of a data root.
    directory: String,
}

/// List models.
#[utoipa::path(tag = "models", responses((status = 200, description = "All models", body = ModelList)))]
#[get("/v1/models")]
pub(super) async fn list(service: web::Data<Service>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(ModelList { models: service.models().await? }))
}

/// Read a model.
///
/// `champion` is the one that serves, `previous` the one that can be returned to, `challenger` the one that is being brought.
#[utoipa::path(tag = "models", operation_id = "read_model", params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "The model", body = ModelView)))]
#[get("/v1/models/{model:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.model(&path).await?))
}

/// Import a model.
///
/// Send a tar archive (`application/x-tar`) and `name` in the query, or JSON that names a folder of a data root. The model is
/// one as Hugging Face lays it out, a training run's folder, or an archive that an export gave. It is opened before it
/// gets its name.
#[utoipa::path(tag = "models", params(ImportQuery),
    request_body(content((ImportBody = "application/json"), (String = "application/x-tar"))),
    responses((status = 201, description = "Registered; `Location` names it", body = RegisteredModel)))]
#[post("/v1/models")]
pub(super) async fn import(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let mut asked = query(incoming.request())?;
    let name = asked.remove("name");
    nothing_else(&asked)?;
    let model = if incoming.content_type() == "application/json" {
        if name.is_some() {
            return Err(ApiError::field("name", "stands in the body here"));
        }
        let body: ImportBody = incoming.json().await?;
        service.import_model_from(&body.name, &body.directory).await?
    } else {
        let name = name.ok_or_else(|| ApiError::field("name", "is missing"))?;
        let (parts, upload) = Upload::new();
        let (sent, imported) = futures_util::future::join(
            incoming.stream("application/x-tar", parts),
            service.import_model(&name, upload),
        )
        .await;
        // What is wrong with the archive says more than that nobody read it to its end.
        match (sent, imported) {
            (Err(error), Err(_)) if error.code != "upload_refused" => return Err(error),
            (_, imported) => imported?,
        }
    };
    let location = format!("/v1/models/{}", model.name);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(model))
}

/// Export a model.
///
/// A tar archive that an import takes, on this server or another.
#[utoipa::path(tag = "models", params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "The archive", body = String, content_type = "application/x-tar")))]
#[get("/v1/models/{model:[^:/]+}/archive")]
pub(super) async fn export(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (name, parts) = service.export_model(&path).await?;
    // An error ends the connection, so that nobody takes half an archive for all of it.
    let body = unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part.map(web::Bytes::from), parts))
    });
    Ok(HttpResponse::Ok()
        .content_type("application/x-tar")
        .insert_header(ContentEncoding::Identity)
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.tar\"")))
        .streaming(body))
}

/// Check a model's files.
///
/// Reads every file again and compares it with what was registered.
#[utoipa::path(tag = "models", operation_id = "verify_model", params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "The files are what they were", body = RegisteredModel)))]
#[post("/v1/models/{model}:verify")]
pub(super) async fn verify(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.verify_model(&path).await?))
}

/// Delete a model.
#[utoipa::path(tag = "models", operation_id = "delete_model", params(("model" = String, Path, description = "The model")),
    responses((status = 204, description = "Gone")))]
#[delete("/v1/models/{model:[^:/]+}")]
pub(super) async fn delete(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    service.delete_model(&path).await?;
    Ok(HttpResponse::NoContent().finish())
}
