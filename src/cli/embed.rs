use std::path::PathBuf;

use crate::config::{DataDirArgs, ModelArgs};
use crate::service::ModelChoice;
use crate::service::tools::{EmbeddingLine, OfflineModel};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    registry: DataDirArgs,
    /// Images to embed
    #[arg(required_unless_present = "text", conflicts_with = "text")]
    images: Vec<PathBuf>,
    /// Prompts to embed instead
    #[arg(long, num_args = 1.., value_name = "PROMPT")]
    text: Vec<String>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let choice = ModelChoice::found_in(&args.model.model, &args.registry.data_dir)?;
    let model = OfflineModel::open(&choice, &args.model.device)?;
    for notice in &model.notices {
        note!("note: {notice}");
    }
    let print = |line: &EmbeddingLine| {
        if args.json {
            return output::json_line(line);
        }
        let first: Vec<String> =
            line.embedding.iter().take(4).map(|v| format!("{v:+.4}")).collect();
        say!("{}: {} dimensions, {} …", line.input, line.dim, first.join(" "))
    };
    let mut failed = 0;
    for path in &args.images {
        match model.image(path) {
            Ok(line) => print(&line)?,
            Err(error) => {
                failed += 1;
                note!("error: {}: {error}", path.display());
            }
        }
    }
    for prompt in &args.text {
        print(&model.text(prompt)?)?;
    }
    if failed > 0 {
        return Err(
            format!("{failed} of {} images could not be embedded", args.images.len()).into()
        );
    }
    Ok(())
}
