//! The REST API: translate, call the service, translate back. Holds no rule of its own.
//!
//! `routes` is the whole API on one page; `error` the one table from errors to the wire.

mod audit;
mod auth;
mod calibration;
mod deployment;
mod document;
mod error;
mod evaluations;
mod explain;
mod extract;
mod forms;
mod frame;
mod galleries;
mod health;
mod jobs;
mod keys;
mod models;
mod multipart;
mod rate;
mod recognition;
mod samples;
mod server;
mod subjects;
mod tls;
mod training_runs;

use utoipa_actix_web::service_config::ServiceConfig;

pub use document::openapi_json;
pub use server::{Server, ServerError, ServerHandle};
pub use tls::TlsError;

/// Every operation. Custom verbs (`{gallery}:identify`) stand before what would match them too.
fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(health::livez)
        .service(health::readyz)
        .service(health::metrics)
        .service(recognition::identify)
        .service(recognition::verify)
        .service(recognition::search)
        .service(recognition::compare)
        .service(recognition::embeddings)
        .service(explain::explain)
        .service(jobs::audit)
        .service(jobs::compact)
        .service(galleries::create)
        .service(galleries::list)
        .service(galleries::read)
        .service(galleries::delete)
        .service(galleries::set_policy)
        .service(calibration::read)
        .service(calibration::replace)
        .service(calibration::remove)
        .service(samples::enrol_batch)
        .service(subjects::list)
        .service(subjects::read)
        .service(subjects::erase)
        .service(subjects::set_consent)
        .service(subjects::erasures)
        .service(subjects::verify_erasure)
        .service(audit::read)
        .service(audit::verify)
        .service(audit::backup)
        .service(samples::enrol)
        .service(samples::read)
        .service(samples::remove)
        .service(deployment::deploy)
        .service(models::verify)
        .service(models::list)
        .service(models::import)
        .service(models::export)
        .service(models::delete)
        .service(models::read)
        .service(deployment::read)
        .service(deployment::rollback)
        .service(deployment::retire)
        .service(training_runs::cancel)
        .service(training_runs::start)
        .service(training_runs::list)
        .service(training_runs::read)
        .service(training_runs::report)
        .service(training_runs::upload)
        .service(training_runs::datasets)
        .service(training_runs::dataset)
        .service(training_runs::delete_dataset)
        .service(evaluations::cancel)
        .service(evaluations::start)
        .service(evaluations::list)
        .service(evaluations::read)
        .service(evaluations::report)
        .service(keys::rotate)
        .service(keys::create)
        .service(keys::list)
        .service(keys::read)
        .service(keys::revoke)
        .service(jobs::cancel)
        .service(jobs::retry)
        .service(jobs::list)
        .service(jobs::read)
        .service(jobs::follow);
}
