use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Subcommand;

use crate::config::{ModelArgs, ServerArgs, StoreArgs};
use crate::domain::{Consent, GalleryId, GalleryPolicy, OnMatch, SubjectId, now_ms};
use crate::service::{GalleryView, NewGallery, Replace};

use super::custody::{self, AuditAction};
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
    /// Who did what: read the audit log, and check that nothing of it was changed
    Audit {
        #[command(subcommand)]
        action: AuditAction,
    },
    /// Back up the whole store, sealed; of a running server with --server
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
        #[command(flatten)]
        remote: ServerArgs,
    },
    /// Read a whole backup and open every record in it
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Put a backup back; who was erased since does not come back
    Restore {
        /// The backup
        file: PathBuf,
        /// Take the place of the store that is there
        #[arg(long)]
        replace: bool,
        /// With --replace: it cannot be opened any more, so do not ask it who was erased
        #[arg(long, requires = "replace")]
        damaged: bool,
        /// The master key of the time when the backup was made, if it was changed since
        #[arg(long, value_name = "FILE")]
        backup_master_key_file: Option<PathBuf>,
        /// What was erased from a store that is lost: a file that `gallery erasures` wrote; may be repeated
        #[arg(long, value_name = "FILE")]
        erasures: Vec<PathBuf>,
    },
    /// Print everything that was ever erased, naming nobody, for a later `restore --erasures`
    Erasures {
        #[command(flatten)]
        remote: ServerArgs,
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
pub(super) struct ConsentArgs {
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
    let (store, as_json) = (&args.store, args.json);
    match &args.action {
        Action::Audit { action } => return custody::audit(store, as_json, action),
        Action::Backup { file, remote } => return custody::backup(store, as_json, file, remote),
        Action::Verify { file } => return custody::verify(store, as_json, file),
        Action::Restore { file, replace, damaged, backup_master_key_file, erasures } => {
            let replace = match (replace, damaged) {
                (false, _) => Replace::Never,
                (true, false) => Replace::Sound,
                (true, true) => Replace::Damaged,
            };
            let backup_key = backup_master_key_file.as_deref();
            return custody::restore(store, as_json, file, replace, backup_key, erasures);
        }
        Action::Erasures { remote } => return custody::erasures(store, remote),
        Action::Create { .. }
        | Action::Policy { .. }
        | Action::Consent { .. }
        | Action::List
        | Action::Show { .. }
        | Action::Check { .. }
        | Action::Compact { .. }
        | Action::Erase { .. }
        | Action::Delete { .. } => {}
    }
    let absent = match args.action {
        Action::Create { .. } => Absent::Make,
        Action::List
        | Action::Policy { .. }
        | Action::Consent { .. }
        | Action::Audit { .. }
        | Action::Backup { .. }
        | Action::Verify { .. }
        | Action::Restore { .. }
        | Action::Erasures { .. }
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
        Action::Audit { .. }
        | Action::Backup { .. }
        | Action::Verify { .. }
        | Action::Restore { .. }
        | Action::Erasures { .. } => Ok(()),
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
