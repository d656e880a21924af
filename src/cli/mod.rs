//! The command line: one file a command. Results go to standard output, everything else to standard
//! error. Exit codes: 0 done, 1 failed, 2 wrong use.
#![expect(clippy::print_stdout, reason = "results go to standard output")]

mod demo;
mod embed;
mod enrol;
mod gallery;
mod health;
mod identify;
mod model;
mod offline;
mod openapi;
mod output;
mod pretrain;
mod search;
mod serve;
mod synth;
mod verify;

use clap::{Parser, Subcommand};

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
    /// Make, list, show, check and delete galleries; erase subjects
    Gallery(gallery::Args),
    /// Embed images or prompts
    Embed(embed::Args),
    /// Inspect and fetch models
    Model(model::Args),
    /// Draw hands of people who do not exist, in the layout of 11k Hands
    Synth(synth::Args),
    /// Train the embedded model on generated hands, or score a model on them
    Pretrain(pretrain::Args),
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
        Command::Gallery(args) => gallery::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Openapi => openapi::run(),
        Command::Health(args) => health::run(&args),
    }
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
