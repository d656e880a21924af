use actix_web::{HttpResponse, get, post, web};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::{Calibration, CalibrationParts};
use crate::service::{
    CalibrationSchema, Caller, DeployRequest, DeploymentView, JobView, Service, ServiceError,
    WithoutImages,
};

use super::error::ApiError;
use super::extract::Incoming;
use super::jobs::accepted;

/// How a model is to be brought.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployBody {
    /// The evaluation that compared the model that serves with this one: its gate must have passed.
    evaluation: Option<String>,
    /// Passes over the gate; needs the scope `admin`. It is written into the deployment's history.
    #[serde(rename = "override")]
    override_gate: Option<OverrideBody>,
    /// Samples that kept no image: `block` (the default), `drop`, or `keep_old_generation`.
    without_images: Option<WithoutImages>,
    /// How long the way back is kept, in seconds; 3600 if left out.
    #[schema(minimum = 0, maximum = 2_592_000)]
    soak_s: Option<u64>,
    /// Most images embedded a second.
    images_per_second: Option<f64>,
    /// Thresholds of the new model, for galleries that have thresholds now.
    #[schema(value_type = Option<CalibrationSchema>)]
    calibration: Option<CalibrationParts>,
    /// Lets galleries that decide by thresholds do without.
    #[serde(default)]
    allow_uncalibrated: bool,
    /// Enrolled samples that the new model is asked about before it serves; 1000 if left out.
    #[schema(minimum = 0, maximum = 100_000)]
    shadow_probes: Option<usize>,
}

/// Why a gate is passed over.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OverrideBody {
    /// In your words.
    reason: String,
}

impl DeployBody {
    fn request(self) -> Result<DeployRequest, ApiError> {
        let usual = DeployRequest::default();
        let evaluation = self.evaluation.map(|id| id.parse()).transpose();
        let calibration = self.calibration.map(Calibration::try_from).transpose();
        Ok(DeployRequest {
            evaluation: evaluation.map_err(ServiceError::JobId)?,
            override_reason: self.override_gate.map(|body| body.reason),
            without_images: self.without_images.unwrap_or_default(),
            soak_s: self.soak_s.unwrap_or(usual.soak_s),
            images_per_second: self.images_per_second,
            calibration: calibration
                .map_err(|error| ApiError::field("calibration", error.to_string()))?,
            allow_uncalibrated: self.allow_uncalibrated,
            shadow_probes: self.shadow_probes.unwrap_or(usual.shadow_probes),
        })
    }
}

/// Deploy a model.
///
/// A job brings the model in the place of the one that serves: it re-embeds every retained image while the old model
/// answers and new enrolments get templates of both, audits the new index, and swaps. No query fails or sees two models. Until
/// the soak ends `POST /v1/deployment:rollback` goes back at once. Refused with 409 when the gate has not passed, 507 when a
/// second model and its templates do not fit.
#[utoipa::path(tag = "models", params(("model" = String, Path, description = "The model")), request_body = DeployBody,
    responses((status = 202, description = "Queued; `Location` names the job", body = JobView)))]
#[post("/v1/models/{model}:deploy")]
pub(super) async fn deploy(
    service: web::Data<Service>,
    path: web::Path<String>,
    caller: web::ReqData<Caller>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let body: DeployBody = incoming.json().await?;
    Ok(accepted(&service.deploy(&path, body.request()?, &caller).await?))
}

/// Read the deployment.
///
/// The model that serves, the one before it while there is a way back, the one that is being brought, and what was done.
#[utoipa::path(tag = "models", responses((status = 200, description = "The deployment", body = DeploymentView)))]
#[get("/v1/deployment")]
pub(super) async fn read(service: web::Data<Service>) -> HttpResponse {
    HttpResponse::Ok().json(service.deployment())
}

/// Undo the last deployment.
///
/// The model before serves again at once. What was enrolled and erased since stays so.
#[utoipa::path(tag = "models",
    responses((status = 200, description = "The model before serves", body = DeploymentView)))]
#[post("/v1/deployment:rollback")]
pub(super) async fn rollback(
    service: web::Data<Service>,
    caller: web::ReqData<Caller>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.roll_back(&caller).await?))
}

/// Give up the way back.
///
/// Ends the soak before its time: the templates of the model before are removed.
#[utoipa::path(tag = "models",
    responses((status = 200, description = "There is no way back any more", body = DeploymentView)))]
#[post("/v1/deployment:retire")]
pub(super) async fn retire(
    service: web::Data<Service>,
    caller: web::ReqData<Caller>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.retire(&caller).await?))
}
