use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{
    Aspect, Consent, GalleryId, GalleryPolicy, HandAttributes, SampleFlag, SampleId, Side,
    SubjectId, now_ms,
};
use crate::service::{
    EnrolledView, Enrolment, LabelledImage, NewGallery, Service, ServiceError, read_dataset,
};

use super::offline::{self, Absent};
use super::{Failure, output};

/// Images read into memory and enrolled together.
const BATCH: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The gallery
    #[arg(long)]
    gallery: GalleryId,
    /// Make the gallery if it is not there
    #[arg(long)]
    create: bool,
    /// With --create: keep the images, sealed, so that a later model can embed them again
    #[arg(long, requires = "create")]
    retain_images: bool,
    /// An image (with --subject), a CSV manifest (path,subject[,aspect,side,accessories,…]), or a folder:
    /// 11k Hands, HD (<id>_<n>.jpg), or a folder for each subject
    path: PathBuf,
    /// Whose hand a single image shows
    #[arg(long)]
    subject: Option<SubjectId>,
    /// A name for a single image; made up when left out
    #[arg(long, requires = "subject")]
    sample: Option<SampleId>,
    /// Surface a single image shows: dorsal or palmar
    #[arg(long, requires = "subject")]
    aspect: Option<Aspect>,
    /// Hand a single image shows: left or right
    #[arg(long, requires = "subject")]
    side: Option<Side>,
    /// Whether accessories are worn in a single image
    #[arg(long, requires = "subject")]
    accessories: Option<bool>,
    /// What those who are enrolled agreed to, in words, now
    #[arg(long, value_name = "WORDS", requires = "consent_days")]
    consent_purpose: Option<String>,
    /// For how many days they agreed; they are erased then
    #[arg(long, value_name = "DAYS", requires = "consent_purpose")]
    consent_days: Option<NonZeroU32>,
    /// Enrol images even if they match another subject
    #[arg(long)]
    allow_match: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How all of the images are enrolled.
struct How {
    consent: Option<Consent>,
    allow_match: bool,
}

impl Args {
    fn how(&self) -> How {
        let given = self.consent_purpose.as_deref().zip(self.consent_days);
        let consent = given.map(|(purpose, days)| Consent::from_now(purpose, days, now_ms()));
        How { consent, allow_match: self.allow_match }
    }
}

/// What became of the files.
#[derive(Debug, Default, Serialize)]
struct Summary {
    enrolled: usize,
    already_enrolled: usize,
    /// Enrolled, and somebody has to look at them.
    flagged: Vec<Flagged>,
    failed: Vec<FileError>,
}

#[derive(Debug, Serialize)]
struct Flagged {
    path: PathBuf,
    flags: Vec<SampleFlag>,
}

impl Flagged {
    fn why(&self) -> String {
        let words = self.flags.iter().map(|flag| match flag {
            SampleFlag::MatchesAnother => "it matches another subject",
            SampleFlag::FarFromSubject => {
                "it looks like none of its subject's other images of the same hand and aspect"
            }
        });
        words.collect::<Vec<_>>().join(", and ")
    }
}

#[derive(Debug, Serialize)]
struct FileError {
    path: PathBuf,
    error: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (images, sample) = match &args.subject {
        Some(subject) => {
            let attributes = HandAttributes {
                aspect: args.aspect,
                side: args.side,
                accessories: args.accessories,
                ..HandAttributes::default()
            };
            let one =
                LabelledImage { path: args.path.clone(), subject: subject.clone(), attributes };
            (vec![one], args.sample.clone())
        }
        None => (read_dataset(&args.path)?, None),
    };
    let absent = if args.create { Absent::Make } else { Absent::Refuse };
    let summary = offline::with_service(absent, &args.store, &args.model, async |service| {
        if args.create {
            create(&service, args).await?;
        }
        enrol_all(&service, &args.gallery, images, sample, &args.how()).await
    })?;
    // Shown or not, what failed decides the exit code.
    let shown = if args.json {
        output::json(&summary)
    } else {
        say!(
            "enrolled {}, already enrolled {}, failed {}",
            summary.enrolled,
            summary.already_enrolled,
            summary.failed.len()
        )
    };
    for flagged in &summary.flagged {
        note!("warning: {}: enrolled, but {}", flagged.path.display(), flagged.why());
    }
    for FileError { path, error } in &summary.failed {
        note!("error: {}: {error}", path.display());
    }
    let failed = match summary.failed.len() {
        0 => return shown,
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    let advice = "the others are enrolled; mend the files and run the same command again";
    Err(format!("{failed} could not be enrolled: {advice}").into())
}

async fn create(service: &Service, args: &Args) -> Result<(), Failure> {
    let new = NewGallery {
        id: args.gallery.clone(),
        retain_images: args.retain_images,
        allow_training: false,
        description: String::new(),
        policy: GalleryPolicy::default(),
    };
    match service.create_gallery(new).await {
        Ok(_) | Err(ServiceError::GalleryExists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Running it again is safe: files enrolled before are known by their content.
async fn enrol_all(
    service: &Service,
    gallery: &GalleryId,
    images: Vec<LabelledImage>,
    mut sample: Option<SampleId>,
    how: &How,
) -> Result<Summary, Failure> {
    // Before anything is read: a wrong gallery is one error, not one a file.
    service.gallery(gallery)?;
    let bar = output::bar(images.len() as u64, "enrolling");
    let mut summary = Summary::default();
    for chunk in images.chunks(BATCH) {
        let mut batch = Vec::with_capacity(chunk.len());
        let mut paths = Vec::with_capacity(chunk.len());
        for LabelledImage { path, subject, attributes } in chunk {
            match offline::read_image(path) {
                Ok(image) => {
                    let (subject, attributes) = (subject.clone(), attributes.clone());
                    batch.push(Enrolment {
                        subject,
                        sample: sample.take(),
                        attributes,
                        image,
                        consent: how.consent.clone(),
                        allow_match: how.allow_match,
                    });
                    paths.push(path);
                }
                Err(error) => summary.fail(path, &*error),
            }
        }
        if !batch.is_empty() {
            let answers = service.enrol_batch(gallery, batch).await?;
            for (path, answer) in paths.into_iter().zip(answers) {
                match answer {
                    Ok(enrolled) => summary.count(path, enrolled),
                    Err(error) => summary.fail(path, &error),
                }
            }
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(summary)
}

impl Summary {
    fn count(&mut self, path: &Path, enrolled: EnrolledView) {
        if enrolled.created {
            self.enrolled += 1;
        } else {
            self.already_enrolled += 1;
        }
        if !enrolled.flags.is_empty() {
            self.flagged.push(Flagged { path: path.to_path_buf(), flags: enrolled.flags });
        }
    }

    fn fail(&mut self, path: &Path, error: &(dyn std::error::Error + 'static)) {
        self.failed.push(FileError { path: path.to_path_buf(), error: super::chain(error) });
    }
}
