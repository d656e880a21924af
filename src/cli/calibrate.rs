use crate::config::{ModelArgs, StoreArgs};
use crate::domain::GalleryId;
use crate::service::evaluate::{
    CalibrateRequest, Calibrated, SystemChoice, ThresholdKind, calibrate,
};

use super::evaluate::{HowArgs, with_progress};
use super::memory::keep_freed_memory;
use super::offline::{Absent, with_service};
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `nano`, a model directory, a run directory, or a name of the data directory's registry
    #[arg(long, default_value = "nano")]
    model: String,
    #[command(flatten)]
    how: HowArgs,
    /// Share of the subjects that thresholds are measured on; they are tried on the others
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    share: f64,
    /// False match rates wanted of verification
    #[arg(long, value_delimiter = ',', default_values_t = [1e-2, 1e-3], value_parser = share)]
    fmr: Vec<f64>,
    /// False positive identification rates wanted of identification
    #[arg(long, value_delimiter = ',', default_values_t = [1e-1, 1e-2], value_parser = share)]
    fpir: Vec<f64>,
    /// Have this gallery decide with the thresholds from now on. The server must not be running; with one, send
    /// calibration.json to it: PUT /v1/galleries/{gallery}/calibration
    #[arg(long)]
    gallery: Option<GalleryId>,
    #[command(flatten)]
    store: StoreArgs,
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("more than 0, at most 1".to_owned()) }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    keep_freed_memory();
    let request = CalibrateRequest {
        system: SystemChoice::found_in(&args.model, &args.store.data_dir)?,
        data: args.how.data(),
        selection: args.how.selection(),
        share: args.share,
        fmr: args.fmr.clone(),
        fpir: args.fpir.clone(),
        options: args.how.options(),
    };
    // The precision of the device is part of what thresholds belong to.
    let path = request.system.path().to_string_lossy().into_owned();
    let model = ModelArgs { model: path, device: request.options.device.clone() };
    if let Some(gallery) = &args.gallery {
        // Thresholds take long to measure: a store that is in use, or not there, shows before.
        with_service(Absent::Refuse, &args.store, &model, |service| async move {
            service.gallery(gallery)?;
            Ok(())
        })?;
    }
    let found = with_progress(|progress| calibrate(&request, progress))?;
    // Before the gallery: they took long to measure and are not lost where it cannot be opened.
    if args.how.json {
        output::json(&found)?;
    } else {
        show(&found)?;
    }
    if let Some(out) = args.how.out() {
        note!("the thresholds are in {}", out.join("calibration.json").display());
    }
    if let Some(gallery) = &args.gallery {
        let calibration = found.calibration.clone();
        with_service(Absent::Refuse, &args.store, &model, |service| async move {
            Ok(service.set_calibration(gallery, Some(calibration)).await?)
        })?;
        note!("gallery `{gallery}` decides with these thresholds now");
    }
    Ok(())
}

fn show(found: &Calibrated) -> Result<(), Failure> {
    say!(
        "measured on {} subjects, {} enrolled; on the others, each threshold does what the last two columns say",
        found.calibration.subjects,
        found.calibration.gallery_subjects
    )?;
    say!(
        "{:<6} {:>8} {:>10} {:>10} {:>12} {:>12}",
        "rate",
        "target",
        "threshold",
        "measured",
        "on others",
        "missed there"
    )?;
    for threshold in &found.measured.thresholds {
        let tried =
            found.tried.iter().find(|t| t.kind == threshold.kind && t.target == threshold.target);
        let on_others = |value: fn(&crate::service::evaluate::Tried) -> f64| {
            tried.map_or_else(|| "-".to_owned(), |tried| format!("{:.5}", value(tried)))
        };
        say!(
            "{:<6} {:>8.0e} {:>10.4} {:>10.5} {:>12} {:>12}",
            match threshold.kind {
                ThresholdKind::Fmr => "FMR",
                ThresholdKind::Fpir => "FPIR",
            },
            threshold.target,
            threshold.threshold,
            threshold.achieved.value,
            on_others(|tried| tried.rate.value),
            on_others(|tried| tried.missed.value)
        )?;
    }
    for refused in &found.refused {
        say!("no threshold: {}", refused.reason)?;
    }
    Ok(())
}
