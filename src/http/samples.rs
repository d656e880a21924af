use actix_web::http::header::LOCATION;
use actix_web::{HttpMessage as _, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{GalleryId, SampleId, SubjectId};
use crate::service::{
    AttributesSchema, ConsentSchema, EnrolledView, Enrolment, SampleView, Service,
};

use super::document::{ImageFields, ImageFile};
use super::error::{ApiError, Problem};
use super::extract::Incoming;
use super::forms::Form;
use super::frame::RequestNumber;
use super::subjects::{self, SubjectPath};

/// Images a batch may hold.
const MAX_BATCH: usize = 256;

/// An image to be enrolled, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct EnrolRequest {
    /// The file in base64.
    image: String,
    /// A name for the sample; made up when left out.
    sample: Option<String>,
    /// What is known of it.
    attributes: Option<AttributesSchema>,
    /// What the subject agreed to.
    consent: Option<ConsentSchema>,
    /// Enrols it even if it matches another subject; needs the scope `admin`.
    allow_match: Option<bool>,
}

/// Images to be enrolled.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct BatchRequest {
    /// 1 to 256 images.
    samples: Vec<BatchItem>,
}

/// One image of a batch.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct BatchItem {
    /// Whose hand it shows.
    subject: String,
    /// The file in base64.
    image: String,
    /// A name for the sample; made up when left out.
    sample: Option<String>,
    /// What is known of it.
    attributes: Option<AttributesSchema>,
    /// What the subject agreed to.
    consent: Option<ConsentSchema>,
    /// Enrols it even if it matches another subject; needs the scope `admin`.
    allow_match: Option<bool>,
}

/// What became of the images of a batch, in their order.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// Images enrolled or known already.
    enrolled: usize,
    /// Images refused.
    failed: usize,
    /// Either `sample` or `error` for each.
    results: Vec<BatchResult>,
}

/// What became of one image.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchResult {
    /// The enrolled image.
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<EnrolledView>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    samples: Vec<Value>,
}

/// Enrol an image.
///
/// Durable, and found by the next search, when it answers. The same file for the same subject is
/// enrolled once: sending it again answers 200 with the sample it became, which makes every retry safe
/// with or without an `Idempotency-Key`. As a raw body, fields come in the query. An image that an identification by the gallery's
/// thresholds would take for somebody else is refused with 409 `matches_another_subject`, or marked, as the gallery's policy says; one
/// that is unlike its subject's others of the same hand and aspect is marked.
#[utoipa::path(tag = "samples",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "Whose hand it shows"), ImageFields),
    request_body(content((EnrolRequest = "application/json"), (EnrolRequest = "multipart/form-data"), (ImageFile = "image/jpeg"), (ImageFile = "image/png"), (ImageFile = "image/webp"))),
    responses(
        (status = 201, description = "Enrolled; `Location` says where", body = EnrolledView),
        (status = 200, description = "Enrolled before", body = EnrolledView)))]
#[post("/v1/galleries/{gallery}/subjects/{subject}/samples")]
pub(super) async fn enrol(
    service: web::Data<Service>,
    path: SubjectPath,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject) = subjects::ids(path)?;
    let mut form = Form::read(incoming, &["image"]).await?;
    let new = enrolment(&mut form, subject)?;
    let view = service.enrol(&gallery, new).await?;
    if !view.created {
        return Ok(HttpResponse::Ok().json(view));
    }
    let location =
        format!("/v1/galleries/{}/subjects/{}/samples/{}", view.gallery, view.subject, view.sample);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(view))
}

fn enrolment(form: &mut Form, subject: SubjectId) -> Result<Enrolment, ApiError> {
    let sample = form.text("sample")?.map(SampleId::new).transpose()?;
    let attributes = form.attributes()?;
    let consent = form.consent()?;
    let allow_match = form.flag("allow_match")?.unwrap_or(false);
    let image = form.image("image")?;
    form.finish()?;
    Ok(Enrolment { subject, sample, attributes, image, consent, allow_match })
}

