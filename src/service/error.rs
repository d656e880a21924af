use super::evaluate::GateTable;
use super::registry::RegistryError;
use crate::access::{AccessError, KeyId, KeyIdError, Refusal};
use crate::domain::{AttributeError, GalleryId, IdError, SampleId, Scope, SubjectId};
use crate::gallery::GalleryError;
use crate::image::ImageError;
use crate::jobs::{JobError, JobId, JobIdError, MAX_DATA};
use crate::model::ModelError;
use crate::storage::StorageError;
use crate::tensor::DeviceError;

/// Everything that can go wrong for a caller, in the caller's words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// No such gallery.
    #[error("there is no gallery `{0}`")]
    GalleryNotFound(GalleryId),
    /// No such subject.
    #[error("there is no subject `{0}` in this gallery")]
    SubjectNotFound(SubjectId),
    /// No such sample.
    #[error("subject `{subject}` has no sample `{sample}`")]
    SampleNotFound {
        /// The subject asked for.
        subject: SubjectId,
        /// The sample asked for.
        sample: SampleId,
    },
    /// No such model.
    #[error("there is no model `{0}`")]
    ModelNotFound(String),
    /// No such job.
    #[error("there is no job `{0}`")]
    JobNotFound(JobId),
    /// A job's id that is none.
    #[error(transparent)]
    JobId(#[from] JobIdError),
    /// The job has ended.
    #[error("{0}")]
    JobNotCancellable(String),
    /// The job has not failed and was not cancelled.
    #[error("{0}")]
    JobNotRetryable(String),
    /// As many jobs wait as may.
    #[error("{waiting} jobs are waiting, which is as many as may")]
    QueueFull {
        /// Jobs that wait.
        waiting: usize,
    },
    /// The gallery has no thresholds.
    #[error("gallery `{0}` has no calibration: `handclip calibrate` measures one")]
    NotCalibrated(GalleryId),
    /// The gallery's name is taken.
    #[error("gallery `{0}` exists already")]
    GalleryExists(GalleryId),
    /// The sample's name is taken.
    #[error("sample `{0}` is enrolled already with other content or for another subject")]
    SampleExists(SampleId),
    /// The subject is being erased.
    #[error("subject `{0}` is being erased: ask for the erasure again to finish it")]
    Erasing(SubjectId),
    /// The gallery holds templates of another model than the one that serves.
    #[error(
        "the gallery holds templates of model {gallery}, the model that serves is {serving}: start with the gallery's model"
    )]
    ModelMismatch {
        /// Fingerprint of the gallery's model.
        gallery: String,
        /// Fingerprint of the model that serves.
        serving: String,
    },
    /// A recipe that cannot be used.
    #[error("{0}")]
    Recipe(String),
    /// Images that may not be trained on.
    #[error(
        "those who are enrolled in gallery `{0}` have not agreed that their images are trained on: make a gallery with `allow_training`"
    )]
    NoConsent(GalleryId),
    /// No such upload.
    #[error("there is no data set `{0}`")]
    DatasetNotFound(String),
    /// The name of an upload is taken.
    #[error("there is a data set `{0}` already")]
    DatasetExists(String),
    /// An upload that a job works with.
    #[error("a job works with data set `{0}`: wait for it, or cancel it")]
    DatasetInUse(String),
    /// Something that is no data set that can be used.
    #[error("{0}")]
    DatasetRefused(String),
    /// An upload over the limits.
    #[error("{0}")]
    DatasetTooLarge(String),
    /// The name of a model is taken.
    #[error("there is a model `{0}` already")]
    ModelExists(String),
    /// A model that lies elsewhere than in the registry.
    #[error(
        "model `{0}` is not of the registry: it lies inside the program, or in a folder that the server was started with"
    )]
    ModelNotRegistered(String),
    /// A model that somebody serves.
    #[error(
        "model `{0}` is deployed, or being read: deploy another, and end the soak, before it is deleted"
    )]
    ModelDeployed(String),
    /// Something that is no model that can be used.
    #[error("{0}")]
    ModelRefused(String),
    /// A model over the limits.
    #[error("{0}")]
    ModelTooLarge(String),
    /// A model whose files have changed.
    #[error("{0}")]
    ModelDamaged(String),
    /// The model serves already.
    #[error("model {0} serves already")]
    AlreadyServes(String),
    /// A deployment has begun and not ended.
    #[error("another deployment is under way: wait for its job, or cancel it")]
    DeploymentUnderWay,
    /// The last deployment can still be undone.
    #[error(
        "the last deployment can still be undone: roll it back, or give up the way back with `POST /v1/deployment:retire`"
    )]
    Soaking,
    /// There is no way back.
    #[error("there is no deployment to undo: deploy the model that is to serve")]
    NothingToRollBack,
    /// A caller who is not let in.
    #[error(transparent)]
    KeyRefused(#[from] Refusal),
    /// A caller who may not do this.
    #[error("this needs a key that allows {}", .0.iter().map(|scope| format!("`{scope}`")).collect::<Vec<_>>().join(" or "))]
    ScopeMissing(&'static [Scope]),
    /// A caller who may not reach this gallery, be there one or not.
    #[error("this key is not for gallery `{0}`")]
    GalleryForbidden(String),
    /// No such key.
    #[error("there is no key `{0}`")]
    KeyNotFound(KeyId),
    /// A key that lets nobody in any more.
    #[error("{0}")]
    KeyRevoked(String),
    /// The first key must be able to make others.
    #[error("{0}")]
    FirstKey(String),
    /// There must be a key that can make others.
    #[error("{0}")]
    LastAdminKey(String),
    /// A key's id that is none.
    #[error(transparent)]
    KeyId(#[from] KeyIdError),
    /// A step of a deployment that has been given up.
    #[error("this deployment has been given up")]
    NoDeployment,
    /// A model's files are not those that were deployed.
    #[error(
        "model {0} is not the one that was deployed: its files have changed or are another model's; put them back"
    )]
    ModelChanged(String),
    /// An enrolment that an identification would take for somebody else; whom, for those who may know.
    #[error(
        "the image matches {}: an admin enrols it all the same with `allow_match`, and a gallery whose policy says `on_match: flag` takes it and marks it",
        .0.as_ref().map_or_else(|| "another subject".to_owned(), |subject| format!("subject `{subject}`"))
    )]
    MatchesAnother(Option<SubjectId>),
    /// Nobody is enrolled here without a consent.
    #[error("{0}; send `consent` with the image, or put it to the subject")]
    ConsentRequired(String),
    /// A backup that cannot be made or used.
    #[error("{0}")]
    Backup(String),
    /// Samples of which no image was kept.
    #[error(
        "{samples} samples have no image to make a template of the new model from: say with `without_images` whether they are to be dropped or to stay with their model"
    )]
    WithoutImages {
        /// How many.
        samples: usize,
        /// In which galleries.
        galleries: Vec<GalleryId>,
    },
    /// Galleries that decide by thresholds would have none, or worse ones.
    #[error(
        "there are thresholds for the model that serves and none for the new one that cover as much and are as strict (galleries: {}): give a calibration of it, or allow to do without",
        .0.iter().map(|gallery| format!("`{gallery}`")).collect::<Vec<_>>().join(", ")
    )]
    Uncalibrated(Vec<GalleryId>),
    /// Nobody has compared the models.
    #[error(
        "name an evaluation that compares the model that serves with this one, or give a reason for doing without"
    )]
    GateMissing,
    /// The challenger is worse than it may be.
    #[error(
        "the challenger may be worse than the model that serves by more than is allowed; the table says in what. To deploy it all the same give a reason as `override`"
    )]
    GateFailed(Box<GateTable>),
    /// No such file of a report.
    #[error("there is no `{0}`; once a job has succeeded it says which files there are")]
    NoSuchFile(String),
    /// A second model does not fit.
    #[error("the new model may take {needed} bytes of memory and {available} are free")]
    InsufficientMemory {
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// Samples came without a template of the new model.
    #[error("{0}")]
    Gaps(String),
    /// An identifier that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// Attributes out of bounds.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// A field with a value that cannot be used.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An image that cannot be used; its `code` says why.
    #[error("{message}")]
    Image {
        /// A stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Content that is no image taken here.
    #[error("{0}")]
    UnsupportedMedia(String),
    /// An image over the limits.
    #[error("{0}")]
    ImageTooLarge(String),
    /// A prompt that cannot be embedded.
    #[error("{0}")]
    Prompt(String),
    /// As many requests wait as may.
    #[error("the server is busy: {waiting} requests are waiting")]
    Busy {
        /// Requests that wait.
        waiting: usize,
    },
    /// A bound on what is kept was reached.
    #[error("{0}")]
    Full(String),
    /// The disk is full.
    #[error("the disk is full: {0}")]
    StorageFull(String),
    /// The store is open elsewhere.
    #[error("{0}; stop the server, or talk to it over its REST API")]
    StoreInUse(String),
    /// The store cannot be trusted or opened.
    #[error("{0}")]
    Damaged(String),
    /// A model that cannot be loaded.
    #[error("cannot load the model: {0}")]
    Model(String),
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Nothing a caller can mend.
    #[error("{0}")]
    Internal(String),
}

/// The whole chain of an error in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<ImageError> for ServiceError {
    fn from(error: ImageError) -> Self {
        let message = error.to_string();
        match error {
            ImageError::UnsupportedMediaType | ImageError::UnsupportedVariant { .. } => {
                Self::UnsupportedMedia(message)
            }
            ImageError::FileTooLarge { .. }
            | ImageError::SideTooLong { .. }
            | ImageError::TooManyPixels { .. }
            | ImageError::WorkingMemory { .. } => Self::ImageTooLarge(message),
            other @ (ImageError::Empty
            | ImageError::Truncated { .. }
            | ImageError::Corrupt { .. }
            | ImageError::Animated { .. }
            | ImageError::TrailingData { .. }
            | ImageError::TooSmall { .. }
            | ImageError::Blank { .. }
            | ImageError::PixelCount { .. }
            | ImageError::PreprocessingSyntax { .. }
            | ImageError::PreprocessingValue { .. }
            | ImageError::Encode { .. }) => Self::Image { code: other.code(), message },
        }
    }
}

