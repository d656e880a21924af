use clap::Subcommand;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{GalleryId, SubjectId};
use crate::service::{GalleryView, NewGallery};

use super::offline::{self, Absent};
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a gallery
    Create {
        /// Its name
        gallery: GalleryId,
        /// Keep enrolled images, sealed
        #[arg(long)]
        retain_images: bool,
        /// Those who are enrolled agree that their images are trained on over REST
        #[arg(long, requires = "retain_images")]
        allow_training: bool,
        /// Words for people
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List galleries
    List,
    /// Show a gallery
    Show {
        /// The gallery
        gallery: GalleryId,
    },
    /// Look for every sample with its own template
    Audit {
        /// The gallery
        gallery: GalleryId,
    },
    /// Merge recent enrolments into the index and write its snapshot
    Compact {
        /// The gallery
        gallery: GalleryId,
    },
    /// Erase a subject and print the receipt
    Erase {
        /// The gallery
        gallery: GalleryId,
        /// The subject
        subject: SubjectId,
    },
    /// Delete a gallery with everyone in it
    Delete {
        /// The gallery
        gallery: GalleryId,
        /// Do it
        #[arg(long, required = true)]
        yes: bool,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let absent = match args.action {
        Action::Create { .. } => Absent::Make,
        Action::List
        | Action::Show { .. }
        | Action::Audit { .. }
        | Action::Compact { .. }
        | Action::Erase { .. }
        | Action::Delete { .. } => Absent::Refuse,
    };
    offline::with_service(absent, &args.store, &args.model, async |service| match &args.action {
        Action::Create { gallery, retain_images, allow_training, description } => {
            let new = NewGallery {
                id: gallery.clone(),
                retain_images: *retain_images,
                allow_training: *allow_training,
                description: description.clone(),
            };
            show(args.json, &[service.create_gallery(new).await?])
        }
        Action::List => show(args.json, &service.galleries()),
        Action::Show { gallery } => show(args.json, &[service.gallery(gallery)?]),
        Action::Audit { gallery } => {
            let audit = service.audit_gallery(gallery).await?;
            let shown = output::json(&audit);
            if audit.found == audit.samples {
                return shown;
            }
            Err(format!("{} samples do not find themselves", audit.missed.len()).into())
        }
        Action::Compact { gallery } => show(args.json, &[service.compact_gallery(gallery).await?]),
        Action::Erase { gallery, subject } => {
            output::json(&service.erase_subject(gallery, subject).await?)
        }
        Action::Delete { gallery, .. } => Ok(service.delete_gallery(gallery).await?),
    })
}

fn show(json: bool, galleries: &[GalleryView]) -> Result<(), Failure> {
    if json {
        return output::json(&galleries);
    }
    say!("gallery               subjects   samples  index   description")?;
    for g in galleries {
        say!(
            "{:<20}  {:>8}  {:>8}  {:<6}  {}",
            g.id.as_str(),
            g.subjects,
            g.samples,
            g.index.kind,
            g.description
        )?;
    }
    Ok(())
}
