//! The OpenAPI document, made from the code.

use std::collections::BTreeMap;

use actix_web::App;
use actix_web::http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoParams, OpenApi as _, ToSchema};
use utoipa_actix_web::AppExt as _;

use super::auth::{Access, access};
use super::error::{FieldError, Problem};
use super::routes;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "HandCLIP",
        description = "Hand-biometric retrieval: enrol hands, identify, verify, and search them by words. Errors are RFC 9457 problem+json with a stable `code`. Similarities are cosines, -1 to 1; times are microseconds where a name ends in `_us`, milliseconds since 1970 where it ends in `_at_ms`."
    ),
    components(schemas(Problem, FieldError)),
    tags(
        (name = "recognition", description = "Identify, verify, search"),
        (name = "galleries", description = "Sets of enrolled people, isolated from each other"),
        (name = "subjects", description = "Enrolled people"),
        (name = "samples", description = "Enrolled images"),
        (name = "jobs", description = "Work that outlives a request"),
        (name = "models", description = "Models by name, and which of them serves"),
        (name = "training", description = "Fine-tuning, and images to train on"),
        (name = "evaluations", description = "How good models are, and whether one may take another's place"),
        (name = "audit", description = "Who did what, what was erased, and backups"),
        (name = "keys", description = "Who may ask for what"),
        (name = "health", description = "For orchestrators and monitoring")
    )
)]
struct Document;

/// An image file: JPEG, PNG or WebP.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only describes a body")]
pub(super) struct ImageFile(Vec<u8>);

/// Fields beside a raw body.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `Form` reads it")]
pub(super) struct ImageFields {
    /// `dorsal` or `palmar`.
    aspect: Option<String>,
    /// `left` or `right`.
    side: Option<String>,
    /// Whether accessories are worn.
    accessories: Option<bool>,
    /// A name for the sample.
    sample: Option<String>,
    /// Enrols it even if it matches another subject; needs the scope `admin`.
    allow_match: Option<bool>,
}

/// Fields beside a raw body.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the query; `Form` reads it")]
pub(super) struct RecognitionFields {
    /// Only samples of this aspect.
    aspect: Option<String>,
    /// Only samples of this side.
    side: Option<String>,
    /// Only samples with or without accessories.
    accessories: Option<bool>,
    /// Most candidates, 1 to 1000.
    limit: Option<usize>,
    /// Mean of the so many most similar samples of a subject.
    mean_of: Option<usize>,
    /// Cosine similarity for a decision.
    threshold: Option<f32>,
}

/// The OpenAPI 3.1 document.
pub(super) fn document() -> OpenApi {
    let (_, mut document) = App::new()
        .into_utoipa_app()
        .openapi(Document::openapi())
        .configure(routes)
        .split_for_parts();
    let bearer = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key. An operation names the scopes of which one is needed; `admin` holds them all. Without keys a server answers on loopback only, and everybody.",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("key", SecurityScheme::Http(bearer));
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    for (path, item) in &mut document.paths.paths {
        let operations: [(&str, Option<&mut Operation>); 4] = [
            ("get", item.get.as_mut()),
            ("post", item.post.as_mut()),
            ("put", item.put.as_mut()),
            ("delete", item.delete.as_mut()),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(operation_id(method, path));
            if let Some(Access::Key(scopes)) = access(method, path) {
                let scopes = scopes.iter().map(|scope| scope.as_str());
                operation.security = Some(vec![SecurityRequirement::new("key", scopes)]);
            }
            let has_body = operation.request_body.is_some();
            let asks = has_body || operation.parameters.as_ref().is_some_and(|all| !all.is_empty());
            for (status, description) in refusals(path, method, asks, has_body) {
                let content =
                    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                let response = ResponseBuilder::new()
                    .description(*description)
                    .content("application/problem+json", content)
                    .build();
                let responses = &mut operation.responses.responses;
                responses.entry((*status).to_owned()).or_insert(RefOr::T(response));
            }
        }
    }
    document
}

/// The document as it is checked in, with a line end.
#[must_use]
pub fn openapi_json() -> String {
    let mut json = document().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}

/// `post /v1/galleries/{gallery}:identify` is `post_galleries_gallery_identify`.
fn operation_id(method: &str, path: &str) -> String {
    let words =
        path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty() && *w != "v1");
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

