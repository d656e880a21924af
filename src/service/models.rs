//! Models as callers know them: the one inside the binary, those of the registry, and the names for what they do.

use std::io::{ErrorKind, Read};
use std::path::Path;

use tokio::sync::mpsc;

use crate::domain::ModelName;
use crate::model::in_precision;

use super::audit::Deed;
use super::error::ServiceError;
use super::registry::RegisteredModel;
use super::sources::{is_inside, resolve};
use super::views::ModelView;
use super::{Service, blocking};

/// Parts of a body that wait for the disk.
const WAITING: usize = 8;
/// Bytes of an archive's part.
const PART: usize = 64 * 1024;

/// A part of a body that is on its way to the disk.
#[derive(Debug)]
pub enum ArchivePart {
    /// Some of it.
    Bytes(Vec<u8>),
    /// All of it was sent. Without this the sender broke off, whatever came before looks like.
    End,
}

/// A body on its way to the disk.
pub struct Upload {
    parts: mpsc::Receiver<ArchivePart>,
    part: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Upload {
    /// An upload and where its parts go, in order.
    #[must_use]
    pub fn new() -> (mpsc::Sender<ArchivePart>, Self) {
        let (sender, parts) = mpsc::channel(WAITING);
        (sender, Self { parts, part: Vec::new(), at: 0, ended: false })
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.part.len() {
            if self.ended {
                return Ok(0);
            }
            match self.parts.blocking_recv() {
                Some(ArchivePart::Bytes(part)) => (self.part, self.at) = (part, 0),
                Some(ArchivePart::End) => self.ended = true,
                None => {
                    let about = "the upload broke off";
                    return Err(std::io::Error::new(ErrorKind::UnexpectedEof, about));
                }
            }
        }
        let read = buffer.len().min(self.part.len() - self.at);
        buffer[..read].copy_from_slice(&self.part[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// An archive on its way to whoever asked for it.
pub type Archive = mpsc::Receiver<Result<Vec<u8>, ServiceError>>;

/// Writes parts for somebody who sends them on; fails when they have left.
pub(super) struct Parts {
    sender: mpsc::Sender<Result<Vec<u8>, ServiceError>>,
    part: Vec<u8>,
}

impl Parts {
    /// Where parts go, in order, and who takes them.
    pub(super) fn channel() -> (Self, Archive) {
        let (sender, parts) = mpsc::channel(WAITING);
        (Self { sender, part: Vec::new() }, parts)
    }

    /// Has whoever takes the parts know that there will not be all of them.
    pub(super) fn fail(self, error: ServiceError) {
        // Where they left nobody hears it.
        let _ = self.sender.blocking_send(Err(error));
    }
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
        let left = || std::io::Error::from(ErrorKind::BrokenPipe);
        if part.is_empty() {
            Ok(())
        } else {
            self.sender.blocking_send(Ok(part)).map_err(|_| left())
        }
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
    ///
    /// # Errors
    /// [`ServiceError::Stopping`].
    pub async fn models(&self) -> Result<Vec<ModelView>, ServiceError> {
        let service = self.clone();
        blocking(move || Ok(service.all_models())).await
    }

    /// The same, with the files of the registry read here.
    fn all_models(&self) -> Vec<ModelView> {
        let deployment = self.deployment_now();
        let registered = self.0.workshop.registry.list();
        let mut models: Vec<ModelView> =
            deployment.in_use().map(|serving| serving.view()).collect();
        let nano = self.0.nano.clone();
        let precision = self.0.workshop.deployments.precision();
        for view in std::iter::once(nano).chain(registered.into_iter().map(ModelView::from)) {
            // One that serves may keep its weights in another precision than its files do.
            let as_served = in_precision(view.fingerprint, precision);
            match models.iter_mut().find(|known| {
                let same = [view.fingerprint, as_served].contains(&known.fingerprint);
                known.name == view.name && same
            }) {
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
    pub async fn model(&self, name: &str) -> Result<ModelView, ServiceError> {
        let name = self.alias(name)?;
        let found = self.models().await?.into_iter().find(|model| model.name == name);
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
        let deed = Deed::new("model.import").about(&name);
        self.change(deed, move || {
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
        let deed = Deed::new("model.import").about(&name);
        self.change(deed, move || {
            let _permit = permit;
            let workshop = &service.0.workshop;
            let from = resolve(&workshop.data_roots, "directory", &directory)?;
            let may_read = |path: &Path| is_inside(&workshop.data_roots, path);
            let max = workshop.max_model_bytes;
            let registry = &workshop.registry;
            Ok(registry.import_named_directory(&name, &from, max, &may_read)?)
        })
        .await
    }

    /// A model of the registry, by its name or by what it does.
    async fn registered(&self, name: &str) -> Result<ModelName, ServiceError> {
        let view = self.model(name).await?;
        let model = view.registered.ok_or(ServiceError::ModelNotRegistered(view.name))?;
        Ok(model.name)
    }

    /// A model's name, and the model as the parts of a tar archive. A part that is an error is the last one.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelNotRegistered`], [`ServiceError::ModelDamaged`],
    /// [`ServiceError::Busy`].
    pub async fn export_model(&self, name: &str) -> Result<(String, Archive), ServiceError> {
        let name = self.registered(name).await?;
        let permit = self.0.importing.enter().await?;
        let registry = self.0.workshop.registry.clone();
        let named = name.to_string();
        let export = blocking(move || Ok(registry.export(&named)?)).await?;
        let (mut writer, parts) = Parts::channel();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if let Err(error) = export.write(&mut writer) {
                // Whoever asked must not take what came for all of it.
                tracing::warn!(%error, "a model was not exported to its end");
                writer.fail(ServiceError::Internal("the model was not exported to its end".into()));
            }
        });
        Ok((name.to_string(), parts))
    }

    /// Reads every file of a model again and compares.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelNotRegistered`], [`ServiceError::ModelDamaged`].
    pub async fn verify_model(&self, name: &str) -> Result<RegisteredModel, ServiceError> {
        let name = self.registered(name).await?;
        let permit = self.0.importing.enter().await?;
        let registry = self.0.workshop.registry.clone();
        blocking(move || {
            let _permit = permit;
            let _held = registry.hold(name.as_str())?;
            Ok(registry.verify(name.as_str())?)
        })
        .await
    }

    /// Removes a model that nobody serves.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelNotRegistered`], [`ServiceError::ModelDeployed`].
    pub async fn delete_model(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        let deed = Deed::erasing("model.delete").about(&name);
        self.change(deed, move || {
            if name == service.0.nano.name {
                return Err(ServiceError::ModelNotRegistered(name));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_broke_off_does_not_end() {
        let (sender, mut upload) = Upload::new();
        sender.try_send(ArchivePart::Bytes(b"ab".to_vec())).unwrap();
        sender.try_send(ArchivePart::Bytes(Vec::new())).unwrap();
        sender.try_send(ArchivePart::Bytes(b"c".to_vec())).unwrap();
        sender.try_send(ArchivePart::End).unwrap();
        let mut bytes = Vec::new();
        upload.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"abc");

        let (sender, mut upload) = Upload::new();
        sender.try_send(ArchivePart::Bytes(b"ab".to_vec())).unwrap();
        drop(sender);
        assert_eq!(
            upload.read_to_end(&mut Vec::new()).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
    }
}
