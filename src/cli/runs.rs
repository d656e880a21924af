use std::path::PathBuf;

use crate::service::ledger::{Run, diff_runs, find_run, list_runs};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The folder that holds the runs
    #[arg(long, global = true, default_value = "runs")]
    runs_dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the runs, oldest first
    List,
    /// Show one run
    Show {
        /// Its folder's name, or its path
        run: String,
    },
    /// Show how two runs differ
    Diff {
        /// The first run
        a: String,
        /// The second run
        b: String,
    },
}

/// Figures that a list has room for, the first found of each.
const HEADLINES: [&str; 3] = ["rank1", "map", "eer"];

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List => list(args),
        Command::Show { run } => {
            let run = find_run(&args.runs_dir, run)?;
            if args.json {
                return output::json(&run);
            }
            show(&run)
        }
        Command::Diff { a, b } => diff(args, a, b),
    }
}

fn list(args: &Args) -> Result<(), Failure> {
    let runs = list_runs(&args.runs_dir)?;
    if args.json {
        return output::json(&runs);
    }
    say!("{:<24} {:<10} {:>8} {:>8} {:>8}  model", "run", "kind", "rank-1", "mAP", "EER")?;
    for run in &runs {
        let figures = HEADLINES.map(|name| {
            run.record.figures.get(name).map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
        });
        let [rank1, map, eer] = figures;
        let model = run.record.settings.get("model").map_or("-", String::as_str);
        say!(
            "{:<24} {:<10} {rank1:>8} {map:>8} {eer:>8}  {model}",
            run.id,
            run.record.kind.to_string()
        )?;
    }
    Ok(())
}

fn show(run: &Run) -> Result<(), Failure> {
    say!("{} ({}, handclip {})", run.id, run.record.kind, run.record.version)?;
    say!("{}", run.record.command)?;
    for (name, value) in &run.record.settings {
        say!("  {name:<28} {value}")?;
    }
    for (name, value) in &run.record.figures {
        say!("  {name:<28} {value:.6}")?;
    }
    Ok(())
}

fn diff(args: &Args, a: &str, b: &str) -> Result<(), Failure> {
    let (a, b) = (find_run(&args.runs_dir, a)?, find_run(&args.runs_dir, b)?);
    let diff = diff_runs(&a.record, &b.record);
    if args.json {
        return output::json(&diff);
    }
    say!("{:<28} {:>20} {:>20}", "", a.id, b.id)?;
    for setting in &diff.settings {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        say!("{:<28} {:>20} {:>20}", setting.name, text(&setting.a), text(&setting.b))?;
    }
    for figure in &diff.figures {
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
        let change = match (figure.a, figure.b) {
            (Some(a), Some(b)) => format!("{:+.4}", b - a),
            (Some(_) | None, _) => String::new(),
        };
        say!("{:<28} {:>20} {:>20} {change:>10}", figure.name, text(figure.a), text(figure.b))?;
    }
    Ok(())
}
