use std::path::PathBuf;

use serde_json::json;

use crate::config::ApiKeyArgs;
use crate::service::evaluate::{
    Cancel, EvaluateEvent, EvaluateOptions, EvaluateRequest, Evaluation, GateTable, Protocol,
    Selection, SystemChoice, evaluate,
};

use super::memory::keep_freed_memory;
use super::remote::Remote;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `nano`, a model directory, a run directory, or embeddings (.npy, .csv, .parquet); NAME=… names it
    #[arg(long, default_value = "nano")]
    model: String,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    asked: AskedArgs,
}

/// What `evaluate` and `compare` have beside that: a report of pictures, and a server that does the work.
#[derive(Debug, clap::Args)]
pub(super) struct AskedArgs {
    /// Show images of the worst probes in the report: pictures of people
    #[arg(long, requires = "out")]
    pub(super) show_images: bool,
    /// Ask this running server; models are names there, and --data is a folder of one of its data roots, ROOT/FOLDER
    #[arg(long, value_name = "URL", conflicts_with_all = ["out", "cache", "other_capture"])]
    pub(super) server: Option<String>,
    #[command(flatten)]
    pub(super) key: ApiKeyArgs,
}

/// What `evaluate`, `compare` and `calibrate` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct HowArgs {
    /// 11k Hands, a tree of draws, HD, a folder for each subject, or a CSV manifest
    #[arg(long)]
    data: PathBuf,
    /// What is enrolled and what asks
    #[arg(long, value_enum, default_value_t = ProtocolArg::Auto)]
    protocol: ProtocolArg,
    /// Draws of gallery and query
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Names the draws and the bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Images of each subject that are enrolled, where draws are made here
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    enrolled: u16,
    /// Only the subjects that `train --hold-out` with this share held out
    #[arg(long, value_name = "SHARE", value_parser = part)]
    hold_out: Option<f64>,
    /// The seed of that division
    #[arg(long, default_value_t = 1, requires = "hold_out")]
    split_seed: u64,
    /// Take images with accessories too; the published protocol leaves them out
    #[arg(long)]
    accessories: bool,
    /// Leave out gallery samples of the probe's subject and capture (column `capture` of a manifest)
    #[arg(long)]
    other_capture: bool,
    /// Evaluate subjects that the model was trained on: the figures say nothing about others
    #[arg(long)]
    allow_leak: bool,
    /// auto, cpu, cpu:bf16, cpu:int8, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Keep embeddings here between evaluations. They are biometric data; only their owner can read the files
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Replicates of the subject bootstrap
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    replicates: u32,
    /// A new folder for the report: JSON, Markdown, HTML and charts
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ProtocolArg {
    /// A tree of draws where there is one, else `hands`
    Auto,
    /// query0..9 and gallery0..9 as they lie in folders
    Tree,
    /// The same with the distractors of gallery0..9_all
    TreeAll,
    /// Each kind of hand by itself, drawn by the seed
    Hands,
    /// One aspect enrolled, the other asked about
    CrossAspect,
    /// The test half of 11k Hands as published
    #[value(name = "11k")]
    Published,
    /// The same, with the other three hands as distractors
    #[value(name = "11k-all")]
    PublishedAll,
}

impl HowArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            protocol: match self.protocol {
                ProtocolArg::Auto => Protocol::Auto,
                ProtocolArg::Tree => Protocol::Tree { all: false },
                ProtocolArg::TreeAll => Protocol::Tree { all: true },
                ProtocolArg::Hands => Protocol::Hands,
                ProtocolArg::CrossAspect => Protocol::CrossAspect,
                ProtocolArg::Published => Protocol::Published { all: false },
                ProtocolArg::PublishedAll => Protocol::Published { all: true },
            },
            runs: usize::from(self.runs),
            seed: self.seed,
            enrolled: usize::from(self.enrolled),
            hold_out: self.hold_out.map(|share| (share, self.split_seed)),
            accessories: self.accessories,
            other_capture: self.other_capture,
        }
    }

    pub(super) fn options(&self) -> EvaluateOptions {
        EvaluateOptions {
            device: self.device.clone(),
            cache: self.cache.clone(),
            replicates: self.replicates as usize,
            allow_leak: self.allow_leak,
            out: self.out.clone(),
            show_images: false,
            gate: None,
            command: command(),
            cancel: Cancel::default(),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(super) fn out(&self) -> Option<&PathBuf> {
        self.out.as_ref()
    }
}

/// Some of the subjects, never all of them: `NaN` is no share either.
pub(super) fn part(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value > 0.0 && value < 1.0 { Ok(value) } else { Err("more than 0, less than 1".to_owned()) }
}

/// What was typed. Paths need not be Unicode, and `std::env::args` panics at one that is not.
pub(super) fn command() -> String {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy())).collect();
    format!("handclip {}", words.join(" "))
}

