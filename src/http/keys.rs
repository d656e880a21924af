use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, delete, get, post, web};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::{GalleryId, Scope};
use crate::service::{
    KeyId, KeyListView, KeyView, NewKey, NewKeyView, ScopeSchema, Service, ServiceError,
};

use super::error::ApiError;
use super::extract::Incoming;

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKeyBody {
    /// What to call it: who holds it, for what. At most 128 bytes.
    #[schema(example = "door controller, building 4")]
    name: String,
    /// What it allows.
    #[schema(value_type = Vec<ScopeSchema>)]
    scopes: Vec<Scope>,
    /// Only for these galleries, be they there yet or not; all, those to come too, if left out.
    #[schema(value_type = Option<Vec<String>>)]
    galleries: Option<Vec<GalleryId>>,
    /// When it expires, milliseconds since 1970; never if left out.
    expires_at_ms: Option<u64>,
}

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// How long the secret before is still taken, in seconds; 0 if left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_s: u64,
}

fn key_id(text: &str) -> Result<KeyId, ApiError> {
    Ok(text.parse().map_err(ServiceError::KeyId)?)
}

/// Make a key.
///
/// The token in the answer is shown this once. The first key must allow `admin` and not expire; from then on every request
/// needs a key.
#[utoipa::path(tag = "keys", request_body = NewKeyBody,
    responses((status = 201, description = "Made; `Location` names it", body = NewKeyView)))]
#[post("/v1/keys")]
pub(super) async fn create(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let NewKeyBody { name, scopes, galleries, expires_at_ms } = incoming.json().await?;
    let galleries = galleries.map(|names| names.into_iter().collect());
    let new = NewKey { name, scopes: scopes.into_iter().collect(), galleries, expires_at_ms };
    let made = service.create_key(new).await?;
    let location = format!("/v1/keys/{}", made.key.key);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(made))
}

/// List keys.
#[utoipa::path(tag = "keys", operation_id = "list_keys",
    responses((status = 200, description = "All keys", body = KeyListView)))]
#[get("/v1/keys")]
pub(super) async fn list(service: web::Data<Service>) -> HttpResponse {
    HttpResponse::Ok().json(service.keys())
}

/// Read a key.
#[utoipa::path(tag = "keys", operation_id = "read_key",
    params(("key" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The key", body = KeyView)))]
#[get("/v1/keys/{key:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.key(key_id(&path)?)?))
}

/// Revoke a key.
///
/// It lets nobody in from now on. It stays in the list; the last one that allows `admin` and does not expire cannot be revoked.
#[utoipa::path(tag = "keys", params(("key" = String, Path, description = "The key's id")),
    responses((status = 200, description = "Revoked", body = KeyView)))]
#[delete("/v1/keys/{key:[^:/]+}")]
pub(super) async fn revoke(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.revoke_key(key_id(&path)?).await?))
}

/// Rotate a key.
///
/// It gets another secret; the one before is taken for `overlap_s` seconds more.
#[utoipa::path(tag = "keys", params(("key" = String, Path, description = "The key's id")),
    request_body = RotateBody,
    responses((status = 200, description = "Rotated", body = NewKeyView)))]
#[post("/v1/keys/{key}:rotate")]
pub(super) async fn rotate(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&path)?;
    let RotateBody { overlap_s } = incoming.json().await?;
    Ok(HttpResponse::Ok().json(service.rotate_key(id, overlap_s).await?))
}
