//! What an admin can ask for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Caller;
use crate::domain::{Calibration, Fingerprint, Scope};
use crate::gallery::Gallery;
use crate::jobs::JobId;

use super::preflight::preflight;
use super::record::{Asked, ModelRef};
use super::thresholds::worse_off;
use super::views::DeploymentView;
use crate::service::audit::Deed;
use crate::service::error::ServiceError;
use crate::service::keys::require;
use crate::service::views::JobView;
use crate::service::{Service, jobs};

/// Longest soak, seconds: 30 days.
const MOST_SOAK_S: u64 = 30 * 24 * 3600;
/// Most samples that the challenger is asked about before it serves.
const MOST_SHADOW_PROBES: usize = 100_000;
/// Longest reason for passing over the gate, in bytes.
const MOST_REASON: usize = 1_000;

/// What becomes of samples that have no image to make a template of the new model from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutImages {
    /// They keep the deployment from beginning.
    #[default]
    Block,
    /// They are not found any more, and go when the way back is given up.
    Drop,
    /// Their galleries are answered by the model that they have.
    KeepOldGeneration,
}

/// Whether a gallery moves to the new model. One that kept no images can when it is empty, or when that is to count for
/// nothing.
pub(super) fn moves(gallery: &Gallery, without_images: WithoutImages) -> bool {
    let info = gallery.info();
    info.retain_images || info.samples == 0 || without_images == WithoutImages::Drop
}

/// How a model is to be brought.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployRequest {
    /// A comparison of the model that serves with this one, whose gate it passed.
    pub evaluation: Option<JobId>,
    /// Why the gate is passed over.
    pub override_reason: Option<String>,
    /// What becomes of samples without an image.
    pub without_images: WithoutImages,
    /// How long the way back is kept, in seconds.
    pub soak_s: u64,
    /// Most images embedded a second.
    pub images_per_second: Option<f64>,
    /// Thresholds of the new model, for every gallery that has thresholds now.
    pub calibration: Option<Calibration>,
    /// Whether galleries that decide by thresholds may do without, or with some that reach less far or are less strict.
    pub allow_uncalibrated: bool,
    /// Enrolled samples that the new model is asked about before it serves.
    pub shadow_probes: usize,
}

impl Default for DeployRequest {
    fn default() -> Self {
        Self {
            evaluation: None,
            override_reason: None,
            without_images: WithoutImages::Block,
            soak_s: 3600,
            images_per_second: None,
            calibration: None,
            allow_uncalibrated: false,
            shadow_probes: 1_000,
        }
    }
}

impl DeployRequest {
    fn check(&self) -> Result<(), ServiceError> {
        let invalid = |field, problem: String| Err(ServiceError::Invalid { field, problem });
        if self.soak_s > MOST_SOAK_S {
            return invalid("soak_s", format!("is {}, 0 to {MOST_SOAK_S} is taken", self.soak_s));
        }
        if self.shadow_probes > MOST_SHADOW_PROBES {
            let problem = format!("is {}, 0 to {MOST_SHADOW_PROBES} is taken", self.shadow_probes);
            return invalid("shadow_probes", problem);
        }
        if let Some(rate) = self.images_per_second
            && !(0.01..=1e6).contains(&rate)
        {
            return invalid("images_per_second", format!("is {rate}, 0.01 to 1e6 is taken"));
        }
        if let Some(reason) = &self.override_reason
            && (reason.trim().is_empty() || reason.len() > MOST_REASON)
        {
            let problem = format!("needs a reason of at most {MOST_REASON} bytes");
            return invalid("override", problem);
        }
        Ok(())
    }
}

/// The job's input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeployInput {
    pub(super) model: ModelRef,
    pub(super) fingerprint: Fingerprint,
    /// The model that served when it was asked for: the gate compared with that one.
    pub(super) champion: Fingerprint,
    pub(super) without_images: WithoutImages,
    pub(super) soak_s: u64,
    pub(super) images_per_second: Option<f64>,
    pub(super) calibration: Option<Calibration>,
    /// Whether thresholds may be lost, or replaced by worse ones.
    #[serde(default)]
    pub(super) allow_uncalibrated: bool,
    pub(super) shadow_probes: usize,
    pub(super) override_reason: Option<String>,
    pub(super) evaluation: Option<JobId>,
    /// Whose key asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
}

impl DeployInput {
    pub(super) fn asked(&self) -> Asked {
        Asked { by: self.by.clone(), override_reason: self.override_reason.clone() }
    }
}