/// Enrol many images.
///
/// Each by itself: one that is refused does not keep the others out.
#[utoipa::path(tag = "samples", params(("gallery" = String, Path, description = "The gallery")),
    request_body = BatchRequest,
    responses((status = 200, description = "What became of each", body = BatchAnswer)))]
#[post("/v1/galleries/{gallery}/samples:batch")]
pub(super) async fn enrol_batch(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let number = incoming.request().extensions().get::<RequestNumber>().cloned();
    let number = number.map_or_else(String::new, |number| number.0);
    let (Batch { samples }, _body) = incoming.json_with_images(MAX_BATCH).await?;
    if samples.is_empty() || samples.len() > MAX_BATCH {
        return Err(ApiError::field(
            "samples",
            format!("holds {}, 1 to {MAX_BATCH} are taken", samples.len()),
        ));
    }
    let mut refused = Vec::new();
    let mut accepted = Vec::new();
    for value in samples {
        let item = Form::item(value, &["image"]).and_then(|mut form| {
            let subject =
                form.text("subject")?.ok_or_else(|| ApiError::field("subject", "is needed"))?;
            enrolment(&mut form, SubjectId::new(subject)?)
        });
        match item {
            Ok(item) => {
                refused.push(None);
                accepted.push(item);
            }
            Err(error) => refused.push(Some(error)),
        }
    }
    // The gallery is asked for even when no item is left, so that a wrong one is told.
    service.gallery(&gallery)?;
    let answers = if accepted.is_empty() {
        Vec::new()
    } else {
        service.enrol_batch(&gallery, accepted).await?
    };
    let mut answers = answers.into_iter();
    let results: Vec<BatchResult> = refused
        .into_iter()
        .map(|refusal| {
            let answer = match refusal {
                Some(error) => Err(error),
                None => match answers.next() {
                    Some(answer) => answer.map_err(ApiError::from),
                    None => Err(super::error::from_status(
                        actix_web::http::StatusCode::INTERNAL_SERVER_ERROR,
                    )),
                },
            };
            match answer {
                Ok(sample) => BatchResult { sample: Some(sample), error: None },
                Err(error) => BatchResult { sample: None, error: Some(error.problem(&number)) },
            }
        })
        .collect();
    let failed = results.iter().filter(|result| result.error.is_some()).count();
    Ok(HttpResponse::Ok().json(BatchAnswer { enrolled: results.len() - failed, failed, results }))
}

type SamplePath = web::Path<(String, String, String)>;

fn ids(path: SamplePath) -> Result<(GalleryId, SubjectId, SampleId), ApiError> {
    let (gallery, subject, sample) = path.into_inner();
    Ok((GalleryId::new(gallery)?, SubjectId::new(subject)?, SampleId::new(sample)?))
}

/// Read a sample.
///
/// Its attributes, never its template or image.
#[utoipa::path(tag = "samples",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "The subject"), ("sample" = String, Path, description = "The sample")),
    responses((status = 200, description = "The sample", body = SampleView)))]
#[get("/v1/galleries/{gallery}/subjects/{subject}/samples/{sample}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: SamplePath,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject, sample) = ids(path)?;
    Ok(HttpResponse::Ok().json(service.sample(&gallery, &subject, &sample)?))
}

/// Remove a sample.
#[utoipa::path(tag = "samples",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = String, Path, description = "The subject"), ("sample" = String, Path, description = "The sample")),
    responses((status = 204, description = "Removed, durably")))]
#[delete("/v1/galleries/{gallery}/subjects/{subject}/samples/{sample}")]
pub(super) async fn remove(
    service: web::Data<Service>,
    path: SamplePath,
) -> Result<HttpResponse, ApiError> {
    let (gallery, subject, sample) = ids(path)?;
    service.remove_sample(&gallery, &subject, &sample).await?;
    Ok(HttpResponse::NoContent().finish())
}
