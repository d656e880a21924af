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
    /// Fetch a model from the Hugging Face hub; what is there already is not fetched again
    Pull {
        /// owner/name@revision
        reference: String,
        /// Folder for the model's files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Inspect { model, json } => inspect(model, *json),
        Action::Pull { reference, out } => {
            let bar = output::bar(0, "fetching");
            let manifest = tools::pull_model(reference, out, &mut |file, done, total| {
                bar.set_message(file.to_owned());
                bar.set_length(total);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
            output::json(&manifest)
        }
    }
}

fn inspect(model: &str, json: bool) -> Result<(), Failure> {
    let report = tools::inspect_model(model)?;
    if json {
        output::json(&report)?;
    } else {
        let (vision, text) = (&report.config.vision, &report.config.text);
        say!(
            "{} ({} names), {} dimensions",
            report.kind,
            report.layout,
            report.config.projection_dim
        )?;
        say!(
            "image tower: {} px in patches of {}, {} layers of width {}, {} parameters",
            vision.image_size,
            vision.patch_size,
            vision.num_hidden_layers,
            vision.hidden_size,
            report.parameters.vision,
        )?;
        say!(
            "text tower: {} tokens of {} known, {} layers of width {}, {} parameters",
            text.max_position_embeddings,
            text.vocab_size,
            text.num_hidden_layers,
            text.hidden_size,
            report.parameters.text,
        )?;
        for file in &report.files {
            say!("{:>12}  {}  {}", file.bytes, file.sha256, file.name)?;
        }
        if let Some(fingerprint) = &report.fingerprint {
            say!("fingerprint {fingerprint}")?;
        }
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(format!("the model cannot be used: {}", report.problems.join("; ")).into())
}