/// Which refusals an operation may answer with, besides its own answers.
fn refusals(
    path: &str,
    method: &str,
    asks: bool,
    has_body: bool,
) -> Vec<&'static (&'static str, &'static str)> {
    const ALWAYS: &[(&str, &str)] = &[
        (
            "403",
            "Refused: `scope_missing`, `gallery_forbidden`; without keys `host_not_allowed`, `cross_origin`",
        ),
        ("500", "Failed here: `internal`; the log has the reason"),
        (
            "503",
            "Too busy, stopping or not ready: `busy`, `stopping`, `not_ready`; come back after `Retry-After`",
        ),
    ];
    const KEYED: &[(&str, &str)] = &[
        (
            "401",
            "No key that lets in: `key_missing`, `key_malformed`, `key_unknown`, `key_revoked`, `key_expired`",
        ),
        (
            "429",
            "The key has asked as often as it may: `rate_limited`; come back after `Retry-After`",
        ),
    ];
    const ASKED: &[(&str, &str)] = &[(
        "400",
        "Wrong request: `invalid_request`, `invalid_id`, `invalid_attributes`, `malformed_json`, `malformed_multipart`, `body_incomplete`",
    )];
    const NAMED: &[(&str, &str)] = &[(
        "404",
        "Not there: `gallery_not_found`, `subject_not_found`, `sample_not_found`, `model_not_found`, `dataset_not_found`, `job_not_found`, `key_not_found`, `file_not_found`, `not_calibrated`",
    )];
    const BODY: &[(&str, &str)] = &[
        ("408", "The body came too slowly: `request_timeout`"),
        ("413", "Too large: `body_too_large`, `image_too_large`"),
        ("415", "Not a type taken here: `unsupported_media_type`"),
        (
            "409",
            "In conflict: `gallery_exists`, `sample_exists`, `model_mismatch`, `subject_being_erased`, `matches_another_subject`",
        ),
        (
            "422",
            "An image or a prompt that cannot be used: `image_empty`, `image_truncated`, `image_animated`, `image_trailing_data`, `image_corrupt`, `image_too_small`, `image_blank`, `no_feature`, `prompt_refused`; an enrolment without a consent that the gallery asks for: `consent_required`",
        ),
        ("429", "The queue is full: `busy`; come back after `Retry-After`"),
    ];
    const WRITES: &[(&str, &str)] = &[
        (
            "409",
            "In conflict: `gallery_exists`, `sample_exists`, `model_mismatch`, `subject_being_erased`, `matches_another_subject`",
        ),
        ("507", "No room: `storage_full`, `limit_reached`"),
    ];
    const QUEUES: &[(&str, &str)] =
        &[("429", "As many jobs wait as may: `queue_full`; come back after `Retry-After`")];
    const OF_A_JOB: &[(&str, &str)] =
        &[("409", "The job is in another state: `job_not_cancellable`, `job_not_retryable`")];
    const OF_A_MODEL: &[(&str, &str)] = &[
        (
            "409",
            "In conflict: `model_exists`, `model_deployed`, `model_damaged`, `model_not_registered`",
        ),
        ("429", "Other models are being read or written: `busy`; come back after `Retry-After`"),
    ];
    const A_MODEL: &[(&str, &str)] = &[
        ("413", "Too large: `model_too_large`, `body_too_large`"),
        ("422", "Not a model that can be used: `model_refused`"),
        ("507", "No room: `storage_full`, `insufficient_memory`"),
    ];
    let versioned = path.starts_with("/v1");
    let of_a_model = path.starts_with("/v1/models") && !path.ends_with(":deploy");
    let recognition = [":identify", ":verify", ":search", "/compare", "/embeddings", "/explain"];
    // They name in their body what may not be there.
    let names = ["/explain", "/erasures:verify", "/evaluations", "/training-runs"];
    let writes =
        versioned && method != "get" && !recognition.iter().any(|verb| path.ends_with(verb));
    let groups = [
        (true, ALWAYS),
        (access(method, path) != Some(Access::Public), KEYED),
        (versioned && asks, ASKED),
        (path.contains('{') || names.iter().any(|end| path.ends_with(end)), NAMED),
        (of_a_model && (method != "get" || path.ends_with("/archive")), OF_A_MODEL),
        (of_a_model && has_body, A_MODEL),
        (has_body, BODY),
        ([":audit", ":compact", ":retry"].iter().any(|verb| path.ends_with(verb)), QUEUES),
        (path.starts_with("/v1/jobs/"), OF_A_JOB),
        (writes && !of_a_model, WRITES),
    ];
    groups.into_iter().filter(|(applies, _)| *applies).flat_map(|(_, group)| group).collect()
}

/// Every path with its methods.
pub(super) fn paths(document: &OpenApi) -> Vec<(String, Vec<Method>)> {
    let methods = |item: &utoipa::openapi::PathItem| {
        let all = [
            (Method::GET, item.get.is_some()),
            (Method::POST, item.post.is_some()),
            (Method::PUT, item.put.is_some()),
            (Method::DELETE, item.delete.is_some()),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(method, _)| method).collect()
    };
    let sorted: BTreeMap<String, Vec<Method>> =
        document.paths.paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect();
    sorted.into_iter().collect()
}
