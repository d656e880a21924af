use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::model::stream::StoredRows;
use crate::model::{CheckpointError, ModelError, Parameters};

/// Where an engine's parameters come from, on several threads at a time.
pub(in crate::model) trait Source: Sync {
    /// The values of a parameter by its name.
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError>;

    /// The rows of a large parameter of which few are needed at a time; `None` where it can only be held whole.
    fn rows(&self, _name: &str, _width: usize) -> Result<Option<StoredRows>, ModelError> {
        Ok(None)
    }
}

impl Source for Parameters {
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Self::values(self, name)
    }
}

/// Parameters at hand, each of which is taken once.
pub(in crate::model) struct Taken(pub(in crate::model) Mutex<BTreeMap<String, Vec<f32>>>);

impl Source for Taken {
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let missing = || CheckpointError::Missing(vec![name.to_owned()]);
        Ok(self.0.lock().remove(name).ok_or_else(missing)?)
    }
}
