use std::path::PathBuf;

use crate::service::tools::{Drawing, draw_hands};

use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// People to draw
    #[arg(long)]
    subjects: u64,
    /// Pictures of each of a person's four hands (dorsal and palmar, left and right)
    #[arg(long)]
    images: u64,
    /// Names the population: the same seed draws the same people
    #[arg(long)]
    seed: u64,
    /// Side of a picture, in pixels
    #[arg(long, default_value_t = 224)]
    size: u32,
    /// A new folder
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Args { subjects, images, seed, size, .. } = *args;
    let bar = output::bar(0, "drawing");
    let summary =
        draw_hands(Drawing { subjects, images, seed, size }, &args.out, &|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
    bar.finish_and_clear();
    if args.json {
        return output::json(&summary);
    }
    say!("{} pictures of {} people in {}", summary.images, summary.subjects, summary.out.display())
}
