use std::path::PathBuf;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{Aspect, AttributeFilter, GalleryId, Side};
use crate::service::{Combine, Identify};

use super::offline::{self, Absent};
use super::{Failure, output};

/// Which samples are looked at.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct FilterArgs {
    /// Only samples of this aspect: dorsal or palmar
    #[arg(long)]
    aspect: Option<Aspect>,
    /// Only samples of this side: left or right
    #[arg(long)]
    side: Option<Side>,
    /// Only samples with (true) or without (false) accessories
    #[arg(long)]
    accessories: Option<bool>,
}

impl FilterArgs {
    pub(super) fn filter(self) -> AttributeFilter {
        let Self { aspect, side, accessories } = self;
        AttributeFilter { aspect, side, accessories, ..AttributeFilter::default() }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The gallery
    #[arg(long)]
    gallery: GalleryId,
    /// The probe
    image: PathBuf,
    /// Most candidates
    #[arg(long, default_value_t = 10, value_parser = super::count)]
    limit: usize,
    #[command(flatten)]
    filter: FilterArgs,
    /// Compare with the mean of a subject's so many most similar samples instead of the best one
    #[arg(long, value_name = "K", value_parser = super::count)]
    mean_of: Option<usize>,
    /// Cosine similarity for a decision, -1 to 1
    #[arg(long, allow_negative_numbers = true, value_parser = super::similarity)]
    threshold: Option<f32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let ask = Identify {
        image: offline::read_image(&args.image)?,
        limit: args.limit,
        filter: args.filter.filter(),
        combine: args.mean_of.map_or(Combine::Best, Combine::MeanOf),
        threshold: args.threshold,
    };
    let answer =
        offline::with_service(Absent::Refuse, &args.store, &args.model, async |service| {
            Ok(service.identify(&args.gallery, ask).await?)
        })?;
    if args.json {
        return output::json(&answer);
    }
    say!("rank  similarity  subject")?;
    for candidate in &answer.candidates {
        say!("{:>4}  {:>10.4}  {}", candidate.rank, candidate.similarity, candidate.subject)?;
    }
    match answer.decision {
        Some(decision) => say!("decision: {decision}"),
        None => {
            note!("no decision: the gallery is not calibrated and no --threshold was given");
            Ok(())
        }
    }
}
