use actix_web::http::header::{Accept, Header as _, VARY};
use actix_web::{HttpRequest, HttpResponse, post, web};
use utoipa::ToSchema;

use crate::domain::{GalleryId, SubjectId};
use crate::service::explain::ExplainMethod;
use crate::service::{Explain, ExplainAnswer, ExplainExtras, ExplainTarget, Service};

use super::document::ImageFile;
use super::error::ApiError;
use super::extract::Incoming;
use super::forms::Form;

/// An image and one target: another image, an enrolled subject, or a prompt; as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; `Form` reads it")]
pub(super) struct ExplainRequest {
    /// The image to explain, a file in base64.
    image: String,
    /// Target: another image, a file in base64.
    with: Option<String>,
    /// Target: the gallery where `subject` is enrolled.
    gallery: Option<String>,
    /// Target: an enrolled subject; their most similar sample is taken.
    subject: Option<String>,
    /// Target: words.
    #[schema(example = "a hand with a ring")]
    prompt: Option<String>,
    /// `rollout`, `grad-cam` or `relevance`.
    #[schema(default = "relevance")]
    method: Option<String>,
}

/// Explain a similarity.
///
/// Which patches of an image make it as similar as it is to another image, to an enrolled subject, or to words. With
/// `accept: image/png` the answer is the upright picture under its heat map; what the model does not see of it is dark.
#[utoipa::path(tag = "recognition",
    params(("gallery" = Option<String>, Query, description = "Gallery of the subject, beside a raw body"), ("subject" = Option<String>, Query, description = "An enrolled subject, beside a raw body"), ("prompt" = Option<String>, Query, description = "Words, beside a raw body"), ("method" = Option<String>, Query, description = "`rollout`, `grad-cam` or `relevance`, beside a raw body")),
    request_body(content((ExplainRequest = "application/json"), (ExplainRequest = "multipart/form-data"), (ImageFile = "image/jpeg"), (ImageFile = "image/png"), (ImageFile = "image/webp"))),
    responses((status = 200, description = "The map, or the picture under it", content((ExplainAnswer = "application/json"), (ImageFile = "image/png")))))]
#[post("/v1/explain")]
pub(super) async fn explain(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let overlay = wants_png(incoming.request());
    let mut form = Form::read(incoming, &["image", "with"]).await?;
    let ask = Explain {
        image: form.image("image")?,
        target: target(&mut form)?,
        method: method(&mut form)?,
        extras: ExplainExtras { overlay, curves: false },
    };
    form.finish()?;
    let explanation = service.explain(ask).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((VARY, "accept"));
    Ok(match explanation.overlay {
        Some(png) => response.content_type("image/png").body(png),
        None => response.json(explanation.answer),
    })
}

fn target(form: &mut Form) -> Result<ExplainTarget, ApiError> {
    let (image, prompt) = (form.optional_image("with"), form.text("prompt")?);
    let subject = match (form.text("gallery")?, form.text("subject")?) {
        (Some(gallery), Some(subject)) => Some((gallery, subject)),
        (Some(_), None) => return Err(ApiError::field("subject", "is needed beside `gallery`")),
        (None, Some(_)) => return Err(ApiError::field("gallery", "is needed beside `subject`")),
        (None, None) => None,
    };
    match (image, prompt, subject) {
        (Some(file), None, None) => Ok(ExplainTarget::Image(file)),
        (None, Some(prompt), None) => Ok(ExplainTarget::Prompt(prompt)),
        (None, None, Some((gallery, subject))) => Ok(ExplainTarget::Subject {
            gallery: GalleryId::new(gallery)?,
            subject: SubjectId::new(subject)?,
        }),
        _ => {
            let problem =
                "or `prompt`, or `gallery` with `subject` is needed, and only one of them";
            Err(ApiError::field("with", problem))
        }
    }
}

fn method(form: &mut Form) -> Result<ExplainMethod, ApiError> {
    let Some(name) = form.text("method")? else { return Ok(ExplainMethod::Relevance) };
    name.parse().map_err(|error: crate::service::explain::UnknownMethod| {
        ApiError::field("method", error.to_string())
    })
}

/// Whether the caller would rather have a PNG than JSON.
fn wants_png(request: &HttpRequest) -> bool {
    let Ok(accept) = Accept::parse(request) else { return false };
    let ranked = accept.ranked();
    let first = ranked.iter().find(|mime| {
        matches!((mime.type_().as_str(), mime.subtype().as_str()), ("image", "png" | "*"))
            || matches!(mime.type_().as_str(), "application" | "*")
    });
    first.is_some_and(|mime| mime.type_().as_str() == "image")
}