impl From<AccessError> for ServiceError {
    fn from(error: AccessError) -> Self {
        let message = error.to_string();
        match error {
            AccessError::NotFound(id) => Self::KeyNotFound(id),
            AccessError::Revoked(_) => Self::KeyRevoked(message),
            AccessError::FirstKey => Self::FirstKey(message),
            AccessError::LastAdmin(_) => Self::LastAdminKey(message),
            AccessError::Full(_) => Self::Full(message),
            AccessError::Invalid { field, problem } => Self::Invalid { field, problem },
            AccessError::Inconsistent { .. } => Self::Damaged(message),
            AccessError::Storage(error) => error.into(),
        }
    }
}

impl From<RegistryError> for ServiceError {
    fn from(error: RegistryError) -> Self {
        let message = chain(&error);
        match error {
            RegistryError::Exists(name) => Self::ModelExists(name.to_string()),
            RegistryError::NotFound { name, there } => {
                let name: String = name.chars().take(64).collect();
                Self::ModelNotFound(format!("{name}`; there are `{there}"))
            }
            RegistryError::Reserved(_) => Self::Invalid { field: "name", problem: message },
            RegistryError::Deployed(name) => Self::ModelDeployed(name.to_string()),
            RegistryError::Refused(_) => Self::ModelRefused(message),
            RegistryError::TooLarge(_) => Self::ModelTooLarge(message),
            RegistryError::Memory { needed, available } => {
                Self::InsufficientMemory { needed, available }
            }
            RegistryError::Damaged { .. } => Self::ModelDamaged(message),
            RegistryError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Self::StorageFull(message)
            }
            RegistryError::Io { .. } => Self::Internal(message),
        }
    }
}

