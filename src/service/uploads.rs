//! Labelled images that were uploaded, to train on and to evaluate with.

use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

use crate::dataset::{self, LabelledImage};
use crate::domain::{ModelName, now_ms};
use crate::storage::file::{create_private_dir, write_atomic};

use super::Service;
use super::archive::{ArchiveError, ArchiveLimits, unpack};
use super::audit::Deed;
use super::error::{ServiceError, chain};
use super::models::Upload;
use super::workshop::Workshop;

/// Folder of the uploads, in the data directory.
const FOLDER: &str = "datasets";
const UNFINISHED: &str = ".unfinished-";
/// Most files of an upload.
const MOST_ENTRIES: usize = 1_000_000;

/// Labelled images that were uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
pub struct DatasetView {
    /// Its name.
    pub name: String,
    /// Images that can be trained on.
    pub images: usize,
    /// Their subjects.
    pub subjects: usize,
    /// When it came, milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Workshop {
    /// Removes what interrupted uploads left; nobody else has this data directory open.
    pub(super) fn sweep_uploads(&self) {
        let entries = std::fs::read_dir(self.datasets()).into_iter().flatten().flatten();
        let left = entries.filter(|e| e.file_name().to_string_lossy().starts_with(UNFINISHED));
        for entry in left {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, "what an interrupted upload left is not removed");
            }
        }
    }

    fn datasets(&self) -> PathBuf {
        self.data_dir.join(FOLDER)
    }

    /// The folder of an upload.
    pub(super) fn dataset(&self, name: &str) -> Result<PathBuf, ServiceError> {
        let missing = || ServiceError::DatasetNotFound(name.chars().take(64).collect());
        let name = ModelName::new(name).map_err(|_| missing())?;
        let dir = self.datasets().join(name.as_str()).join("files");
        if dir.is_dir() { Ok(dir) } else { Err(missing()) }
    }
}

impl Service {
    /// Takes labelled images from a tar archive, in any layout that can be trained on. They lie in the data directory as they
    /// are, for its owner only, until they are deleted.
    ///
    /// # Errors
    /// [`ServiceError::Id`], [`ServiceError::DatasetExists`], [`ServiceError::DatasetRefused`],
    /// [`ServiceError::DatasetTooLarge`], [`ServiceError::StorageFull`], [`ServiceError::Busy`].
    pub async fn upload_dataset(
        &self,
        name: &str,
        upload: Upload,
    ) -> Result<DatasetView, ServiceError> {
        let name = ModelName::new(name)?;
        let permit = self.0.importing.enter().await?;
        let service = self.clone();
        let deed = Deed::new("dataset.upload").about(&name);
        self.change(deed, move || {
            let _permit = permit;
            let workshop = &service.0.workshop;
            let root = workshop.datasets();
            create_private_dir(&root)?;
            let dir = root.join(name.as_str());
            if dir.exists() {
                return Err(ServiceError::DatasetExists(name.to_string()));
            }
            let aside = root.join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
            let taken = take(workshop, &name, upload, &aside);
            let placed = taken.and_then(|view| match placed(&aside, &dir, &root) {
                Ok(()) => Ok(view),
                Err(_) if dir.exists() => Err(ServiceError::DatasetExists(name.to_string())),
                Err(error) => Err(ServiceError::Internal(error.to_string())),
            });
            if placed.is_err() {
                let _ = std::fs::remove_dir_all(&aside);
            }
            placed
        })
        .await
    }

