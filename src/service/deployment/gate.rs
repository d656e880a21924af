//! Whether a model may be brought.

use crate::domain::{Calibration, Fingerprint};

use super::record::ModelRef;
use super::steps::DeployRequest;
use crate::service::error::ServiceError;
use crate::service::{Service, blocking};

impl Service {
    /// What a name that can be deployed means.
    pub(super) async fn deployable(
        &self,
        name: &str,
    ) -> Result<(ModelRef, Fingerprint), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let workshop = &service.0.workshop;
            let model = match name.as_str() {
                "nano" => ModelRef::Nano,
                name => {
                    if !workshop.data_dir.join("models").join(name).is_dir() {
                        return Err(ServiceError::ModelNotFound(name.to_owned()));
                    }
                    ModelRef::Registered(name.to_owned())
                }
            };
            let embedder = workshop.deployments.open_challenger(&model)?;
            Ok((model, embedder.fingerprint()))
        })
        .await
    }

    /// The new model's thresholds from the evaluation whose gate it passed.
    pub(super) fn gate(
        &self,
        ask: &DeployRequest,
        _challenger: Fingerprint,
    ) -> Result<Option<Calibration>, ServiceError> {
        match &ask.override_reason {
            Some(_) => Ok(None),
            None => Err(ServiceError::GateMissing),
        }
    }
}
