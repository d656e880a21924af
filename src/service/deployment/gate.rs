//! Whether a model may be brought.

use crate::domain::{Calibration, Fingerprint};

use super::record::ModelRef;
use super::steps::DeployRequest;
use crate::service::error::ServiceError;
use crate::service::{ModelChoice, Service, blocking};

impl Service {
    /// What a name that can be deployed means.
    pub(super) async fn deployable(
        &self,
        name: &str,
    ) -> Result<(ModelRef, Fingerprint), ServiceError> {
        let (service, name) = (self.clone(), self.alias(name)?);
        blocking(move || {
            let workshop = &service.0.workshop;
            let model = match workshop.registry.choice(&name)? {
                ModelChoice::Nano => return Ok((ModelRef::Nano, service.0.nano.fingerprint)),
                choice => ModelRef::from(&choice),
            };
            let fingerprint = workshop.registry.read(&name)?.fingerprint;
            Ok((model, fingerprint))
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