    /// Every upload, by name.
    #[must_use]
    pub fn datasets(&self) -> Vec<DatasetView> {
        let entries = std::fs::read_dir(self.0.workshop.datasets()).into_iter().flatten().flatten();
        let read = |entry: std::fs::DirEntry| -> Option<DatasetView> {
            serde_json::from_slice(&std::fs::read(entry.path().join("dataset.json")).ok()?).ok()
        };
        let named = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
        let mut found: Vec<DatasetView> = named.filter_map(read).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// One upload.
    ///
    /// # Errors
    /// [`ServiceError::DatasetNotFound`].
    pub fn dataset(&self, name: &str) -> Result<DatasetView, ServiceError> {
        let found = self.datasets().into_iter().find(|dataset| dataset.name == name);
        found.ok_or_else(|| ServiceError::DatasetNotFound(name.chars().take(64).collect()))
    }

    /// Removes an upload that no job works with.
    ///
    /// # Errors
    /// [`ServiceError::DatasetNotFound`], [`ServiceError::DatasetInUse`].
    pub async fn delete_dataset(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        let deed = Deed::erasing("dataset.delete").about(&name);
        self.change(deed, move || {
            let files = service.0.workshop.dataset(&name)?;
            let named = |input: &serde_json::Value| input["data"]["dataset"] == name.as_str();
            if service.0.jobs.any_under_way(named) {
                return Err(ServiceError::DatasetInUse(name));
            }
            let failed = |error: std::io::Error| ServiceError::Internal(error.to_string());
            let root = service.0.workshop.datasets();
            let aside = root.join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
            let dir = files.parent().map(Path::to_path_buf).unwrap_or(files);
            std::fs::rename(dir, &aside).map_err(failed)?;
            std::fs::remove_dir_all(&aside).map_err(failed)
        })
        .await
    }
}

/// Gives an upload its name; durable when it returns. One call for all of the files: there may be a million.
fn placed(aside: &Path, dir: &Path, root: &Path) -> std::io::Result<()> {
    let root = std::fs::File::open(root)?;
    rustix::fs::syncfs(&root)?;
    std::fs::rename(aside, dir)?;
    root.sync_all()
}

fn take(
    workshop: &Workshop,
    name: &ModelName,
    upload: Upload,
    aside: &Path,
) -> Result<DatasetView, ServiceError> {
    let files = aside.join("files");
    create_private_dir(&files)?;
    let limits = ArchiveLimits { bytes: workshop.max_dataset_bytes, entries: MOST_ENTRIES };
    unpack(upload, &files, limits).map_err(|error| match error {
        ArchiveError::TooLarge { .. } => ServiceError::DatasetTooLarge(error.to_string()),
        ArchiveError::Refused(_) => ServiceError::DatasetRefused(error.to_string()),
        ArchiveError::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            ServiceError::StorageFull(source.to_string())
        }
        ArchiveError::Io(_) => ServiceError::Internal(chain(&error)),
    })?;
    // Where the files lie is nobody's business.
    let refused = |_| {
        ServiceError::DatasetRefused(
            "the archive holds no data set that can be trained on: 11k Hands, HD, or a folder for each subject".to_owned(),
        )
    };
    let images = dataset::read_to_train(&files).map_err(refused)?;
    only_own_files(&files, &images)?;
    let mut subjects: Vec<String> = images.iter().map(|image| image.subject.to_string()).collect();
    subjects.sort();
    subjects.dedup();
    let view = DatasetView {
        name: name.to_string(),
        images: images.len(),
        subjects: subjects.len(),
        created_at_ms: now_ms(),
    };
    let text = serde_json::to_vec(&view).map_err(|e| ServiceError::Internal(e.to_string()))?;
    write_atomic(&aside.join("dataset.json"), &text)?;
    Ok(view)
}

/// Refuses images that are none of the plain files of the upload: a label file names what its author likes.
fn only_own_files(files: &Path, images: &[LabelledImage]) -> Result<(), ServiceError> {
    let is_own = |image: &LabelledImage| {
        let below = image.path.strip_prefix(files).ok();
        below.is_some_and(|below| below.components().all(|c| matches!(c, Component::Normal(_))))
            && image.path.symlink_metadata().is_ok_and(|about| about.is_file())
    };
    match images.iter().find(|image| !is_own(image)) {
        None => Ok(()),
        Some(image) => {
            let name = image.path.file_name().unwrap_or_default().to_string_lossy();
            let name: String = name.chars().take(100).collect();
            Err(ServiceError::DatasetRefused(format!(
                "the archive holds no image {name:?} that its label file names"
            )))
        }
    }
}
