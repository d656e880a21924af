use std::path::PathBuf;

use crate::service::ModelChoice;
use crate::service::robustness::{Corruption, On, RobustnessRequest, Severity, measure_robustness};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `nano`, or a model directory
    #[arg(long, default_value = "nano", value_name = "M")]
    model: String,
    /// 11k Hands, HD, a folder for each subject, or a CSV manifest
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Kinds of damage, with commas between; `all`, or `none` for groups and accessories alone
    #[arg(long, default_value = "all", value_parser = corruptions, value_name = "LIST")]
    corruptions: Corruptions,
    /// Severities from 1, mild, to 5, severe
    #[arg(long, default_value = "1,2,3,4,5", value_parser = severities, value_name = "LIST")]
    severities: Severities,
    /// What is damaged
    #[arg(long, value_enum, default_value_t = Damaged::Probe)]
    on: Damaged,
    /// Names the draws of gallery and probes, and the damage
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draws of gallery and probes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only the subjects that `train --hold-out` holds out with this share
    #[arg(long, value_name = "SHARE", value_parser = super::evaluate::part)]
    hold_out: Option<f64>,
    /// With --hold-out: names the draw of the held-out subjects, as for `train`
    #[arg(long, default_value_t = 1, requires = "hold_out")]
    split_seed: u64,
    /// Measure on subjects that the model was trained on: the figures say nothing about others
    #[arg(long)]
    allow_leak: bool,
    /// Only the first subjects, of those
    #[arg(long, value_name = "N")]
    limit_subjects: Option<usize>,
    /// FMR of clean pictures to fix the threshold at, at least the lowest that the subjects support
    #[arg(long, default_value_t = 0.01, value_parser = rate, value_name = "RATE")]
    fmr: f64,
    /// Replicates of the bootstrap over subjects; 0 for no intervals
    #[arg(long, default_value_t = 2000, value_name = "N")]
    replicates: usize,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// A folder for the report as JSON, Markdown and HTML
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Damaged {
    /// Pictures asked about
    Probe,
    /// Pictures enrolled too
    Both,
}

// A type of its own each: clap takes a plain Vec for an option that is given several times.
type Corruptions = std::sync::Arc<[Corruption]>;
type Severities = std::sync::Arc<[Severity]>;

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = RobustnessRequest {
        model: ModelChoice::named(&args.model),
        device: args.device.clone(),
        data: args.data.clone(),
        corruptions: args.corruptions.to_vec(),
        severities: args.severities.to_vec(),
        on: match args.on {
            Damaged::Probe => On::Probe,
            Damaged::Both => On::Both,
        },
        seed: args.seed,
        runs: args.runs as usize,
        hold_out: args.hold_out.map(|share| (share, args.split_seed)),
        allow_leak: args.allow_leak,
        limit_subjects: args.limit_subjects,
        target_fmr: args.fmr,
        replicates: args.replicates,
        out: args.out.clone(),
        command: super::evaluate::command(),
    };
    let bar = output::bar(0, "looking at pictures");
    let report = measure_robustness(&request, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.json {
        return output::json(&report);
    }
    say!("{}", report.markdown().trim_end())?;
    if let Some(out) = &args.out {
        note!("the report is in {}", out.display());
    }
    Ok(())
}

fn corruptions(text: &str) -> Result<Corruptions, String> {
    match text {
        "all" => Ok(Corruption::ALL.into()),
        "none" => Ok([].into()),
        names => listed(names, |name| name.parse().map_err(|e| format!("{e}, `all` or `none`"))),
    }
}

fn severities(text: &str) -> Result<Severities, String> {
    let one = |name: &str| {
        let number = name.parse().map_err(|_| format!("`{name}` is not a number"))?;
        Severity::new(number).map_err(|error| error.to_string())
    };
    listed(text, one)
}

/// Sorted, each once.
fn listed<T: Ord>(
    text: &str,
    one: impl Fn(&str) -> Result<T, String>,
) -> Result<std::sync::Arc<[T]>, String> {
    let mut all: Vec<T> = text.split(',').map(|name| one(name.trim())).collect::<Result<_, _>>()?;
    all.sort_unstable();
    all.dedup();
    Ok(all.into())
}

/// For clap: a rate between 0 and 1.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate > 0.0 && rate < 1.0 { Ok(rate) } else { Err("between 0 and 1 is taken".to_owned()) }
}
