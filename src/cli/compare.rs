use crate::service::evaluate::{
    CompareRequest, EvaluateOptions, GateMargins, SystemChoice, compare,
};

use super::evaluate::{HowArgs, ask, with_progress};
use super::memory::keep_freed_memory;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Two or more systems, the baseline first: `nano`, a model or run directory, or embeddings (.npy, .csv,
    /// .parquet); NAME=… names one
    #[arg(required = true, num_args = 2..)]
    systems: Vec<String>,
    /// Say whether the second system may take the first one's place, by the margins of `serve`'s defaults
    #[arg(long)]
    gate: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(server) = &args.how.server {
        return ask(server, &args.systems, &args.how);
    }
    keep_freed_memory();
    let request = CompareRequest {
        systems: args.systems.iter().map(|text| SystemChoice::named(text)).collect(),
        data: args.how.data(),
        selection: args.how.selection(),
        options: EvaluateOptions {
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
