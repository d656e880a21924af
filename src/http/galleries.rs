use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, delete, get, post, put, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{GalleryId, GalleryPolicy};
use crate::service::{Caller, GalleryPolicySchema, GalleryView, NewGallery, Service};

use super::error::ApiError;
use super::extract::Incoming;

/// A gallery to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGalleryRequest {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
    #[schema(example = "staff")]
    id: String,
    /// Keep enrolled images, sealed, so that a later model can embed them again.
    #[serde(default)]
    retain_images: bool,
    /// Those who are enrolled agree that their images are trained on.
    #[serde(default)]
    allow_training: bool,
    /// Words for people, at most 2048 bytes.
    #[serde(default)]
    description: String,
    /// Who may be in it, and for how long.
    #[serde(default)]
    #[schema(value_type = Option<GalleryPolicySchema>)]
    policy: GalleryPolicy,
}

/// All galleries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GalleryList {
    /// By name.
    galleries: Vec<GalleryView>,
}

/// Make a gallery.
///
/// Its templates live in the space of the model that serves now.
#[utoipa::path(tag = "galleries", request_body = NewGalleryRequest,
    responses((status = 201, description = "Made; `Location` says where", body = GalleryView)))]
#[post("/v1/galleries")]
pub(super) async fn create(
    service: web::Data<Service>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let NewGalleryRequest { id, retain_images, allow_training, description, policy } =
        incoming.json().await?;
    let id = GalleryId::new(id)?;
    let new = NewGallery { id, retain_images, allow_training, description, policy };
    let view = service.create_gallery(new).await?;
    let location = format!("/v1/galleries/{}", view.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(view))
}

/// List galleries.
///
/// Those that the key is for.
#[utoipa::path(tag = "galleries", responses((status = 200, description = "All galleries", body = GalleryList)))]
#[get("/v1/galleries")]
pub(super) async fn list(
    service: web::Data<Service>,
    caller: web::ReqData<Caller>,
) -> HttpResponse {
    let mut galleries = service.galleries();
    galleries.retain(|gallery| caller.may_reach(gallery.id.as_str()));
    HttpResponse::Ok().json(GalleryList { galleries })
}

/// Read a gallery.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 200, description = "The gallery", body = GalleryView)))]
#[get("/v1/galleries/{gallery:[^:/]+}")]
pub(super) async fn read(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service.gallery(&GalleryId::new(path.into_inner())?)?))
}

/// Delete a gallery with everyone in it.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    responses((status = 204, description = "Deleted")))]
#[delete("/v1/galleries/{gallery:[^:/]+}")]
pub(super) async fn delete(
    service: web::Data<Service>,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    service.delete_gallery(&GalleryId::new(path.into_inner())?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Change who may be in a gallery.
///
/// Takes the place of the whole policy. Durable when it answers; who is over time by it is erased within a minute.
#[utoipa::path(tag = "galleries", params(("gallery" = String, Path, description = "The gallery")),
    request_body = GalleryPolicySchema,
    responses((status = 200, description = "The gallery", body = GalleryView)))]
#[put("/v1/galleries/{gallery}/policy")]
pub(super) async fn set_policy(
    service: web::Data<Service>,
    path: web::Path<String>,
    incoming: Incoming,
) -> Result<HttpResponse, ApiError> {
    let gallery = GalleryId::new(path.into_inner())?;
    let policy: GalleryPolicy = incoming.json().await?;
    Ok(HttpResponse::Ok().json(service.set_policy(&gallery, policy).await?))
}
