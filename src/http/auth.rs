//! Who may ask for what: one line an operation. What stands on no line is for admins only.

use std::time::Instant;

use actix_web::HttpMessage as _;
use actix_web::dev::{ResourceDef, ServiceRequest};
use actix_web::http::header::AUTHORIZATION;
use actix_web::http::{Method, StatusCode};

use crate::domain::Scope;
use crate::service::{Caller, Refusal, Service, ServiceError};

use super::error::ApiError;
use super::rate::Rates;

/// Who may ask for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Public,
    /// Whoever holds one of these scopes; for a path with a gallery in it, also for that gallery.
    Key(&'static [Scope]),
}

use Access::{Key, Public};

const READ: Access = Key(&[Scope::Read]);
const IDENTIFY: Access = Key(&[Scope::Identify]);
const TRAIN: Access = Key(&[Scope::Train]);
const DEPLOY: Access = Key(&[Scope::Deploy]);
const ADMIN: Access = Key(&[Scope::Admin]);
/// What those who start jobs have to see.
const WATCH: Access = Key(&[Scope::Monitor, Scope::Train, Scope::Deploy]);
/// Which kind of job it is decides further.
const JOBS: Access = Key(&[Scope::Train, Scope::Deploy]);

const TABLE: &[(&str, &str, Access)] = &[
    ("GET", "/livez", Public),
    ("GET", "/readyz", Public),
    ("GET", "/metrics", Key(&[Scope::Monitor])),
    ("POST", "/v1/galleries/{gallery}:identify", IDENTIFY),
    ("POST", "/v1/galleries/{gallery}:verify", IDENTIFY),
    ("POST", "/v1/galleries/{gallery}:search", IDENTIFY),
    ("POST", "/v1/compare", IDENTIFY),
    ("POST", "/v1/explain", IDENTIFY),
    ("POST", "/v1/embeddings", Key(&[Scope::Embed])),
    ("GET", "/v1/galleries", READ),
    ("POST", "/v1/galleries", ADMIN),
    ("GET", "/v1/galleries/{gallery}", READ),
    ("DELETE", "/v1/galleries/{gallery}", ADMIN),
    ("POST", "/v1/galleries/{gallery}:audit", ADMIN),
    ("POST", "/v1/galleries/{gallery}:compact", ADMIN),
    ("PUT", "/v1/galleries/{gallery}/policy", ADMIN),
    ("GET", "/v1/galleries/{gallery}/calibration", READ),
    ("PUT", "/v1/galleries/{gallery}/calibration", ADMIN),
    ("DELETE", "/v1/galleries/{gallery}/calibration", ADMIN),
    ("GET", "/v1/galleries/{gallery}/subjects", READ),
    ("GET", "/v1/galleries/{gallery}/subjects/{subject}", READ),
    ("DELETE", "/v1/galleries/{gallery}/subjects/{subject}", Key(&[Scope::Erase])),
    ("PUT", "/v1/galleries/{gallery}/subjects/{subject}/consent", Key(&[Scope::Enrol])),
    ("GET", "/v1/erasures", ADMIN),
    ("POST", "/v1/erasures:verify", Key(&[Scope::Read, Scope::Erase])),
    ("GET", "/v1/audit", ADMIN),
    ("POST", "/v1/audit:verify", ADMIN),
    ("GET", "/v1/backup", ADMIN),
    ("POST", "/v1/galleries/{gallery}/subjects/{subject}/samples", Key(&[Scope::Enrol])),
    ("POST", "/v1/galleries/{gallery}/samples:batch", Key(&[Scope::Enrol])),
    ("GET", "/v1/galleries/{gallery}/subjects/{subject}/samples/{sample}", READ),
    ("DELETE", "/v1/galleries/{gallery}/subjects/{subject}/samples/{sample}", Key(&[Scope::Erase])),
    ("GET", "/v1/models", WATCH),
    ("POST", "/v1/models", TRAIN),
    ("GET", "/v1/models/{model}", WATCH),
    ("DELETE", "/v1/models/{model}", TRAIN),
    ("GET", "/v1/models/{model}/archive", TRAIN),
    ("POST", "/v1/models/{model}:verify", TRAIN),
    ("POST", "/v1/models/{model}:deploy", DEPLOY),
    ("GET", "/v1/deployment", WATCH),
    ("POST", "/v1/deployment:rollback", DEPLOY),
    ("POST", "/v1/deployment:retire", DEPLOY),
    ("GET", "/v1/training-runs", TRAIN),
    ("POST", "/v1/training-runs", TRAIN),
    ("GET", "/v1/training-runs/{run}", TRAIN),
    ("GET", "/v1/training-runs/{run}/{file}", TRAIN),
    ("POST", "/v1/training-runs/{run}:cancel", TRAIN),
    ("GET", "/v1/datasets", TRAIN),
    ("POST", "/v1/datasets", TRAIN),
    ("GET", "/v1/datasets/{dataset}", TRAIN),
    ("DELETE", "/v1/datasets/{dataset}", TRAIN),
    // Whoever deploys has to compare first, and to show what was found.
    ("GET", "/v1/evaluations", JOBS),
    ("POST", "/v1/evaluations", JOBS),
    ("GET", "/v1/evaluations/{evaluation}", JOBS),
    ("GET", "/v1/evaluations/{evaluation}/{file}", JOBS),
    ("POST", "/v1/evaluations/{evaluation}:cancel", JOBS),
    ("GET", "/v1/jobs", WATCH),
    ("GET", "/v1/jobs/{job}", WATCH),
    ("GET", "/v1/jobs/{job}/events", WATCH),
    ("POST", "/v1/jobs/{job}:cancel", JOBS),
    ("POST", "/v1/jobs/{job}:retry", JOBS),
    ("GET", "/v1/keys", ADMIN),
    ("POST", "/v1/keys", ADMIN),
    ("GET", "/v1/keys/{key}", ADMIN),
    ("DELETE", "/v1/keys/{key}", ADMIN),
    ("POST", "/v1/keys/{key}:rotate", ADMIN),
];

