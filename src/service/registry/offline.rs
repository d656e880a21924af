use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use crate::domain::ModelName;
use crate::service::error::ServiceError;

use super::{Origin, RegisteredModel, Registry, RegistryError};

/// The registry of a data directory, without a server; one may run meanwhile.
#[derive(Debug)]
pub struct OfflineRegistry(Registry);

impl OfflineRegistry {
    /// Opens it to take models; the first import makes it.
    ///
    /// # Errors
    /// [`ServiceError`] when the folder cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, ServiceError> {
        Ok(Self(Registry::open(data_dir)?))
    }

    /// Opens that of a data directory that must be there, with models or without.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a folder that is not there or cannot be read: it does not pass for an empty one.
    pub fn existing(data_dir: &Path) -> Result<Self, ServiceError> {
        let models = data_dir.join("models");
        let read = |dir: &Path, may_lack: bool| match std::fs::read_dir(dir) {
            Err(error) if !(may_lack && error.kind() == ErrorKind::NotFound) => {
                let problem = format!("{} cannot be read: {error}", dir.display());
                Err(ServiceError::Invalid { field: "data_dir", problem })
            }
            Ok(_) | Err(_) => Ok(()),
        };
        read(data_dir, false)?;
        read(&models, true)?;
        Self::open(data_dir)
    }

    /// Every model, by name.
    #[must_use]
    pub fn list(&self) -> Vec<RegisteredModel> {
        self.0.list()
    }

    /// One model.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`].
    pub fn read(&self, name: &str) -> Result<RegisteredModel, ServiceError> {
        not_inside(name)?;
        Ok(self.0.read(name)?)
    }

    /// Takes a model's folder, a run's, or a tar archive.
    ///
    /// # Errors
    /// [`ServiceError::ModelExists`], [`ServiceError::ModelRefused`].
    pub fn import(&self, name: &str, from: &Path) -> Result<RegisteredModel, ServiceError> {
        let name = ModelName::new(name)?;
        if from.is_dir() {
            return Ok(self.0.import_directory(&name, from, Origin::Imported)?);
        }
        let archive = File::open(from).map_err(RegistryError::io("open the archive"))?;
        Ok(self.0.import_archive(&name, archive, u64::MAX)?)
    }

    /// Writes a model as a tar archive where the name ends in `.tar`, else as a folder. Neither may be there yet.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], [`ServiceError::ModelDamaged`], or what the system says.
    pub fn export(&self, name: &str, to: &Path) -> Result<(), ServiceError> {
        not_inside(name)?;
        let what = RegistryError::io("write the model");
        let export = self.0.export(name)?;
        if to.extension().is_none_or(|extension| extension != "tar") {
            return Ok(export.write_folder(to).map_err(what)?);
        }
        let file = File::create_new(to).map_err(&what)?;
        let written = export.write(&file).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half an archive is of no use; the error says why.
            let _ = std::fs::remove_file(to);
        }
        Ok(written.map_err(what)?)
    }

    /// Reads every file of a model again and compares.
    ///
    /// # Errors
    /// [`ServiceError::ModelDamaged`].
    pub fn verify(&self, name: &str) -> Result<RegisteredModel, ServiceError> {
        not_inside(name)?;
        Ok(self.0.verify(name)?)
    }

    /// Removes a model that nobody serves.
    ///
    /// # Errors
    /// [`ServiceError::ModelDeployed`], [`ServiceError::ModelNotRegistered`].
    pub fn delete(&self, name: &str) -> Result<(), ServiceError> {
        not_inside(name)?;
        Ok(self.0.delete(name)?)
    }
}

/// The model inside the program is there, and no registry has it.
fn not_inside(name: &str) -> Result<(), ServiceError> {
    if name == "nano" { Err(ServiceError::ModelNotRegistered(name.to_owned())) } else { Ok(()) }
}
