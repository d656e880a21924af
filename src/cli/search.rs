use std::path::PathBuf;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::GalleryId;
use crate::service::Search;

use super::identify::FilterArgs;
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
    /// Words, such as "a dorsal right hand with a ring"
    #[arg(long, required_unless_present = "image")]
    prompt: Option<String>,
    /// An image, alone or with the words
    #[arg(long)]
    image: Option<PathBuf>,
    /// Weight of the image where both are given, 0 to 1
    #[arg(long, default_value_t = 0.5, value_parser = super::weight)]
    image_weight: f32,
    #[command(flatten)]
    filter: FilterArgs,
    /// Most hits
    #[arg(long, default_value_t = 10, value_parser = super::count)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let image = args.image.as_deref().map(offline::read_image).transpose()?;
    let ask = Search {
        prompt: args.prompt.clone(),
        image,
        image_weight: args.image_weight,
        filter: args.filter.filter(),
        limit: args.limit,
    };
    let answer =
        offline::with_service(Absent::Refuse, &args.store, &args.model, async |service| {
            Ok(service.search(&args.gallery, ask).await?)
        })?;
    if args.json {
        return output::json(&answer);
    }
    say!("rank  cosine  subject               attributes")?;
    for (i, hit) in answer.hits.iter().enumerate() {
        say!("{}", output::hit_line(i + 1, hit))?;
    }
    Ok(())
}