impl Service {
    /// Has a job bring a model in the place of the one that serves. What can be refused is refused at once. Passing over the
    /// gate takes an admin.
    ///
    /// # Errors
    /// [`ServiceError::ScopeMissing`],
    /// [`ServiceError::ModelNotFound`], [`ServiceError::AlreadyServes`], [`ServiceError::DeploymentUnderWay`],
    /// [`ServiceError::Soaking`], [`ServiceError::WithoutImages`], [`ServiceError::Uncalibrated`],
    /// [`ServiceError::GateMissing`], [`ServiceError::GateFailed`], [`ServiceError::InsufficientMemory`],
    /// [`ServiceError::StorageFull`], [`ServiceError::Invalid`].
    pub async fn deploy(
        &self,
        name: &str,
        ask: DeployRequest,
        caller: &Caller,
    ) -> Result<JobView, ServiceError> {
        ask.check()?;
        if ask.override_reason.is_some() {
            require(caller, &[Scope::Admin])?;
        }
        let by = caller.name();
        let (model, fingerprint) = self.deployable(name).await?;
        let service = self.clone();
        self.change(Deed::new("model.deploy").about(name), move || {
            let workshop = &service.0.workshop;
            let record = workshop.deployments.record();
            if record.filling.is_some() || service.0.jobs.is_under_way(jobs::DEPLOY) {
                return Err(ServiceError::DeploymentUnderWay);
            }
            if record.previous.is_some() {
                return Err(ServiceError::Soaking);
            }
            if record.live.space.fingerprint == fingerprint {
                return Err(ServiceError::AlreadyServes(model.to_string()));
            }
            service.without_images(&ask)?;
            let calibration = service.gate(&ask, fingerprint)?;
            let calibration = ask.calibration.clone().or(calibration);
            if let Some(calibration) = &calibration
                && calibration.fingerprint != fingerprint
            {
                return Err(ServiceError::ModelMismatch {
                    gallery: fingerprint.to_string(),
                    serving: calibration.fingerprint.to_string(),
                });
            }
            if !ask.allow_uncalibrated {
                // Who stays with the model that they have keeps its thresholds.
                let mut moving = workshop.galleries.list();
                moving.retain(|gallery| moves(gallery, ask.without_images));
                let worse_off = worse_off(&moving, calibration.as_ref())?;
                if !worse_off.is_empty() {
                    return Err(ServiceError::Uncalibrated(worse_off));
                }
            }
            preflight(workshop, &model)?;
            let input = DeployInput {
                model,
                fingerprint,
                champion: record.live.space.fingerprint,
                without_images: ask.without_images,
                soak_s: ask.soak_s,
                images_per_second: ask.images_per_second,
                calibration,
                allow_uncalibrated: ask.allow_uncalibrated,
                shadow_probes: ask.shadow_probes,
                override_reason: ask.override_reason,
                evaluation: ask.evaluation,
                by,
            };
            let input: Value = serde_json::to_value(&input)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
            Ok(service.0.jobs.enqueue(jobs::DEPLOY, input)?.into())
        })
        .await
    }

    /// Refuses samples without an image, unless they may be dropped or left behind.
    fn without_images(&self, ask: &DeployRequest) -> Result<(), ServiceError> {
        if ask.without_images != WithoutImages::Block {
            return Ok(());
        }
        let (mut galleries, mut samples) = (Vec::new(), 0);
        for gallery in self.0.workshop.galleries.list() {
            let info = gallery.info();
            if !info.retain_images && info.samples > 0 {
                samples += info.samples;
                galleries.push(info.id);
            }
        }
        if galleries.is_empty() {
            Ok(())
        } else {
            Err(ServiceError::WithoutImages { samples, galleries })
        }
    }

    /// The generation that serves.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.workshop.deployments.load().live.generation.0
    }

    /// Which models serve, and what was done.
    #[must_use]
    pub fn deployment(&self) -> DeploymentView {
        let table = &self.0.workshop.deployments;
        DeploymentView::new(&table.load(), &table.record())
    }

    /// Has the model before serve again: what was enrolled or erased since stays so.
    ///
    /// # Errors
    /// [`ServiceError::NothingToRollBack`].
    pub async fn roll_back(&self, caller: &Caller) -> Result<DeploymentView, ServiceError> {
        let (service, by) = (self.clone(), caller.name());
        self.change(Deed::new("deployment.rollback"), move || {
            let workshop = &service.0.workshop;
            workshop.failpoint.reach("rollback.before");
            workshop.deployments.roll_back(by)?;
            workshop.failpoint.reach("rollback.done");
            service.0.keeper.look();
            Ok(service.deployment())
        })
        .await
    }

    /// Gives up the way back before its time.
    ///
    /// # Errors
    /// [`ServiceError::NothingToRollBack`].
    pub async fn retire(&self, caller: &Caller) -> Result<DeploymentView, ServiceError> {
        let (service, by) = (self.clone(), caller.name());
        self.change(Deed::new("deployment.retire"), move || {
            service.0.workshop.deployments.retire(by)?;
            service.0.workshop.failpoint.reach("retire.done");
            service.0.keeper.look();
            Ok(service.deployment())
        })
        .await
    }
}