impl From<StorageError> for ServiceError {
    fn from(error: StorageError) -> Self {
        let message = chain(&error);
        match error {
            StorageError::InUse { .. } => Self::StoreInUse(message),
            StorageError::Full { available, needed, .. } => {
                Self::StorageFull(format!("{available} bytes are free and {needed} are needed"))
            }
            StorageError::Damaged { .. }
            | StorageError::OpenTimeout { .. }
            | StorageError::Format { .. }
            | StorageError::WrongMasterKey { .. }
            | StorageError::MasterKeyFormat { .. }
            | StorageError::MasterKeyCommand { .. }
            | StorageError::MasterKeyMode { .. } => Self::Damaged(message),
            StorageError::Backup { .. } => Self::Backup(message),
            StorageError::Stopped { .. }
            | StorageError::Io { .. }
            | StorageError::KeyDestroyed
            | StorageError::TooLarge { .. }
            | StorageError::Random => Self::Internal(message),
        }
    }
}

impl From<GalleryError> for ServiceError {
    fn from(error: GalleryError) -> Self {
        let message = error.to_string();
        let invalid = |field| Self::Invalid { field, problem: message.clone() };
        match error {
            GalleryError::GalleryExists(id) => Self::GalleryExists(id),
            GalleryError::GalleryNotFound(id) => Self::GalleryNotFound(id),
            GalleryError::SubjectNotFound(id) => Self::SubjectNotFound(id),
            GalleryError::SampleNotFound { subject, sample } => {
                Self::SampleNotFound { subject, sample }
            }
            GalleryError::SampleConflict { sample } => Self::SampleExists(sample),
            GalleryError::Erasing(id) => Self::Erasing(id),
            GalleryError::Fingerprint { got, expected } => {
                Self::ModelMismatch { gallery: expected.to_string(), serving: got.to_string() }
            }
            GalleryError::Attributes(error) => Self::Attributes(error),
            GalleryError::Consent(_) => invalid("consent"),
            GalleryError::ConsentRequired { .. } => Self::ConsentRequired(message),
            GalleryError::Limit { .. } => invalid("limit"),
            GalleryError::MeanOf { .. } => invalid("mean_of"),
            GalleryError::BatchTooLarge { .. } => invalid("samples"),
            GalleryError::TooLong { what, got, max } => Self::Invalid {
                field: what,
                problem: format!("takes {got} bytes, at most {max} are kept"),
            },
            GalleryError::ImageTooLarge { .. } => Self::ImageTooLarge(message),
            GalleryError::Gaps { .. } => Self::Gaps(message),
            GalleryError::SpaceTaken(_) | GalleryError::Dropping(_) => Self::DeploymentUnderWay,
            GalleryError::Full { .. } | GalleryError::TooManyGalleries { .. } => {
                Self::Full(message)
            }
            GalleryError::Storage(error) => error.into(),
            GalleryError::Inconsistent { .. } => Self::Damaged(message),
            GalleryError::Generation { .. }
            | GalleryError::Dimensions { .. }
            | GalleryError::GalleryDimensions { .. }
            | GalleryError::Quality { .. }
            | GalleryError::Index(_) => Self::Internal(message),
        }
    }
}

