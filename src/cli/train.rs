use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::config::{ApiKeyArgs, ModelArgs, StoreArgs};
use crate::domain::GalleryId;
use crate::service::ModelChoice;
use crate::service::fine_tune::{
    FineTuneEvent, FineTuneRequest, FineTuneSummary, Stage, TrainingData, fine_tune_model,
    read_recipe,
};
use crate::telemetry;

use super::evaluate::command;
use super::memory::keep_freed_memory;
use super::offline::{Absent, with_service};
use super::remote::Remote;
use super::{Failure, output};

/// What to train on.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// 11k Hands, a tree of published splits (its training part), HD, a folder for each subject, or a CSV manifest
    path: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// With --server: a data set that was uploaded there
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// The images that this gallery retained, instead of files
    #[arg(long, value_name = "NAME")]
    gallery: Option<GalleryId>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    store: StoreArgs,
    /// How to train (TOML); left out, the field's recipe for ViT
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Where to start: `nano`, or a model directory
    #[arg(long, default_value = "nano")]
    model: String,
    /// Share of the subjects held out and scored before and after
    #[arg(long, default_value_t = 0.0, value_parser = part_or_nothing)]
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
    #[arg(long, required_unless_present = "server")]
    out: Option<PathBuf>,
    /// Train on this running server; --data is a folder of one of its data roots then, ROOT/FOLDER
    #[arg(long, value_name = "URL", requires = "name", conflicts_with_all = ["out", "resume"])]
    server: Option<String>,
    #[command(flatten)]
    key: ApiKeyArgs,
    /// With --server: what the model is called in the server's registry
    #[arg(long, value_name = "NAME", requires = "server")]
    name: Option<String>,
    /// Go on with the run in that folder from the end of its last epoch; everything else as it was
    #[arg(long)]
    resume: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn part_or_nothing(text: &str) -> Result<f64, String> {
    if text.parse::<f64>() == Ok(0.0) { Ok(0.0) } else { super::evaluate::part(text) }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(server) = &args.server {
        return train_on(server, args);
    }
    keep_freed_memory();
    let Source { path, data, dataset, gallery } = &args.source;
    if dataset.is_some() {
        return Err("--dataset names an upload of a server: say which with --server".into());
    }
    match (path.as_ref().or(data.as_ref()), gallery) {
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

/// Has a server train, and shows what it does.
fn train_on(server: &str, args: &Args) -> Result<(), Failure> {
    let remote = Remote::new(server, &args.key)?;
    let Source { path, data, dataset, gallery } = &args.source;
    let data = match (path.as_ref().or(data.as_ref()), dataset, gallery) {
        (Some(folder), _, _) => json!({ "directory": folder }),
        (None, Some(dataset), _) => json!({ "dataset": dataset }),
        (None, None, gallery) => json!({ "gallery": gallery }),
    };
    let recipe = args.recipe.as_deref().map(read_recipe).transpose()?.unwrap_or_default();
    let body = json!({
        "model": args.model,
        "data": data,
        "recipe": recipe,
        "hold_out": args.hold_out,
        "split_seed": args.split_seed,
        "skip_unreadable": args.skip_unreadable,
        "name": args.name,
    });
    let job = remote.post("/v1/training-runs", &body)?;
    let job = remote.follow(&job, "training")?;
    let found = &job["output"];
    if args.json {
        return output::json(found);
    }
    let figure = |when: &str, name: &str| found[when][name].as_f64();
    if let (Some(a), Some(b)) = (figure("before", "rank1"), figure("after", "rank1")) {
        let (c, d) =
            (figure("before", "map").unwrap_or(0.0), figure("after", "map").unwrap_or(0.0));
        say!("held out: rank-1 {a:.3} -> {b:.3}, mAP {c:.3} -> {d:.3}")?;
    }
    say!("registered as {}", found["model"].as_str().unwrap_or("?"))
}

fn train(args: &Args, data: TrainingData) -> Result<(), Failure> {
    let out = args.out.clone().ok_or("name a folder for the run with --out")?;
    let request = FineTuneRequest {
        model: ModelChoice::named(&args.model),
        data,
        recipe: args.recipe.as_deref().map(read_recipe).transpose()?.unwrap_or_default(),
        hold_out: args.hold_out,
        split_seed: args.split_seed,
        device: args.device.clone(),
        cache_bytes: args.cache_mib << 20,
        skip_unreadable: args.skip_unreadable,
        out: out.clone(),
        resume: args.resume,
    };
    let bar = output::bar(0, "training");
    let say = |line: String| bar.suspend(|| note!("{line}"));
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
    let cancel = Arc::new(AtomicBool::new(false));
    heed_interrupts(&cancel);
    let summary = fine_tune_model(&request, &progress, &cancel)?;
    bar.finish_and_clear();
    summary.record(&request, &command()).save(&out)?;
    if args.json {
        output::json(&summary)?;
    } else {
        show(&summary)?;
    }
    if summary.cancelled {
        return Err(
            "interrupted: the same command with --resume goes on from the last epoch".into()
        );
    }
    Ok(())
}

fn show(summary: &FineTuneSummary) -> Result<(), Failure> {
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

/// The first Ctrl-C (or SIGTERM) ends the run after the step it is at, the second one at once. Without a way to be
/// told of signals they do what they did before: end the process, from which `--resume` goes on as well.
fn heed_interrupts(cancel: &Arc<AtomicBool>) {
    let cancel = Arc::clone(cancel);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            if interrupted().await.is_err() {
                return;
            }
            cancel.store(true, Ordering::Relaxed);
            note!("stopping after this step; once more to stop at once");
            if interrupted().await.is_ok() {
                // As a shell reports a program that SIGINT ended.
                std::process::exit(130);
            }
        });
    });
}

#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
