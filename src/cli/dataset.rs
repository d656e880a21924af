use std::path::PathBuf;

use crate::service::datasets::{
    Hand, Inspection, Protocol, SplitCounts, SplitRequest, inspect_dataset, split_dataset,
};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count subjects, images and attributes; name unreadable files and near-duplicates
    Inspect(InspectArgs),
    /// Divide a data set into train, val, test, and ten draws of query and gallery
    Split(SplitArgs),
}

/// Where the images lie, by place or by name.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// 11k Hands or its HandInfo.csv, HD, a folder for each subject, or a CSV manifest; to inspect, also a tree of splits
    path: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Source {
    fn path(&self) -> Result<PathBuf, Failure> {
        let path = self.path.as_ref().or(self.data.as_ref());
        path.cloned().ok_or_else(|| "name a data set".into())
    }
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    #[command(flatten)]
    source: Source,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Division {
    /// 11k Hands, each of the four hands by its own limit, as in the published tables
    #[value(name = "11k", alias = "published")]
    Published,
    /// 11k Hands, one limit for all four hands: for models of all hands
    Joint,
    /// Any data set, a share of its subjects
    Subjects,
}

#[derive(Debug, clap::Args)]
struct SplitArgs {
    #[command(flatten)]
    source: Source,
    /// How subjects are divided
    #[arg(long, value_enum, default_value_t = Division::Joint)]
    protocol: Division,
    /// One kind of hand alone: D-r, D-l, P-r or P-l
    #[arg(long, value_parser = hand)]
    aspect: Option<Hand>,
    /// With `--protocol subjects`: share of the subjects to train on
    #[arg(long, default_value_t = 0.5)]
    train: f64,
    /// Names the draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Accept subjects that one split trains on and another tests on, as the published protocol has them:
    /// right only where each model sees one split
    #[arg(long)]
    allow_leaks: bool,
    /// Print the counts and write nothing, whatever `--out` says; needs no image files
    #[arg(long)]
    dry_run: bool,
    /// A new folder for the splits
    #[arg(long, required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// For clap: a kind of hand as the published tables name it.
fn hand(text: &str) -> Result<Hand, String> {
    Hand::named(text).ok_or_else(|| "D-r, D-l, P-r or P-l is taken".to_owned())
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Inspect(args) => inspect(args),
        Command::Split(args) => split(args),
    }
}

fn split(args: &SplitArgs) -> Result<(), Failure> {
    let protocol = match args.protocol {
        Division::Published => Protocol::Published,
        Division::Joint => Protocol::Joint,
        Division::Subjects => Protocol::Subjects { train: args.train },
    };
    let request = SplitRequest {
        path: args.source.path()?,
        protocol,
        hand: args.aspect,
        seed: args.seed,
        allow_leaks: args.allow_leaks,
        out: args.out.clone().filter(|_| !args.dry_run),
    };
    let bar = output::bar(0, "hashing and linking");
    let summary = split_dataset(&request, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.json {
        return output::json(&summary);
    }
    table(&summary.splits)?;
    if summary.leaked_subjects > 0 {
        note!(
            "warning: {} subjects are trained on in one split and tested on in another; train a model on one split only{}",
            summary.leaked_subjects,
            if args.allow_leaks { "" } else { " (to write such splits takes --allow-leaks)" }
        );
    }
    match &request.out {
        Some(out) => say!("written to {}, with split.json", out.display()),
        None => Ok(()),
    }
}

fn table(splits: &[SplitCounts]) -> Result<(), Failure> {
    say!(
        "{:<10} {:>16} {:>16} {:>6} {:>8} {:>12}",
        "set",
        "train ids/images",
        "test ids/images",
        "query",
        "gallery",
        "gallery_all"
    )?;
    for split in splits {
        let pair = |count: &crate::service::datasets::Count| {
            format!("{}/{}", count.subjects, count.images)
        };
        say!(
            "{:<10} {:>16} {:>16} {:>6} {:>8} {:>12}",
            split.aspect.unwrap_or(&split.name),
            pair(&split.train),
            pair(&split.test),
            split.query,
            split.gallery,
            split.gallery_all
        )?;
    }
    Ok(())
}

fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let bar = output::bar(0, "decoding");
    let found = inspect_dataset(&args.source.path()?, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.json {
        return output::json(&found);
    }
    show(&found)
}

fn show(found: &Inspection) -> Result<(), Failure> {
    say!("{} images of {} subjects", found.images, found.subjects)?;
    for (name, values) in &found.attributes {
        let values: Vec<String> = values.iter().map(|(value, n)| format!("{value} {n}")).collect();
        say!("{name:<12} {}", values.join(", "))?;
    }
    say!("{} unreadable", found.unreadable.len())?;
    for file in &found.unreadable {
        say!("  {}: {}", file.path.display(), file.problem)?;
    }
    let wrong = found.near_duplicates.iter().filter(|pair| pair.of_two_subjects);
    say!(
        "{} pairs of near-duplicates, {} of them of two subjects",
        found.near_duplicates.len(),
        wrong.clone().count()
    )?;
    for pair in wrong {
        say!("  {} and {}", pair.a.display(), pair.b.display())?;
    }
    Ok(())
}
