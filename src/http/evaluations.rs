use actix_web::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::service::evaluate::Protocol;
use crate::service::{
    EvaluationAsk, EvaluationView, ImageSource, JobId, JobPageView, JobView, ReportFile, Service,
    ServiceError, default_selection,
};

use super::error::ApiError;
use super::extract::{Incoming, nothing_else, page, query};

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

/// What to evaluate on what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EvaluationBody {
    /// Models by name; the first is what the others are compared with. `champion` is the one that serves.
    models: Vec<String>,
    /// Labelled images.
    data: ImageSource,
    /// `auto` (the default), `tree`, `tree-all`, `hands`, `cross-aspect`, `11k` or `11k-all`.
    protocol: Option<String>,
    /// Draws; 10 if left out.
    #[schema(minimum = 1, maximum = 100)]
    runs: Option<usize>,
    /// Names the draws and the bootstrap; 1 if left out.
    seed: Option<u64>,
    /// Images of each subject that are enrolled; 1 if left out.
    enrolled: Option<usize>,
    /// Only the subjects that a training run with this share and `split_seed` held out.
    hold_out: Option<f64>,
    /// The seed of that division; 1 if left out.
    split_seed: Option<u64>,
    /// Takes images with accessories too.
    #[serde(default)]
    accessories: bool,
    /// Replicates of the subject bootstrap; 2000 if left out.
    #[schema(minimum = 100, maximum = 100_000)]
    replicates: Option<usize>,
    /// Evaluates people that a model was trained on: the figures say nothing about others.
    #[serde(default)]
    allow_leak: bool,
}

impl EvaluationBody {
    fn ask(self) -> Result<EvaluationAsk, ApiError> {
        let usual = default_selection();
        let protocol = match self.protocol.as_deref() {
            None | Some("auto") => Protocol::Auto,
            Some("tree") => Protocol::Tree { all: false },
            Some("tree-all") => Protocol::Tree { all: true },
            Some("hands") => Protocol::Hands,
            Some("cross-aspect") => Protocol::CrossAspect,
            Some("11k") => Protocol::Published { all: false },
            Some("11k-all") => Protocol::Published { all: true },
            Some(_) => {
                let names = "auto, tree, tree-all, hands, cross-aspect, 11k, 11k-all";
                return Err(ApiError::field("protocol", format!("must be one of {names}")));
            }
        };
        Ok(EvaluationAsk {
            models: self.models,
            data: self.data,
            selection: crate::service::evaluate::Selection {
                protocol,
                runs: self.runs.unwrap_or(usual.runs),
                seed: self.seed.unwrap_or(usual.seed),
                enrolled: self.enrolled.unwrap_or(usual.enrolled),
                hold_out: self.hold_out.map(|share| (share, self.split_seed.unwrap_or(1))),
                accessories: self.accessories,
                other_capture: false,
            },
            replicates: self.replicates.unwrap_or(2000),
            allow_leak: self.allow_leak,
        })
    }
}

pub(super) fn job_id(text: &str) -> Result<JobId, ApiError> {
    Ok(text.parse().map_err(ServiceError::JobId)?)
}

/// 202, and where to look.
pub(super) fn accepted(of: &str, job: &JobView) -> HttpResponse {
    let location = format!("/v1/{of}/{}", job.job);
    HttpResponse::Accepted().insert_header((LOCATION, location)).json(job)
}

pub(super) fn file(file: ReportFile) -> HttpResponse {
    // Self-contained: nothing is to be fetched or run.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox";
    HttpResponse::Ok()
        .content_type(file.content_type)
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .body(file.content)
}

/// Evaluate models.
///
/// A job embeds labelled images with every model and takes the same figures of each. When two are compared and the first one
/// serves, the gate says whether the second may take its place: `POST /v1/models/{model}:deploy` asks for that evaluation.
#[utoipa::path(tag = "evaluations", request_body = EvaluationBody,
    responses((status = 202, description = "Queued; `Location` names the evaluation", body = JobView)))]
#[post("/v1/evaluations")]
pub(super) async fn start(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let body: EvaluationBody = incoming.json().await?;
    Ok(accepted("evaluations", &service.start_evaluation(body.ask()?).await?))
}

/// List evaluations.
#[utoipa::path(tag = "evaluations", operation_id = "list_evaluations", params(PageQuery),
    responses((status = 200, description = "A page, the newest first", body = JobPageView)))]
#[get("/v1/evaluations")]
pub(super) async fn list(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let page = page(&mut query)?;
    nothing_else(&query)?;
    Ok(HttpResponse::Ok().json(service.evaluations(&page)?))
}

/// Read an evaluation.
#[utoipa::path(tag = "evaluations", operation_id = "read_evaluation",
    params(("evaluation" = String, Path, description = "The evaluation")),
    responses((status = 200, description = "What it found, or how far it is", body = EvaluationView)))]
#[get("/v1/evaluations/{evaluation:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.evaluation(job_id(&path)?).await?))
}

/// Read a file of an evaluation's report.
///
/// `report.html`, `report.md`, or a chart that the evaluation names; `cmc.svg` and `det.svg` are those of its first set.
#[utoipa::path(tag = "evaluations", operation_id = "read_evaluation_file",
    params(("evaluation" = String, Path, description = "The evaluation"), ("file" = String, Path, description = "The file")),
    responses((status = 200, description = "The file", body = String, content_type = "text/html")))]
#[get("/v1/evaluations/{evaluation:[^:/]+}/{file:[^:/]+}")]
pub(super) async fn report(
    service: web::Data<Service>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (id, name) = path.into_inner();
    Ok(file(service.evaluation_file(job_id(&id)?, &name).await?))
}

/// Cancel an evaluation.
#[utoipa::path(tag = "evaluations", operation_id = "cancel_evaluation",
    params(("evaluation" = String, Path, description = "The evaluation")),
    responses((status = 202, description = "Cancelled, or told to end", body = JobView)))]
#[post("/v1/evaluations/{evaluation}:cancel")]
pub(super) async fn cancel(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(accepted("evaluations", &service.cancel_evaluation(job_id(&path)?).await?))
}
