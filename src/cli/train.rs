use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::GalleryId;
use crate::service::ModelChoice;
use crate::service::fine_tune::{
    FineTuneEvent, FineTuneRequest, Stage, TrainingData, fine_tune_model, read_recipe,
};
use crate::telemetry;

use super::memory::keep_freed_memory;
use super::offline::{Absent, with_service};
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// 11k Hands, a tree of published splits, HD, a folder for each subject, or a CSV manifest
    #[arg(required_unless_present = "gallery")]
    data: Option<PathBuf>,
    /// Train on the images that this gallery retained, instead of files
    #[arg(long, conflicts_with = "data", value_name = "NAME")]
    gallery: Option<GalleryId>,
    #[command(flatten)]
    store: StoreArgs,
    /// How to train (TOML); left out, the field's recipe for ViT
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Where to start: `nano`, or a model directory
    #[arg(long, default_value = "nano")]
    model: String,
    /// Share of the subjects held out and scored before and after
    #[arg(long, default_value_t = 0.0)]
    hold_out: f64,
    /// Names the draw of the held-out subjects
    #[arg(long, default_value_t = 1)]
    split_seed: u64,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Most memory for decoded pictures, in MiB
    #[arg(long, default_value_t = 2048)]
    cache_mib: usize,
    /// Leave out images that cannot be decoded instead of stopping at them
    #[arg(long)]
    skip_unreadable: bool,
    /// A new folder for the run
    #[arg(long)]
    out: PathBuf,
    /// Go on with the run in that folder from the end of its last epoch; everything else as it was
    #[arg(long)]
    resume: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    keep_freed_memory();
    match (&args.data, &args.gallery) {
        (Some(data), _) => train(args, TrainingData::Directory(data.clone())),
        (None, Some(gallery)) => {
            let model = ModelArgs { model: args.model.clone(), device: "cpu".to_owned() };
            with_service(Absent::Refuse, &args.store, &model, |service| async move {
                train(args, TrainingData::Gallery(service.training_data(gallery)?))
            })
        }
        (None, None) => Err("name a data set, or a gallery with --gallery".into()),
    }
}

fn train(args: &Args, data: TrainingData) -> Result<(), Failure> {
    let request = FineTuneRequest {
        model: ModelChoice::named(&args.model),
        data,
        recipe: args.recipe.as_deref().map(read_recipe).transpose()?.unwrap_or_default(),
        hold_out: args.hold_out,
        split_seed: args.split_seed,
        device: args.device.clone(),
        cache_bytes: args.cache_mib << 20,
        skip_unreadable: args.skip_unreadable,
        out: args.out.clone(),
        resume: args.resume,
    };
    let bar = output::bar(0, "training");
    let say = |line: String| bar.suspend(|| eprintln!("{line}"));
    let progress = |event: FineTuneEvent| match event {
        FineTuneEvent::Notice(text) => say(format!("note: {text}")),
        FineTuneEvent::Step(step) => {
            bar.set_length(step.steps as u64);
            bar.set_position(step.step as u64);
            bar.set_message(match step.stage {
                Stage::Prompts => format!("prompts, epoch {} loss {:.3}", step.epoch, step.loss),
                Stage::Towers => format!(
                    "epoch {} loss {:.3}, {:.0} images/s, {:.0} % waiting{}",
                    step.epoch,
                    step.loss,
                    step.images_per_second,
                    100.0 * step.waiting,
                    telemetry::resident_mib().map_or(String::new(), |mib| format!(", {mib} MiB"))
                ),
            });
        }
        FineTuneEvent::Epoch { report, figures } => say(match figures {
            Some(figures) => format!(
                "epoch {}: loss {:.3}, validation rank-1 {:.3}, mAP {:.3}",
                report.epoch, report.loss, figures.rank1, figures.map
            ),
            None => format!("epoch {}: loss {:.3}", report.epoch, report.loss),
        }),
    };
    let summary = fine_tune_model(&request, &progress, &AtomicBool::new(false))?;
    bar.finish_and_clear();
    if args.json {
        return output::json(&summary);
    }
    if let (Some(before), Some(after)) = (&summary.before, &summary.after) {
        say!(
            "held out {} subjects: rank-1 {:.3} -> {:.3}, mAP {:.3} -> {:.3}",
            summary.subjects[2],
            before.rank1,
            after.rank1,
            before.map,
            after.map
        )?;
    }
    say!("the best weights (epoch {}) are in {}", summary.best_epoch, summary.model.display())
}
