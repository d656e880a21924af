//! Models as callers know them: the one inside the binary, those of the registry, and the names for what they do.

use std::io::Read;

use tokio::sync::mpsc;

use crate::domain::ModelName;

use super::error::ServiceError;
use super::registry::{Origin, RegisteredModel};
use super::sources::resolve;
use super::views::ModelView;
use super::{Service, blocking};

/// Parts of a body that wait for the disk.
const WAITING: usize = 8;
/// Bytes of an archive's part.
const PART: usize = 64 * 1024;

/// A body on its way to the disk.
pub struct Upload {
    parts: mpsc::Receiver<Vec<u8>>,
    part: Vec<u8>,
    at: usize,
}

impl Upload {
    /// An upload and where its parts go, in order. It ends when the other side is dropped.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Vec<u8>>, Self) {
        let (sender, parts) = mpsc::channel(WAITING);
        (sender, Self { parts, part: Vec::new(), at: 0 })
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.part.len() {
            match self.parts.blocking_recv() {
                Some(part) => (self.part, self.at) = (part, 0),
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.part.len() - self.at);
        buffer[..read].copy_from_slice(&self.part[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// Writes parts for somebody who sends them on; fails when they have left.
struct Parts {
    sender: mpsc::Sender<Vec<u8>>,
    part: Vec<u8>,
}

impl std::io::Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let part = std::mem::take(&mut self.part);
        let left = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        if part.is_empty() { Ok(()) } else { self.sender.blocking_send(part).map_err(|_| left()) }
    }
}

impl Service {
    /// What a name means: `champion`, `previous` and `challenger` are what they are now.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`] for one of those that there is none of.
    pub fn alias(&self, name: &str) -> Result<String, ServiceError> {
        let table = &self.0.workshop.deployments;
        let found = match name {
            "champion" => Some(table.load().live.batcher.embedder().name().to_owned()),
            "previous" => {
                table.load().previous.as_ref().map(|p| p.batcher.embedder().name().to_owned())
            }
            "challenger" => table.challenger(),
            other => Some(other.to_owned()),
        };
        found.ok_or_else(|| ServiceError::ModelNotFound(name.to_owned()))
    }

    /// Every model there is: the one inside the binary, those of the registry, and what serves from elsewhere.
    #[must_use]
    pub fn models(&self) -> Vec<ModelView> {
        let deployment = self.deployment_now();
        let registered = self.0.workshop.registry.list();
        let mut models: Vec<ModelView> =
            deployment.in_use().map(|serving| serving.view()).collect();
        let nano = self.0.nano.clone();
        for view in std::iter::once(nano).chain(registered.into_iter().map(ModelView::from)) {
            match models
                .iter_mut()
                .find(|known| known.name == view.name && known.fingerprint == view.fingerprint)
            {
                Some(known) => known.registered = view.registered,
                None => models.push(view),
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// One model, by its name or by what it does.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`].
    pub fn model(&self, name: &str) -> Result<ModelView, ServiceError> {
        let name = self.alias(name)?;
        let found = self.models().into_iter().find(|model| model.name == name);
        found.ok_or_else(|| ServiceError::ModelNotFound(name.chars().take(64).collect()))
    }

    /// Takes a model from a tar archive.
    ///
    /// # Errors
    /// [`ServiceError::Id`], [`ServiceError::ModelExists`], [`ServiceError::ModelRefused`],
    /// [`ServiceError::ModelTooLarge`], [`ServiceError::Busy`].
    pub async fn import_model(
        &self,
        name: &str,
        upload: Upload,
    ) -> Result<RegisteredModel, ServiceError> {
        let name = ModelName::new(name)?;
        let permit = self.0.importing.enter().await?;
        let service = self.clone();
        blocking(move || {
            let _permit = permit;
            let workshop = &service.0.workshop;
            Ok(workshop.registry.import_archive(&name, upload, workshop.max_model_bytes)?)
        })
        .await
    }

    /// Takes a model from a folder of a data root.
    ///
    /// # Errors
    /// As [`Service::import_model`], and [`ServiceError::Invalid`] for a folder that may not be named.
    pub async fn import_model_from(
        &self,
        name: &str,
        directory: &str,
    ) -> Result<RegisteredModel, ServiceError> {
        let name = ModelName::new(name)?;
        let permit = self.0.importing.enter().await?;
        let (service, directory) = (self.clone(), directory.to_owned());
        blocking(move || {
            let _permit = permit;
            let workshop = &service.0.workshop;
            let from = resolve(&workshop.data_roots, "directory", &directory)?;
            Ok(workshop.registry.import_directory(&name, &from, Origin::Imported)?)
        })
        .await
    }

    /// A model as the parts of a tar archive.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`].
    pub async fn export_model(&self, name: &str) -> Result<mpsc::Receiver<Vec<u8>>, ServiceError> {
        let name = self.alias(name)?;
        let permit = self.0.importing.enter().await?;
        let registry = self.0.workshop.registry.clone();
        registry.read(&name)?;
        let (sender, parts) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut writer = Parts { sender, part: Vec::new() };
            // Who asked sees an archive that ends early.
            if let Err(error) = registry.export(&name, &mut writer) {
                tracing::warn!(%error, "a model was not exported to its end");
            }
        });
        Ok(parts)
    }

    /// Reads every file of a model again and compares.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelDamaged`].
    pub async fn verify_model(&self, name: &str) -> Result<RegisteredModel, ServiceError> {
        let name = self.alias(name)?;
        let permit = self.0.importing.enter().await?;
        let registry = self.0.workshop.registry.clone();
        blocking(move || {
            let _permit = permit;
            Ok(registry.verify(&name)?)
        })
        .await
    }

    /// Removes a model that nobody serves.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelDeployed`].
    pub async fn delete_model(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let workshop = &service.0.workshop;
            let serves = service.deployment_now().in_use().any(|s| s.is_registered(&name));
            if serves || workshop.deployments.names(&name) {
                return Err(ServiceError::ModelDeployed(name));
            }
            Ok(workshop.registry.delete(&name)?)
        })
        .await
    }
}
