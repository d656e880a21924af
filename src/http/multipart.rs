use actix_multipart::Multipart;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use futures_util::{StreamExt as _, stream};

use super::error::ApiError;

const MAX_PARTS: usize = 64;

/// The parts of a multipart body: name and content, in order.
pub(super) async fn parts(
    request: &HttpRequest,
    body: Vec<u8>,
) -> Result<Vec<(String, Vec<u8>)>, ApiError> {
    let malformed =
        |detail: String| ApiError::new(StatusCode::BAD_REQUEST, "malformed_multipart", detail);
    let whole = stream::iter([Ok(Bytes::from(body))]);
    let mut multipart = Multipart::new(request.headers(), whole);
    let mut parts = Vec::new();
    while let Some(part) = multipart.next().await {
        let mut part = part.map_err(|error| malformed(error.to_string()))?;
        let name = part.name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(malformed("a part has no name".to_owned()));
        }
        if parts.len() == MAX_PARTS {
            return Err(malformed(format!("more than {MAX_PARTS} parts")));
        }
        let mut content = Vec::new();
        while let Some(chunk) = part.next().await {
            content.extend_from_slice(&chunk.map_err(|error| malformed(error.to_string()))?);
        }
        parts.push((name, content));
    }
    Ok(parts)
}