impl From<ModelError> for ServiceError {
    fn from(error: ModelError) -> Self {
        let message = chain(&error);
        match error {
            ModelError::Busy { queue } => Self::Busy { waiting: queue },
            ModelError::Stopped => Self::Stopping,
            ModelError::EmptyPrompt | ModelError::PromptTooLong { .. } => Self::Prompt(message),
            ModelError::Feature(_) => Self::Image { code: "no_feature", message },
            ModelError::File { .. }
            | ModelError::Config { .. }
            | ModelError::Checkpoint(_)
            | ModelError::Tokenizer(_)
            | ModelError::Tokens { .. }
            | ModelError::PixelCount { .. }
            | ModelError::Target { .. }
            | ModelError::Preprocessing(_)
            | ModelError::ImageSize { .. }
            | ModelError::Panicked(_)
            | ModelError::Batch(_)
            | ModelError::Reference(_)
            | ModelError::Fetch { .. }
            | ModelError::Changed { .. }
            | ModelError::Storage(_)
            | ModelError::Compute(_) => Self::Internal(message),
        }
    }
}

impl From<JobError> for ServiceError {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::NotFound(id) => Self::JobNotFound(id),
            JobError::NotCancellable { .. } => Self::JobNotCancellable(message),
            JobError::NotRetryable { .. } => Self::JobNotRetryable(message),
            JobError::QueueFull { waiting } => Self::QueueFull { waiting },
            JobError::TooLong { what, got } => Self::Invalid {
                field: what,
                problem: format!("takes {got} bytes, at most {MAX_DATA} are kept"),
            },
            JobError::PageToken => Self::Invalid {
                field: "page_token",
                problem: "is not one that a page gave".to_owned(),
            },
            JobError::Threads(_) => Self::Internal(message),
            JobError::Inconsistent { .. } => Self::Damaged(message),
            JobError::Storage(error) => error.into(),
        }
    }
}
