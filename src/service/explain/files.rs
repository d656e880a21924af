use std::path::Path;

use npyz::WriterBuilder as _;

use crate::storage::file::write_atomic;

use super::super::error::ServiceError;
use super::Explanation;

impl Explanation {
    /// The map as a NumPy file: `[rows, cols]`, 32-bit floats.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] if the encoder fails.
    pub fn npy(&self) -> Result<Vec<u8>, ServiceError> {
        let answer = &self.answer;
        let failed = |error: std::io::Error| ServiceError::Internal(error.to_string());
        let mut bytes = Vec::new();
        let shape = [answer.rows as u64, answer.cols as u64];
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(&mut bytes)
            .begin_nd()
            .map_err(failed)?;
        writer.extend(answer.map.iter().flatten().copied()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }

    /// Writes `explanation.json`, `map.npy` and, where there is one, `overlay.png` into a folder, which is made.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for a folder that cannot be made, and what the system says of a file.
    pub fn write(&self, dir: &Path) -> Result<(), ServiceError> {
        std::fs::create_dir_all(dir).map_err(|error| ServiceError::Invalid {
            field: "out",
            problem: format!("{} cannot be made: {error}", dir.display()),
        })?;
        let mut json = serde_json::to_vec_pretty(&self.answer)
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        json.push(b'\n');
        write_atomic(&dir.join("map.npy"), &self.npy()?)?;
        if let Some(overlay) = &self.overlay {
            write_atomic(&dir.join("overlay.png"), overlay)?;
        }
        // Last: who sees it finds the others.
        write_atomic(&dir.join("explanation.json"), &json)?;
        Ok(())
    }
}