/// As a shell takes it back.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Shows what happens on standard error.
pub(super) fn with_progress<T, E>(
    work: impl FnOnce(&dyn Fn(EvaluateEvent)) -> Result<T, E>,
) -> Result<T, E> {
    let bar = output::bar(0, "reading the data set");
    let progress = |event: EvaluateEvent| match event {
        EvaluateEvent::Notice(text) => bar.suspend(|| note!("note: {text}")),
        EvaluateEvent::System(name) => bar.set_message(format!("embedding with {name}")),
        EvaluateEvent::Embedded { done, total } => {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
        EvaluateEvent::Set(name) => bar.set_message(format!("figures of {name}")),
    };
    let result = work(&progress);
    bar.finish_and_clear();
    result
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(server) = &args.asked.server {
        let models = std::slice::from_ref(&args.model);
        return ask(server, &args.asked.key, models, &args.how);
    }
    keep_freed_memory();
    let request = EvaluateRequest {
        system: SystemChoice::named(&args.model),
        data: args.how.data(),
        selection: args.how.selection(),
        options: EvaluateOptions { show_images: args.asked.show_images, ..args.how.options() },
    };
    let found = with_progress(|progress| evaluate(&request, progress))?;
    if args.how.json {
        return output::json(&found);
    }
    show(&found)?;
    match args.how.out() {
        Some(out) => say!("the report is in {}", out.join("report.html").display()),
        None => Ok(()),
    }
}

/// Has a server evaluate, and shows what it found.
pub(super) fn ask(
    server: &str,
    key: &ApiKeyArgs,
    models: &[String],
    how: &HowArgs,
) -> Result<(), Failure> {
    let remote = Remote::new(server, key)?;
    let mut body = json!({
        "models": models,
        "data": {"directory": how.data},
        "protocol": how.selection().protocol.to_string(),
        "runs": how.runs,
        "seed": how.seed,
        "enrolled": how.enrolled,
        "accessories": how.accessories,
        "replicates": how.replicates,
        "allow_leak": how.allow_leak,
    });
    if let Some(share) = how.hold_out {
        body["hold_out"] = json!(share);
        body["split_seed"] = json!(how.split_seed);
    }
    let job = remote.post("/v1/evaluations", &body)?;
    let job = remote.follow(&job, "evaluating")?;
    let id = job["job"].as_str().unwrap_or_default();
    let found = remote.get(&format!("/v1/evaluations/{id}"))?;
    if how.json {
        return output::json(&found);
    }
    for system in job["output"]["systems"].as_array().into_iter().flatten() {
        let percent = |name: &str| 100.0 * system[name].as_f64().unwrap_or(0.0);
        let name = system["model"].as_str().unwrap_or("?");
        say!("{name:<24} rank-1 {:5.1} %   mAP {:5.1} %", percent("rank1"), percent("map"))?;
    }
    if let Ok(table) = serde_json::from_value::<GateTable>(found["gate"].clone()) {
        say!("{}", table.table())?;
    }
    say!("the report is at {}/v1/evaluations/{id}/report.html", server.trim_end_matches('/'))
}

fn show(found: &Evaluation) -> Result<(), Failure> {
    say!("{}", found.table())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_back() {
        assert_eq!(quoted("--data=a/b_1.npy"), "--data=a/b_1.npy");
        assert_eq!(quoted("my hands"), "'my hands'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_part_is_neither_nothing_nor_everything() {
        assert_eq!(part("0.4"), Ok(0.4));
        for bad in ["0", "1", "2", "-1", "nan", "x"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }
}
