//! Why a training run failed, in words for those who read jobs: without paths of the machine and ids of enrolled people.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;

use crate::jobs::JobFailure;

use super::error::{ServiceError, chain};
use super::fine_tune::{FineTuneError, TrainingData};
use super::sources::ImageSource;

/// Why labelled images cannot be had, without the ids of enrolled people: a job is read by others than a gallery.
pub(super) fn data_failure(error: &ServiceError, data: &ImageSource) -> JobFailure {
    match (error, data) {
        (ServiceError::NoConsent(_), _) => JobFailure::new("no_training_consent", chain(error)),
        (ServiceError::GalleryNotFound(_), _)
        | (_, ImageSource::Directory(_) | ImageSource::Dataset(_)) => {
            JobFailure::new("dataset", chain(error))
        }
        (_, ImageSource::Gallery(_)) => {
            JobFailure::new("dataset", "the images of the gallery cannot be listed")
        }
    }
}

/// Whether the disk was full, or nearly so, wherever that was found.
pub(super) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| Error::source(*cause));
    causes.any(|cause| {
        // Errors of the store share the system's.
        let shared = cause.downcast_ref::<Arc<std::io::Error>>().map(|error| &**error);
        let of_system = shared.or_else(|| cause.downcast_ref());
        of_system.is_some_and(|error| error.kind() == ErrorKind::StorageFull)
    })
}

pub(super) fn fine_tune_failure(error: &FineTuneError, data: &TrainingData) -> JobFailure {
    if is_full(error) {
        let about = "the disk is full, or would be: free some of it, and have the run try again";
        return JobFailure::new("storage_full", about);
    }
    let code = match error {
        FineTuneError::Dataset(_) | FineTuneError::NoImages(_) | FineTuneError::Card(_) => {
            "dataset"
        }
        FineTuneError::Training(_) | FineTuneError::NoValidation(_) => "training",
        FineTuneError::Model(_) | FineTuneError::TrainedOn(_) => "model",
        FineTuneError::Device(_) => "device",
        FineTuneError::Storage(_)
        | FineTuneError::Folder { .. }
        | FineTuneError::NotEmpty(_)
        | FineTuneError::Disk(_) => "storage",
    };
    // Neither paths of the machine nor ids of enrolled people.
    let message = match (error, data) {
        (FineTuneError::Dataset(_), _) => {
            "the folder holds no data set that can be trained on: see `handclip dataset inspect`"
                .to_owned()
        }
        (FineTuneError::TrainedOn(_), _) => {
            "whom the model was trained on is not known: its list cannot be read".to_owned()
        }
        (FineTuneError::Training(_) | FineTuneError::Card(_), TrainingData::Gallery(_)) => {
            "the images of the gallery cannot be trained on by this recipe".to_owned()
        }
        (
            FineTuneError::Storage(_)
            | FineTuneError::Folder { .. }
            | FineTuneError::NotEmpty(_)
            | FineTuneError::Disk(_),
            _,
        ) => "the run's folder cannot be written".to_owned(),
        (other, _) => chain(other),
    };
    JobFailure::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GalleryId, SubjectId};
    use crate::storage::StorageError;
    use crate::training::TrainingError;

    #[test]
    fn a_failure_to_list_a_gallery_names_nobody() {
        let anna = SubjectId::new("anna").unwrap();
        let gallery = ImageSource::Gallery("g".to_owned());
        for error in
            [ServiceError::SubjectNotFound(anna.clone()), ServiceError::Erasing(anna.clone())]
        {
            let failure = data_failure(&error, &gallery);
            assert_eq!(failure.code, "dataset");
            assert!(!failure.message.contains("anna"), "{}", failure.message);
        }
        let missing = ServiceError::GalleryNotFound(GalleryId::new("g").unwrap());
        assert!(data_failure(&missing, &gallery).message.contains("`g`"));
    }

    #[test]
    fn a_full_disk_is_told_apart_wherever_it_is_found() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let path = || std::path::PathBuf::from("x");
        let in_callback = TrainingError::Callback(Box::new(FineTuneError::Disk(full())));
        let in_write = StorageError::Io { action: "write", path: path(), source: full().into() };
        let data = TrainingData::Directory(path());
        for (error, code) in [
            (FineTuneError::Disk(full()), "storage_full"),
            (FineTuneError::Training(in_callback), "storage_full"),
            (FineTuneError::Training(TrainingError::Storage(in_write)), "storage_full"),
            (FineTuneError::Folder { path: path(), source: full() }, "storage_full"),
            (FineTuneError::NotEmpty(path()), "storage"),
            (FineTuneError::Training(TrainingError::NoPrompts), "training"),
        ] {
            assert_eq!(fine_tune_failure(&error, &data).code, code, "{error}");
        }
    }
}
