use std::fs::File;
use std::path::Path;

use crate::domain::ModelName;
use crate::service::error::ServiceError;

use super::{Origin, RegisteredModel, Registry, RegistryError};

/// The registry of a data directory, without a server; one may run meanwhile.
#[derive(Debug)]
pub struct OfflineRegistry(Registry);

impl OfflineRegistry {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// [`ServiceError`] when the folder cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, ServiceError> {
        Ok(Self(Registry::open(data_dir)?))
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

    /// Writes a model as a tar archive, which must not be there yet.
    ///
    /// # Errors
    /// [`ServiceError::ModelNotFound`], or what the system says.
    pub fn export(&self, name: &str, to: &Path) -> Result<(), ServiceError> {
        self.0.read(name)?;
        let file = File::create_new(to).map_err(RegistryError::io("make the archive"))?;
        self.0.export(name, &file)?;
        file.sync_all().map_err(RegistryError::io("write the archive"))?;
        Ok(())
    }

    /// Reads every file of a model again and compares.
    ///
    /// # Errors
    /// [`ServiceError::ModelDamaged`].
    pub fn verify(&self, name: &str) -> Result<RegisteredModel, ServiceError> {
        Ok(self.0.verify(name)?)
    }

    /// Removes a model that nobody serves.
    ///
    /// # Errors
    /// [`ServiceError::ModelDeployed`].
    pub fn delete(&self, name: &str) -> Result<(), ServiceError> {
        Ok(self.0.delete(name)?)
    }
}
