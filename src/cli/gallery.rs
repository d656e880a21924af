use std::num::NonZeroU32;

use clap::Subcommand;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{Consent, GalleryId, GalleryPolicy, OnMatch, SubjectId, now_ms};
use crate::service::{GalleryView, NewGallery};

use super::custody;
use super::offline::{self, Absent};
use super::{Failure, output};

// Taken before the action and after it.
#[derive(Debug, clap::Args)]
#[command(mut_args(|arg| arg.global(true)))]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
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
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Change who may be in a gallery, and for how long; what is left out is as in a new one
    Policy {
        /// The gallery
        gallery: GalleryId,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Write down what a subject agreed to
    Consent {
        /// The gallery
        gallery: GalleryId,
        /// The subject
        subject: SubjectId,
        #[command(flatten)]
        consent: ConsentArgs,
    },
    /// List galleries
    List,
    /// Show a gallery
    Show {
        /// The gallery
        gallery: GalleryId,
    },
    /// Look for every sample with its own template
    Check {
        /// The gallery
        gallery: GalleryId,
    },
    #[command(flatten)]
    Custody(custody::Action),
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

/// Who may be in a gallery, and for how long.
#[derive(Debug, clap::Args)]
struct PolicyArgs {
    /// Enrol nobody without a consent that holds
    #[arg(long)]
    require_consent: bool,
    /// Erase whoever was not enrolled, verified or identified for so many days [default: nobody]
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<NonZeroU32>,
    /// Enrol an image that matches another subject, and mark it, instead of refusing it
    #[arg(long)]
    flag_matches: bool,
}

impl PolicyArgs {
    fn policy(&self) -> GalleryPolicy {
        GalleryPolicy {
            require_consent: self.require_consent,
            retention_days: self.retention_days,
            on_match: if self.flag_matches { OnMatch::Flag } else { OnMatch::Refuse },
        }
    }
}

/// What somebody agreed to, now.
#[derive(Debug, clap::Args)]
struct ConsentArgs {
    /// What they agreed to, in words
    #[arg(long = "purpose", value_name = "WORDS")]
    purpose: String,
    /// For how many days from now; they are erased then
    #[arg(long = "days", value_name = "DAYS")]
    days: NonZeroU32,
}

impl ConsentArgs {
    fn consent(&self) -> Consent {
        Consent::from_now(&self.purpose, self.days, now_ms())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let absent = match &args.action {
        Action::Custody(action) => return custody::run(&args.store, args.json, action),
        Action::Create { .. } => Absent::Make,
        Action::List
        | Action::Policy { .. }
        | Action::Consent { .. }
        | Action::Show { .. }
        | Action::Check { .. }
        | Action::Compact { .. }
        | Action::Erase { .. }
        | Action::Delete { .. } => Absent::Refuse,
    };
    offline::with_service(absent, &args.store, &args.model, async |service| match &args.action {
        Action::Create { gallery, retain_images, allow_training, description, policy } => {
            let new = NewGallery {
                id: gallery.clone(),
                retain_images: *retain_images,
                allow_training: *allow_training,
                description: description.clone(),
                policy: policy.policy(),
            };
            show(args.json, &[service.create_gallery(new).await?])
        }
        Action::Policy { gallery, policy } => {
            show(args.json, &[service.set_policy(gallery, policy.policy()).await?])
        }
        Action::Consent { gallery, subject, consent } => {
            output::json(&service.set_consent(gallery, subject, consent.consent()).await?)
        }
        // Done above, without a model.
        Action::Custody(_) => Ok(()),
        Action::List => show(args.json, &service.galleries()),
        Action::Show { gallery } => show(args.json, &[service.gallery(gallery)?]),
        Action::Check { gallery } => {
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
