//! The deployment as a job: bring, fill, check, promote. Whatever ends it early, the model that served serves on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gallery::{Gallery, GalleryError, TemplateSpace};
use crate::image::DecodeLimits;
use crate::jobs::{JobContext, JobFailure};

use super::backfill::{Backfill, Tally, failed, gallery_failure};
use super::preflight::preflight;
use super::shadow;
use super::steps::{DeployInput, WithoutImages, moves};
use super::table::Deployments;
use super::thresholds::worse_off;
use crate::service::ServiceError;
use crate::service::workshop::Workshop;

/// Passes after the first: what was enrolled meanwhile by those who did not know of the new model.
const MOST_PASSES: usize = 20;
/// How long a deployment waits for earlier requests before its log says so.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// Share of a gallery's samples that must find themselves.
const LEAST_FOUND: f64 = 0.99;

/// Runs, or goes on with, a deployment.
pub(in crate::service) fn deploy(
    workshop: &Workshop,
    context: &JobContext<'_>,
) -> Result<Value, JobFailure> {
    let input: DeployInput = serde_json::from_value(context.input().clone())
        .map_err(|error| JobFailure::new("invalid_input", error))?;
    let table = &workshop.deployments;
    if table.record().promoted_by == Some(context.id()) {
        // The last step was taken and the process ended before it was told.
        return Ok(
            json!({ "model": input.model.to_string(), "generation": table.load().live.generation }),
        );
    }
    bring(workshop, context, &input).inspect_err(|_| {
        // At a stop it goes on after the next start, from where the record says.
        if !context.stopping()
            && let Err(error) = give_up(workshop, context)
        {
            tracing::error!(%error, "a deployment is not given up; trying again later");
        }
    })
}

fn give_up(workshop: &Workshop, context: &JobContext<'_>) -> Result<(), ServiceError> {
    workshop.deployments.abandon(context.id())?;
    Ok(workshop.galleries.purge()?)
}

fn service_failure(error: ServiceError) -> JobFailure {
    let is = |name: &'static str, is: bool| is.then_some(name);
    let code = is("model", matches!(&error, ServiceError::Model(_)))
        .or(is("model_changed", matches!(&error, ServiceError::ModelChanged(_))))
        .or(is("model_damaged", matches!(&error, ServiceError::ModelDamaged(_))))
        .or(is("model_not_found", matches!(&error, ServiceError::ModelNotFound(_))))
        .or(is("insufficient_memory", matches!(&error, ServiceError::InsufficientMemory { .. })))
        .or(is("storage_full", matches!(&error, ServiceError::StorageFull(_))))
        .or(is("deployment_under_way", matches!(&error, ServiceError::DeploymentUnderWay)))
        .or(is("soaking", matches!(&error, ServiceError::Soaking)))
        .or(is("uncalibrated", matches!(&error, ServiceError::Uncalibrated(_))))
        .or(is("no_deployment", matches!(&error, ServiceError::NoDeployment)))
        .unwrap_or("deployment");
    failed(code, error)
}

fn bring(
    workshop: &Workshop,
    context: &JobContext<'_>,
    input: &DeployInput,
) -> Result<Value, JobFailure> {
    let (table, failpoint) = (&workshop.deployments, &workshop.failpoint);
    let record = table.record();
    let begun = record.filling.is_some_and(|filling| filling.job == context.id());
    if !begun && record.live.space.fingerprint != input.champion {
        let about = "another model serves than when this was asked for: compare with that one";
        return Err(JobFailure::new("champion_changed", about));
    }
    context.log(format!("opening {}", input.model));
    preflight(workshop, &input.model).map_err(service_failure)?;
    let embedder = table.open_challenger(&input.model).map_err(service_failure)?;
    if embedder.fingerprint() != input.fingerprint {
        return Err(service_failure(ServiceError::ModelChanged(input.model.to_string())));
    }
    failpoint.reach("deploy.before_begin");
    if !begun {
        // What the deployment before dropped goes first, be the way back from it given up a moment ago.
        workshop.galleries.purge_while(&|| !context.cancelled()).map_err(gallery_failure)?;
        if context.cancelled() {
            return Err(JobFailure::interrupted());
        }
    }
    let served: Vec<TemplateSpace> =
        table.load().answering().map(|serving| serving.space()).collect();
    let moves = |gallery: &Gallery| {
        let info = gallery.info();
        let home = TemplateSpace {
            generation: info.generation,
            fingerprint: info.fingerprint,
            dim: info.dim,
        };
        served.contains(&home) && moves(gallery, input.without_images)
    };
    let to = table
        .begin(context.id(), &input.model, embedder, moves, input.asked())
        .map_err(service_failure)?;
    failpoint.reach("deploy.begun");
    wait_for_those_before(table, context)?;
    let deployment = table.load();
    let challenger =
        deployment.filling.clone().ok_or_else(|| service_failure(ServiceError::NoDeployment))?;
    drop(deployment);
    let moving = || -> Vec<Arc<Gallery>> {
        let all = workshop.galleries.list().into_iter();
        all.filter(|gallery| gallery.filling().is_some()).collect()
    };
    set_calibrations(input, &moving())?;
    let backfill = Backfill {
        context,
        embedder: challenger.batcher.embedder(),
        to,
        limits: DecodeLimits {
            max_file_bytes: workshop.max_image_bytes,
            ..DecodeLimits::default()
        },
        images_per_second: input.images_per_second,
        failpoint,
    };
    let mut tally = Tally::default();
    fill(&backfill, &moving, &mut tally, input)?;
    context.log(format!("{} samples have a template of {}", tally.done, input.model));
    if tally.without_image > 0 {
        context.log(format!("{} samples have no image and are dropped", tally.without_image));
    }
    failpoint.reach("deploy.filled");
    for gallery in moving() {
        match gallery.compact_filling(context.cancel_flag()) {
            Ok(()) => {}
            Err(_) if context.cancelled() => return Err(JobFailure::interrupted()),
            Err(error) => return Err(gallery_failure(error)),
        }
    }
    audit(context, &moving())?;
    let shadowed = shadow::replay(context, &moving(), input.shadow_probes)?;
    context.log(shadowed.to_string());
    failpoint.reach("deploy.before_promote");
    promote(workshop, context, input, &backfill, &moving, &mut tally)?;
    failpoint.reach("deploy.promoted");
    for gallery in workshop.galleries.list() {
        if let Err(error) = gallery.save() {
            tracing::warn!(%error, gallery = %gallery.id(), "the index is not saved");
        }
    }
    Ok(json!({
        "model": input.model.to_string(),
        "generation": to.generation,
        "fingerprint": to.fingerprint,
        "samples": tally.done,
        "without_image": tally.without_image,
        "shadow": shadowed,
    }))
}

