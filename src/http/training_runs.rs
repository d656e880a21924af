use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::service::{
    DatasetView, ImageSource, JobPageView, JobView, Service, TrainingAsk, TrainingRunView, Upload,
};

use super::error::ApiError;
use super::evaluations::{PageQuery, accepted, file, job_id};
use super::extract::{Incoming, nothing_else, page, query};

/// What to train on what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainingBody {
    /// The model to start from; `champion`, the one that serves, if left out.
    model: Option<String>,
    /// Labelled images.
    data: ImageSource,
    /// The recipe, as TOML; what it leaves out is as usual.
    #[serde(default)]
    recipe: String,
    /// Share of the subjects that are held out and scored before and after; 0.2 if left out.
    #[schema(minimum = 0, maximum = 1)]
    hold_out: Option<f64>,
    /// Names the draw of the held-out subjects; 1 if left out.
    split_seed: Option<u64>,
    /// Leaves out images that cannot be decoded, instead of failing.
    #[serde(default)]
    skip_unreadable: bool,
    /// What the best weights are called in the registry.
    name: String,
}

/// What to call an uploaded data set.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `query` reads it with errors in our form")]
pub(super) struct UploadQuery {
    /// The data set's name.
    name: String,
}

/// The uploaded data sets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatasetList {
    /// By name.
    datasets: Vec<DatasetView>,
}

/// Fine-tune a model.
///
/// A job trains by the recipe and registers the best weights under `name`; compare them with the model that serves before they
/// are deployed. After a restart it goes on from its last epoch.
#[utoipa::path(tag = "training", request_body = TrainingBody,
    responses((status = 202, description = "Queued; `Location` names the run", body = JobView)))]
#[post("/v1/training-runs")]
pub(super) async fn start(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let body: TrainingBody = incoming.json().await?;
    let ask = TrainingAsk {
        model: body.model.unwrap_or_else(|| "champion".to_owned()),
        data: body.data,
        recipe: body.recipe,
        hold_out: body.hold_out.unwrap_or(0.2),
        split_seed: body.split_seed.unwrap_or(1),
        skip_unreadable: body.skip_unreadable,
        name: body.name,
    };
    Ok(accepted("training-runs", &service.start_training(ask).await?))
}

/// List training runs.
#[utoipa::path(tag = "training", operation_id = "list_training_runs", params(PageQuery),
    responses((status = 200, description = "A page, the newest first", body = JobPageView)))]
#[get("/v1/training-runs")]
pub(super) async fn list(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let page = page(&mut query)?;
    nothing_else(&query)?;
    Ok(HttpResponse::Ok().json(service.training_runs(&page)?))
}

/// Read a training run.
#[utoipa::path(tag = "training", operation_id = "read_training_run",
    params(("run" = String, Path, description = "The training run")),
    responses((status = 200, description = "How far it is, and its curves", body = TrainingRunView)))]
#[get("/v1/training-runs/{run:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.training_run(job_id(&path)?).await?))
}

/// Read a chart or the report of a training run.
#[utoipa::path(tag = "training", operation_id = "read_training_run_file",
    params(("run" = String, Path, description = "The training run"), ("file" = String, Path, description = "`curves.svg`, `report.html`, or another that the run names")),
    responses((status = 200, description = "The file", body = String, content_type = "image/svg+xml")))]
#[get("/v1/training-runs/{run:[^:/]+}/{file:[^:/]+}")]
pub(super) async fn report(
    service: web::Data<Service>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (id, name) = path.into_inner();
    Ok(file(service.training_run_file(job_id(&id)?, &name).await?))
}

/// Cancel a training run.
#[utoipa::path(tag = "training", operation_id = "cancel_training_run",
    params(("run" = String, Path, description = "The training run")),
    responses((status = 202, description = "Cancelled, or told to end", body = JobView)))]
#[post("/v1/training-runs/{run}:cancel")]
pub(super) async fn cancel(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted("training-runs", &service.cancel_training(job_id(&path)?).await?))
}

/// Upload labelled images.
///
/// A tar archive (`application/x-tar`) in any layout that can be trained on. They lie on the server as they are until they are
/// deleted.
#[utoipa::path(tag = "training", params(UploadQuery),
    request_body(content = String, content_type = "application/x-tar"),
    responses((status = 201, description = "There; `Location` names it", body = DatasetView)))]
#[post("/v1/datasets")]
pub(super) async fn upload(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let mut asked = query(incoming.request())?;
    let name = asked.remove("name").ok_or_else(|| ApiError::field("name", "is missing"))?;
    nothing_else(&asked)?;
    let (parts, upload) = Upload::new();
    let (sent, taken) = futures_util::future::join(
        incoming.stream("application/x-tar", parts),
        service.upload_dataset(&name, upload),
    )
    .await;
    let made = match (sent, taken) {
        (Err(error), Err(_)) if error.code != "upload_refused" => return Err(error),
        (_, taken) => taken?,
    };
    let location = format!("/v1/datasets/{}", made.name);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(made))
}

/// List uploaded data sets.
#[utoipa::path(tag = "training", operation_id = "list_datasets",
    responses((status = 200, description = "All of them", body = DatasetList)))]
#[get("/v1/datasets")]
pub(super) async fn datasets(service: web::Data<Service>) -> HttpResponse {
    HttpResponse::Ok().json(DatasetList { datasets: service.datasets() })
}

/// Read an uploaded data set.
#[utoipa::path(tag = "training", operation_id = "read_dataset",
    params(("dataset" = String, Path, description = "The data set")),
    responses((status = 200, description = "What it holds", body = DatasetView)))]
#[get("/v1/datasets/{dataset}")]
pub(super) async fn dataset(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.dataset(&path)?))
}

/// Delete an uploaded data set.
#[utoipa::path(tag = "training", operation_id = "delete_dataset",
    params(("dataset" = String, Path, description = "The data set")),
    responses((status = 204, description = "Gone")))]
#[delete("/v1/datasets/{dataset}")]
pub(super) async fn delete_dataset(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    service.delete_dataset(&path).await?;
    Ok(HttpResponse::NoContent().finish())
}
