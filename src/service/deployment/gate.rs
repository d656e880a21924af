//! Whether a model may be brought.

use crate::domain::{Calibration, Fingerprint};
use crate::model::in_precision;

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
                choice @ (ModelChoice::Registered { .. } | ModelChoice::Directory(_)) => {
                    ModelRef::from(&choice)
                }
            };
            let fingerprint = workshop.registry.whole(&name)?.fingerprint;
            let fingerprint = in_precision(fingerprint, workshop.deployments.precision());
            Ok((model, fingerprint))
        })
        .await
    }

    /// The new model's thresholds from the evaluation whose gate it passed. A gate that is passed over gives them too.
    pub(super) fn gate(
        &self,
        ask: &DeployRequest,
        challenger: Fingerprint,
    ) -> Result<Option<Calibration>, ServiceError> {
        let Some(id) = ask.evaluation else {
            let passed_over = ask.override_reason.is_some();
            return if passed_over { Ok(None) } else { Err(ServiceError::GateMissing) };
        };
        let (table, calibration) = self.gate_of(id)?;
        let champion = self.deployment_now().live.fingerprint();
        if (table.champion.fingerprint, table.challenger.fingerprint) != (champion, challenger) {
            return Err(ServiceError::GateMissing);
        }
        if !table.passed && ask.override_reason.is_none() {
            return Err(ServiceError::GateFailed(Box::new(table)));
        }
        Ok(calibration)
    }
}
