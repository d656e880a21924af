use std::path::PathBuf;

use clap::Subcommand;

use crate::service::tools;

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a model and show what it is
    Inspect {
        /// `nano`, or a Hugging Face style directory
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model from the Hugging Face hub
    Pull {
        /// owner/name@revision
        reference: String,
        /// A new folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Inspect { model, json } => {
            let report = tools::inspect_model(model)?;
            if *json {
                return output::json(&report);
            }
            println!("{report}");
            Ok(())
        }
        Action::Pull { reference, out } => {
            let pulled = tools::pull_model(reference, out, &|line| eprintln!("{line}"))?;
            output::json(&pulled)
        }
    }
}