/// Who may ask for an operation of the OpenAPI document; `None` where it stands on no line.
pub(super) fn access(method: &str, path: &str) -> Option<Access> {
    let line = TABLE.iter().find(|(m, p, _)| m.eq_ignore_ascii_case(method) && *p == path);
    line.map(|(_, _, access)| *access)
}

/// An operation, as requests are matched with it.
pub(super) struct Operation {
    path: ResourceDef,
    pub(super) method: Method,
    access: Access,
}

impl Operation {
    pub(super) fn new(method: Method, path: &str) -> Self {
        let access = access(method.as_str(), path).unwrap_or(ADMIN);
        // As the handlers' own patterns: before a verb a name ends at the colon.
        let names = ["gallery", "model", "run", "evaluation", "job", "key", "file"];
        let pattern = names.iter().fold(path.to_owned(), |pattern, name| {
            pattern.replace(&format!("{{{name}}}"), &format!("{{{name}:[^:/]+}}"))
        });
        Self { path: ResourceDef::new(pattern), method, access }
    }

    pub(super) fn is_at(&self, path: &str) -> bool {
        self.path.is_match(path)
    }

    /// The gallery that a path names, as it is spelled there.
    fn gallery(&self, path: &str) -> Option<String> {
        let mut matched = actix_web::dev::Path::new(path);
        self.path.capture_match_info(&mut matched);
        matched.get("gallery").map(str::to_owned)
    }
}

/// What a request may match. Where it is more than one, all must allow it.
pub(super) fn authorize(
    service: &Service,
    request: &ServiceRequest,
    rates: Option<&Rates>,
    operations: &[&Operation],
) -> Result<Caller, ApiError> {
    let needed = || operations.iter().map(|operation| operation.access);
    if needed().all(|access| access == Public) && !operations.is_empty() {
        return Ok(Caller::local());
    }
    let caller = service.caller(token(request)?)?;
    if let (Some(rates), Some(key)) = (rates, caller.key()) {
        // Before anything else, so that what is refused for its scope counts as well.
        let allowance = rates.take(key, Instant::now());
        request.extensions_mut().insert(allowance);
        if allowance.refused {
            let detail = "this key has asked as often as it may; come back after `Retry-After`";
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
                .retry_after(allowance.retry_after()));
        }
    }
    for operation in operations {
        let Key(scopes) = operation.access else { continue };
        if !caller.has_any(scopes) {
            return Err(ServiceError::ScopeMissing(scopes).into());
        }
        if let Some(gallery) = operation.gallery(request.match_info().as_str())
            && !caller.may_reach(&gallery)
        {
            return Err(ServiceError::GalleryForbidden(gallery).into());
        }
    }
    Ok(caller)
}

/// The token of `authorization: Bearer <token>`.
fn token(request: &ServiceRequest) -> Result<Option<&str>, ApiError> {
    let mut sent = request.headers().get_all(AUTHORIZATION);
    let Some(header) = sent.next() else { return Ok(None) };
    let malformed = || ServiceError::KeyRefused(Refusal::Malformed);
    if sent.next().is_some() {
        return Err(malformed().into());
    }
    let text = header.to_str().map_err(|_| malformed())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed().into());
    }
    Ok(Some(token.trim()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::document::{document, paths};

    #[test]
    fn every_operation_stands_on_one_line_and_every_line_is_an_operation() {
        let operations: BTreeSet<(String, String)> = paths(&document())
            .into_iter()
            .flat_map(|(path, methods)| {
                methods.into_iter().map(move |method| (method.to_string(), path.clone()))
            })
            .collect();
        let lines: BTreeSet<(String, String)> = TABLE
            .iter()
            .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(lines, operations);
        assert_eq!(TABLE.len(), lines.len(), "a line stands twice");
    }

    #[test]
    fn only_health_is_public() {
        let public = TABLE.iter().filter(|(_, _, access)| *access == Public);
        let paths: Vec<&str> = public.map(|(_, path, _)| *path).collect();
        assert_eq!(paths, ["/livez", "/readyz"]);
    }
}
