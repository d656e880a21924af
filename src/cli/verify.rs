use std::path::PathBuf;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{GalleryId, SubjectId};
use crate::service::Verify;

use super::offline::{self, Absent};
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The gallery
    #[arg(long)]
    gallery: GalleryId,
    /// Who it is claimed to be
    #[arg(long)]
    subject: SubjectId,
    /// The probe
    image: PathBuf,
    /// Cosine similarity for a decision, -1 to 1
    #[arg(long, allow_negative_numbers = true, value_parser = super::similarity)]
    threshold: Option<f32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let ask = Verify {
        subject: args.subject.clone(),
        image: offline::read_image(&args.image)?,
        threshold: args.threshold,
    };
    let answer =
        offline::with_service(Absent::Refuse, &args.store, &args.model, async |service| {
            Ok(service.verify(&args.gallery, ask).await?)
        })?;
    if args.json {
        return output::json(&answer);
    }
    say!("similarity to {}: {:.4}", answer.subject, answer.similarity)?;
    match answer.decision {
        Some(decision) => say!("decision: {decision}"),
        None => {
            note!("no decision: the gallery is not calibrated and no --threshold was given");
            Ok(())
        }
    }
}
