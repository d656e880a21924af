use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::service::ModelChoice;
use crate::service::pretrain::{PretrainOptions, PretrainProgress, pretrain_nano};
use crate::service::tools::OfflineModel;

use super::memory::keep_freed_memory;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Score a model on generated people instead of training one: `nano`, or a directory
    #[arg(long, value_name = "M", conflicts_with = "out")]
    evaluate: Option<String>,
    /// With --evaluate: people to score on
    #[arg(long, default_value_t = 300)]
    people: u64,
    /// With --evaluate: a folder of photographs in the layout of 11k Hands, scored too
    #[arg(long, value_name = "DIR", requires = "evaluate")]
    photographs: Option<PathBuf>,
    /// A new folder for the run
    #[arg(long, required_unless_present = "evaluate", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Names the people trained on, the first weights and every random choice
    #[arg(long)]
    seed: Option<u64>,
    /// Generated people to train on
    #[arg(long)]
    subjects: Option<u64>,
    /// Pictures of each of a person's four hands
    #[arg(long)]
    images: Option<u64>,
    /// Optimiser steps
    #[arg(long)]
    steps: Option<usize>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match (&args.evaluate, &args.out) {
        (Some(model), _) => evaluate(model, args),
        (None, Some(out)) => train(out, args),
        (None, None) => Err("name a folder with --out".into()),
    }
}

fn evaluate(model: &str, args: &Args) -> Result<(), Failure> {
    let model = OfflineModel::open(&ModelChoice::named(model), "cpu")?;
    note!("drawing and scoring {} people who were never trained on …", args.people);
    let generated = model.score_generated(args.people)?;
    let photographs =
        args.photographs.as_deref().map(|dir| model.score_photographs(dir)).transpose()?;
    output::json(&serde_json::json!({"generated": generated, "photographs": photographs}))
}

fn train(out: &Path, args: &Args) -> Result<(), Failure> {
    keep_freed_memory();
    // The defaults are those that the embedded model was made with.
    let mut options = PretrainOptions::nano(out);
    options.config.seed = args.seed.unwrap_or(options.config.seed);
    options.config.steps = args.steps.unwrap_or(options.config.steps);
    options.subjects = args.subjects.unwrap_or(options.subjects);
    options.images = args.images.unwrap_or(options.images);
    let bar = output::bar(options.config.steps as u64, "training");
    // The bar's own lines are hidden with it where there is no terminal; these belong into a log too.
    let say = |line: String| bar.suspend(|| note!("{line}"));
    let progress = |event: PretrainProgress| match event {
        PretrainProgress::Drawing { total } => say(format!("drawing {total} pictures")),
        PretrainProgress::Training(step) => {
            bar.set_position(step.step as u64);
            bar.set_message(format!(
                "loss {:.3}, {:.0} images/s",
                step.loss, step.images_per_second
            ));
        }
        PretrainProgress::Validated { step, figures } => say(format!(
            "step {step}: rank-1 {:.3}, aspect and side {:.3}, accessories {:.3}",
            figures.rank1,
            figures.aspect_side.unwrap_or(0.0),
            figures.accessories.unwrap_or(0.0)
        )),
    };
    let summary = pretrain_nano(&options, &progress, &AtomicBool::new(false))?;
    bar.finish_and_clear();
    output::json(&summary)
}
