//! The command line: one file a command. Results go to standard output, everything else to standard
//! error. Exit codes: 0 done, 1 failed, 2 wrong use.

/// A line on standard output. Not `println!`: that panics where the reader has left (`… | head`).
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}

/// A line on standard error, for whoever reads it. Not `eprintln!`: that panics where nobody does, or the disk is full.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::output::note(format_args!($($text)*)) };
}

mod calibrate;
mod compare;
mod custody;
mod dataset;
mod demo;
mod deploy;
mod embed;
mod enrol;
mod evaluate;
mod explain;
mod gallery;
mod health;
mod identify;
mod keys;
mod memory;
mod model;
mod offline;
mod openapi;
mod output;
mod pretrain;
mod remote;
mod robustness;
mod rollback;
mod runs;
mod search;
mod serve;
mod synth;
mod train;
mod verify;

use clap::{Parser, Subcommand};

use crate::service::MAX_RESULTS;

/// What a command fails with.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Hand-biometric retrieval: enrol hands, identify, verify, and search them by words
#[derive(Debug, Parser)]
#[command(name = "handclip", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// What is logged where `HANDCLIP_LOG` says nothing: a server's requests, else only what is amiss.
    #[must_use]
    pub fn default_log(&self) -> &'static str {
        if matches!(self.command, Command::Serve(_)) { "info" } else { "warn" }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what HandCLIP does, end to end, on generated hands
    Demo(demo::Args),
    /// Serve the REST API
    Serve(serve::Args),
    /// Enrol an image, a folder or a CSV manifest
    Enrol(enrol::Args),
    /// Who is it? 1:N over a gallery
    Identify(identify::Args),
    /// Is it them? 1:1 against an enrolled subject
    Verify(verify::Args),
    /// Find enrolled hands by words, by an image, or by both
    Search(search::Args),
    /// Why is it as similar as it is? A heat map over an image
    Explain(explain::Args),
    /// Make, list, check and delete galleries; erase subjects; back up, put back, and audit
    Gallery(gallery::Args),
    /// Embed images or prompts
    Embed(embed::Args),
    /// Inspect and fetch models
    Model(model::Args),
    /// Draw hands of people who do not exist, in the layout of 11k Hands
    Synth(synth::Args),
    /// Look at a data set, or divide it into train, test, query and gallery
    Dataset(dataset::Args),
    /// Fine-tune a model on photographs of hands
    Train(train::Args),
    /// Measure a model, or embeddings from a file, on labelled images
    Evaluate(evaluate::Args),
    /// Measure several systems on identical draws, and their differences
    Compare(compare::Args),
    /// Have a model serve, on a running server: compared, re-embedded, swapped
    Deploy(deploy::Args),
    /// Have the model before serve again, on a running server
    Rollback(rollback::Args),
    /// Make, list, rotate and revoke API keys
    Keys(keys::Args),
    /// Measure thresholds for decisions on some subjects and try them on others
    Calibrate(calibrate::Args),
    /// List, show and compare what was run
    Runs(runs::Args),
    /// Train the embedded model on generated hands, or score a model on them
    Pretrain(pretrain::Args),
    /// Measure what damaged pictures cost, and whether all groups of people are served alike
    Robustness(robustness::Args),
    /// Print the OpenAPI document
    Openapi,
    /// Ask a running server whether it is alive
    Health(health::Args),
}

/// Runs the command.
///
/// # Errors
/// Whatever it failed with, as a chain to print.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Enrol(args) => enrol::run(&args),
        Command::Identify(args) => identify::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Gallery(args) => gallery::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Dataset(args) => dataset::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Runs(args) => runs::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Robustness(args) => robustness::run(&args),
        Command::Openapi => openapi::run(),
        Command::Health(args) => health::run(&args),
    }
}

/// Says what a command failed with.
pub fn complain(error: &(dyn std::error::Error + 'static)) {
    note!("error: {}", chain(error));
}

/// Whether it failed only because whoever reads the output has seen enough, as `head` has.
#[must_use]
pub fn reader_left(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<output::ReaderLeft>().is_some()
}

/// For clap: how many results are wanted. Wrong use is told apart from failure by the exit code.
fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    let all = 1..=MAX_RESULTS;
    if all.contains(&count) { Ok(count) } else { Err(format!("1 to {MAX_RESULTS} is taken")) }
}

/// For clap: a cosine similarity.
fn similarity(text: &str) -> Result<f32, String> {
    within(text, -1.0, 1.0)
}

/// For clap: a share of the whole.
fn weight(text: &str) -> Result<f32, String> {
    within(text, 0.0, 1.0)
}

fn within(text: &str, least: f32, most: f32) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(format!("{least} to {most} is taken"))
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
