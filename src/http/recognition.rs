use actix_web::{HttpResponse, post, web};
use utoipa::ToSchema;

use crate::domain::{GalleryId, SubjectId};
use crate::service::{
    AttributesSchema, CompareAnswer, EmbeddingView, Identify, IdentifyAnswer, Search, SearchAnswer,
    Service, Verify, VerifyAnswer,
};

use super::document::{ImageFile, RecognitionFields};
use super::error::ApiError;
use super::extract::Incoming;
use super::forms::Form;

/// Results given where the caller names no limit.
const DEFAULT_LIMIT: usize = 10;

/// A 1:N question, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct IdentifyRequest {
    /// The probe, a file in base64.
    image: String,
    /// Most candidates, 1 to 1000.
    #[schema(default = 10, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only samples with these attributes are looked at.
    filter: Option<AttributesSchema>,
    /// Compare with the mean of a subject's so many most similar samples instead of the best one.
    mean_of: Option<usize>,
    /// Cosine similarity for a decision, -1 to 1. Without it the gallery's calibration decides; where there is none,
    /// `decision` is null.
    threshold: Option<f32>,
}

/// A 1:1 question, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct VerifyRequest {
    /// Who it is claimed to be.
    subject: String,
    /// The probe, a file in base64.
    image: String,
    /// Cosine similarity for a decision, -1 to 1. Without it the gallery's calibration decides; where there is none,
    /// `decision` is null.
    threshold: Option<f32>,
}

/// A search by words, image or both, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct SearchRequest {
    /// The words.
    #[schema(example = "a dorsal right hand with a ring")]
    prompt: Option<String>,
    /// An image, a file in base64.
    image: Option<String>,
    /// Weight of the image where both are given, 0 to 1.
    #[schema(default = 0.5, minimum = 0.0, maximum = 1.0)]
    image_weight: Option<f32>,
    /// Only samples with these attributes are looked at.
    filter: Option<AttributesSchema>,
    /// Most hits, 1 to 1000.
    #[schema(default = 10, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Two images, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct CompareRequest {
    /// One image, a file in base64.
    image_a: String,
    /// The other.
    image_b: String,
    /// Cosine similarity for a decision, -1 to 1. Without it, `decision` is null.
    threshold: Option<f32>,
}

/// An image or a prompt to be embedded, as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct EmbeddingRequest {
    /// An image, a file in base64.
    image: Option<String>,
    /// Words.
    text: Option<String>,
}

/// Identify: who is it?
///
/// Candidates among all subjects of the gallery, most similar first.
#[utoipa::path(tag = "recognition", params(("gallery" = String, Path, description = "The gallery"), RecognitionFields),
    request_body(content((IdentifyRequest = "application/json"), (IdentifyRequest = "multipart/form-data"), (ImageFile = "image/jpeg"), (ImageFile = "image/png"), (ImageFile = "image/webp"))),
    responses((status = 200, description = "Candidates", body = IdentifyAnswer)))]
#[post("/v1/galleries/{gallery}:identify")]
pub(super) async fn identify(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let mut form = Form::read(incoming, &["image"]).await?;
    let ask = Identify {
        limit: form.count("limit", DEFAULT_LIMIT)?,
        filter: form.filter()?,
        combine: form.combine()?,
        threshold: form.threshold()?,
        image: form.image("image")?,
    };
    form.finish()?;
    Ok(HttpResponse::Ok().json(service.identify(&gallery, ask).await?))
}

/// Verify: is it them?
///
/// The probe against every sample of one subject.
#[utoipa::path(tag = "recognition",
    params(("gallery" = String, Path, description = "The gallery"), ("subject" = Option<String>, Query, description = "Who it is claimed to be, beside a raw body"), ("threshold" = Option<f32>, Query, description = "Cosine similarity for a decision, beside a raw body")),
    request_body(content((VerifyRequest = "application/json"), (VerifyRequest = "multipart/form-data"), (ImageFile = "image/jpeg"), (ImageFile = "image/png"), (ImageFile = "image/webp"))),
    responses((status = 200, description = "Similarity to the subject", body = VerifyAnswer)))]
#[post("/v1/galleries/{gallery}:verify")]
pub(super) async fn verify(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let mut form = Form::read(incoming, &["image"]).await?;
    let subject = form.text("subject")?.ok_or_else(|| ApiError::field("subject", "is needed"))?;
    let ask = Verify {
        subject: SubjectId::new(subject)?,
        threshold: form.threshold()?,
        image: form.image("image")?,
    };
    form.finish()?;
    Ok(HttpResponse::Ok().json(service.verify(&gallery, ask).await?))
}

/// Search: which hands look like this?
///
/// By words, by an image, or by both; a hit is an enrolled image.
#[utoipa::path(tag = "recognition", params(("gallery" = String, Path, description = "The gallery")),
    request_body(content((SearchRequest = "application/json"), (SearchRequest = "multipart/form-data"))),
    responses((status = 200, description = "Hits, most similar first", body = SearchAnswer)))]
#[post("/v1/galleries/{gallery}:search")]
pub(super) async fn search(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let mut form = Form::read(incoming, &["image"]).await?;
    let ask = Search {
        prompt: form.text("prompt")?,
        image: form.optional_image("image"),
        image_weight: form.number("image_weight")?.map_or(0.5, |weight| weight as f32),
        filter: form.filter()?,
        limit: form.count("limit", DEFAULT_LIMIT)?,
    };
    form.finish()?;
    Ok(HttpResponse::Ok().json(service.search(&gallery, ask).await?))
}

/// Compare two images.
#[utoipa::path(tag = "recognition",
    request_body(content((CompareRequest = "application/json"), (CompareRequest = "multipart/form-data"))),
    responses((status = 200, description = "Their similarity", body = CompareAnswer)))]
#[post("/v1/compare")]
pub(super) async fn compare(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let mut form = Form::read(incoming, &["image_a", "image_b"]).await?;
    let threshold = form.threshold()?;
    let (a, b) = (form.image("image_a")?, form.image("image_b")?);
    form.finish()?;
    Ok(HttpResponse::Ok().json(service.compare(a, b, threshold).await?))
}

/// Embed an image or words.
#[utoipa::path(tag = "recognition",
    request_body(content((EmbeddingRequest = "application/json"), (EmbeddingRequest = "multipart/form-data"), (ImageFile = "image/jpeg"), (ImageFile = "image/png"), (ImageFile = "image/webp"))),
    responses((status = 200, description = "The embedding, of unit length", body = EmbeddingView)))]
#[post("/v1/embeddings")]
pub(super) async fn embeddings(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let mut form = Form::read(incoming, &["image"]).await?;
    let (image, text) = (form.optional_image("image"), form.text("text")?);
    form.finish()?;
    let view = match (image, text) {
        (Some(image), None) => service.embed_image(image).await?,
        (None, Some(text)) => service.embed_text(text).await?,
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::field("image", "or `text` is needed, and not both"));
        }
    };
    Ok(HttpResponse::Ok().json(view))
}