/// Waits for enrolments that know nothing of the new model, and says so where it takes a while.
fn wait_for_those_before(table: &Deployments, context: &JobContext<'_>) -> Result<(), JobFailure> {
    let (begun, mut told) = (Instant::now(), false);
    let over = table.wait_for_those_before(|| {
        if !told && begun.elapsed() > TELL_AFTER {
            context.log("waiting for requests that began before this deployment");
            told = true;
        }
        !context.cancelled()
    });
    if over { Ok(()) } else { Err(JobFailure::interrupted()) }
}

/// Passes until nothing lacks a template that can have one.
fn fill(
    backfill: &Backfill<'_>,
    moving: &dyn Fn() -> Vec<Arc<Gallery>>,
    tally: &mut Tally,
    input: &DeployInput,
) -> Result<(), JobFailure> {
    for _ in 0..MOST_PASSES {
        let galleries = moving();
        backfill.pass(&galleries, tally)?;
        if tally.without_image > 0 && input.without_images != WithoutImages::Drop {
            let about = format!("{} samples have no image to re-embed", tally.without_image);
            return Err(JobFailure::new("samples_without_image", about));
        }
        let left: usize = galleries.iter().map(|gallery| gallery.gaps().len()).sum();
        if left as u64 <= tally.without_image {
            return Ok(());
        }
    }
    Ok(())
}

/// Has the galleries that decide by thresholds go on doing so with the new model's.
fn set_calibrations(input: &DeployInput, galleries: &[Arc<Gallery>]) -> Result<(), JobFailure> {
    let Some(calibration) = &input.calibration else { return Ok(()) };
    for gallery in galleries.iter().filter(|gallery| gallery.calibration().is_some()) {
        gallery.set_calibration(Some(calibration.clone())).map_err(gallery_failure)?;
    }
    Ok(())
}

/// Looks again at what was looked at when this was asked for: galleries were calibrated, or grew, since.
fn keep_thresholds(input: &DeployInput, galleries: &[Arc<Gallery>]) -> Result<(), JobFailure> {
    if !input.allow_uncalibrated {
        let worse_off =
            worse_off(galleries, input.calibration.as_ref()).map_err(service_failure)?;
        if !worse_off.is_empty() {
            return Err(service_failure(ServiceError::Uncalibrated(worse_off)));
        }
    }
    set_calibrations(input, galleries)
}

/// Every sample must be found with its own template.
fn audit(context: &JobContext<'_>, galleries: &[Arc<Gallery>]) -> Result<(), JobFailure> {
    for view in galleries.iter().filter_map(|gallery| gallery.filling()) {
        let audited = view.audit_while(|_, _| !context.cancelled());
        let audit = audited.ok_or_else(JobFailure::interrupted)?;
        let name = view.gallery().id();
        context.log(format!("{name}: {} of {} find themselves", audit.found, audit.samples));
        if (audit.found as f64) < LEAST_FOUND * audit.samples as f64 {
            let about = format!(
                "{} of {} samples of gallery `{name}` find themselves in the new index",
                audit.found, audit.samples
            );
            return Err(JobFailure::new("audit", about));
        }
    }
    Ok(())
}

fn promote(
    workshop: &Workshop,
    context: &JobContext<'_>,
    input: &DeployInput,
    backfill: &Backfill<'_>,
    moving: &dyn Fn() -> Vec<Arc<Gallery>>,
    tally: &mut Tally,
) -> Result<(), JobFailure> {
    let may_lack = |gallery: &Gallery| {
        input.without_images == WithoutImages::Drop && !gallery.info().retain_images
    };
    for _ in 0..MOST_PASSES {
        if context.cancelled() {
            return Err(JobFailure::interrupted());
        }
        keep_thresholds(input, &moving())?;
        let soak = Duration::from_secs(input.soak_s);
        match workshop.deployments.promote(context.id(), may_lack, soak, input.asked()) {
            Ok(()) => return Ok(()),
            // Enrolled where the new model could not say anything of the image, or erased and enrolled again.
            Err(ServiceError::Gaps(_)) => fill(backfill, moving, tally, input)?,
            Err(error) => return Err(service_failure(error)),
        }
    }
    let gaps = moving().iter().map(|gallery| gallery.gaps().len()).sum();
    let gallery = moving().first().map(|gallery| gallery.id().clone());
    Err(match gallery {
        Some(gallery) => gallery_failure(GalleryError::Gaps { gallery, gaps }),
        None => JobFailure::new("gaps", "nothing is being filled"),
    })
}
