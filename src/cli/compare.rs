use crate::service::evaluate::{
    CompareRequest, EvaluateOptions, GateMargins, SystemChoice, compare,
};

use super::evaluate::{AskedArgs, HowArgs, ask, with_progress};
use super::memory::keep_freed_memory;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Two or more systems, the baseline first: `nano`, a model or run directory, or embeddings (.npy, .csv,
    /// .parquet); NAME=… names one
    ///
    /// Embeddings are matched to images by file name. A .csv has a column `path` and one column a dimension; a .parquet
    /// a column `path` and a list column `embedding`; a .npy is [n, dim] and has a text file of the same name beside it:
    /// .txt with a file name a line, or .csv with a column `path`.
    #[arg(required = true, num_args = 2..)]
    systems: Vec<String>,
    /// Say whether the second system may take the first one's place, by the margins of `serve`'s defaults
    #[arg(long)]
    gate: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    asked: AskedArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(server) = &args.asked.server {
        return ask(server, &args.asked.key, &args.systems, &args.how);
    }
    keep_freed_memory();
    let request = CompareRequest {
        systems: args.systems.iter().map(|text| SystemChoice::named(text)).collect(),
        data: args.how.data(),
        selection: args.how.selection(),
        options: EvaluateOptions {
            show_images: args.asked.show_images,
            gate: args.gate.then(GateMargins::default),
            ..args.how.options()
        },
    };
    let found = with_progress(|progress| compare(&request, progress))?;
    if args.how.json {
        return output::json(&found);
    }
    say!("{}", found.table())?;
    if let Some(gate) = &found.gate {
        say!("{}", gate.table())?;
    }
    match args.how.out() {
        Some(out) => say!("the report is in {}", out.join("report.html").display()),
        None => Ok(()),
    }
}
