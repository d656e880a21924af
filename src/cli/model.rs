use std::path::PathBuf;

use clap::Subcommand;

use crate::config::DataDirArgs;
use crate::service::{OfflineRegistry, RegisteredModel, tools};

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
        /// `nano`, a Hugging Face style directory, a run's folder, or one that `export` wrote
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the models of a data directory's registry
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show a model of the registry: what it is, where it comes from, what it was trained on
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Take a model into the registry
    Import {
        /// What to call it
        name: String,
        /// A Hugging Face style directory, a run's folder, or a tar archive that an export gave
        from: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Write a model of the registry as a tar archive or a folder
    Export {
        /// Its name
        name: String,
        /// An archive where this ends in `.tar`, else a folder; it must not be there yet
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Read a model's files again and compare them with what was registered
    Verify {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Delete a model that nobody serves
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
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

/// Which registry, and how to print.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    store: DataDirArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl At {
    fn registry(&self) -> Result<OfflineRegistry, Failure> {
        Ok(OfflineRegistry::existing(&self.store.data_dir)?)
    }

    fn print(&self, model: &RegisteredModel) -> Result<(), Failure> {
        if self.json {
            return output::json(model);
        }
        let of = model.parent.as_ref().map_or(String::new(), |p| format!(", from {}", p.name));
        say!("{}  {} dimensions, {} parameters{of}", model.name, model.dim, model.parameters)?;
        say!("fingerprint {}", model.fingerprint)?;
        if let Some(training) = &model.training {
            let [train, validation, held_out] = training.subjects;
            say!("trained on {train} subjects, validated on {validation}, {held_out} held out")?;
            if let (Some(before), Some(after)) = (training.before, training.after) {
                let change = |name: &str, from: f64, to: f64| {
                    format!("{name} {:.1} % before, {:.1} % after", 100.0 * from, 100.0 * to)
                };
                let rank1 = change("Rank-1", before.rank1, after.rank1);
                say!("{rank1}; {}", change("mAP", before.map, after.map))?;
            }
        }
        for file in &model.files {
            say!("{:>12}  {}  {}", file.bytes, file.sha256, file.name)?;
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Inspect { model, json } => inspect(model, *json),
        Action::List { at } => {
            let models = at.registry()?.list();
            if at.json {
                return output::json(&models);
            }
            for model in models {
                let parent = model.parent.as_ref().map_or("-", |parent| parent.name.as_str());
                say!("{:<24} {:>12}  {}  {parent}", model.name, model.bytes(), model.fingerprint)?;
            }
            Ok(())
        }
        Action::Show { name, at } => at.print(&at.registry()?.read(name)?),
        Action::Import { name, from, at } => {
            at.print(&OfflineRegistry::open(&at.store.data_dir)?.import(name, from)?)
        }
        Action::Export { name, out, at } => Ok(at.registry()?.export(name, out)?),
        Action::Verify { name, at } => at.print(&at.registry()?.verify(name)?),
        Action::Delete { name, .. } if name == "nano" => {
            Err("`nano` is inside the program and cannot be deleted".into())
        }
        Action::Delete { name, at } => Ok(at.registry()?.delete(name)?),
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
