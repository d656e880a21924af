//! Embedding the files of a plan: in batches, with a cache, and with every refusal kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use crate::domain::Embedding;
use crate::evaluation::Vectors;
use crate::image::{DecodeLimits, QualityLimits, decode, gate};
use crate::model::Embedder;

use super::cache::Cache;
use super::plan::EvaluatedFile;
use super::{Cancel, EvaluateError, EvaluateEvent};

/// Pictures decoded and embedded at a time; bounds the memory.
const CHUNK: usize = 64;

/// A file that gave no embedding: a failure to acquire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The file's name.
    pub file: String,
    /// Whose hand it shows.
    pub subject: String,
    /// Why, in words.
    pub problem: String,
}

/// What a system makes of the files of a plan.
#[derive(Debug, Clone)]
pub(super) struct Embedded {
    /// One row for each file that was taken.
    pub(super) vectors: Arc<Vectors>,
    /// For each file its row; `None` where it was refused.
    pub(super) row_of: Vec<Option<usize>>,
    pub(super) refusals: Vec<Refusal>,
    /// Found in the cache.
    pub(super) cached: usize,
    pub(super) seconds: f64,
}

impl Embedded {
    /// What is known of each file, by row.
    pub(super) fn by_row(&self, of_files: &[u64]) -> Vec<u64> {
        let known = of_files.iter().zip(&self.row_of);
        known.filter(|(_, row)| row.is_some()).map(|(value, _)| *value).collect()
    }

    /// For each row the file it was made of.
    pub(super) fn files(&self) -> Vec<usize> {
        let taken = self.row_of.iter().enumerate().filter(|(_, row)| row.is_some());
        taken.map(|(file, _)| file).collect()
    }
}

/// Embeds every file, or finds it in the cache.
pub(super) fn embed_files(
    embedder: &Embedder,
    files: &[EvaluatedFile],
    cache: Option<&Path>,
    cancel: &Cancel,
    progress: &dyn Fn(EvaluateEvent),
) -> Result<Embedded, EvaluateError> {
    let started = Instant::now();
    let mut cache = cache.map(|dir| Cache::open(dir, embedder)).transpose()?;
    let mut found: Vec<Option<Embedding>> =
        files.iter().map(|file| cache.as_ref().and_then(|cache| cache.get(&file.sha256))).collect();
    let cached = found.iter().flatten().count();
    let missing: Vec<usize> = (0..files.len()).filter(|at| found[*at].is_none()).collect();
    let mut refusals = Vec::new();
    let mut done = cached;
    for chunk in missing.chunks(CHUNK) {
        let pixels: Vec<(usize, Result<Vec<f32>, String>)> =
            chunk.par_iter().map(|at| (*at, pixels(embedder, &files[*at].path))).collect();
        let (mut places, mut batch) = (Vec::new(), Vec::new());
        for (at, pixels) in pixels {
            match pixels {
                Ok(pixels) => {
                    places.push(at);
                    batch.push(pixels);
                }
                Err(problem) => refusals.push(refusal(&files[at], problem)),
            }
        }
        for (at, embedding) in places.into_iter().zip(embedder.embed_pixels(&batch)?) {
            match embedding {
                Ok(embedding) => {
                    if let Some(cache) = &mut cache {
                        cache.put(&files[at].sha256, &embedding);
                    }
                    found[at] = Some(embedding);
                }
                Err(error) => refusals.push(refusal(&files[at], error.to_string())),
            }
        }
        done += chunk.len();
        progress(EvaluateEvent::Embedded { done, total: files.len() });
        cancel.check()?;
    }
    if let Some(cache) = cache {
        cache.save()?;
    }
    embedded(found, refusals, cached, started)
}

pub(super) fn embedded(
    found: Vec<Option<Embedding>>,
    refusals: Vec<Refusal>,
    cached: usize,
    started: Instant,
) -> Result<Embedded, EvaluateError> {
    if let (true, Some(first)) = (found.iter().all(Option::is_none), refusals.first()) {
        return Err(EvaluateError::AllRefused {
            count: refusals.len(),
            file: first.file.clone(),
            problem: first.problem.clone(),
        });
    }
    let mut taken = 0..;
    let row_of = found.iter().map(|e| e.as_ref().and_then(|_| taken.next())).collect();
    let vectors = Arc::new(Vectors::from_embeddings(found.iter().flatten())?);
    Ok(Embedded { vectors, row_of, refusals, cached, seconds: started.elapsed().as_secs_f64() })
}

/// As an enrolment sees a file: limits, the quality gate, the model's preprocessing.
pub(super) fn pixels(embedder: &Embedder, path: &Path) -> Result<Vec<f32>, String> {
    let limits = DecodeLimits::default();
    let bytes = crate::service::tools::read_image(path, limits.max_file_bytes)
        .map_err(|error| crate::service::error::chain(&error))?;
    let picture = decode(&bytes, &limits).map_err(|error| error.to_string())?;
    gate(&picture, &QualityLimits::default()).map_err(|error| error.to_string())?;
    Ok(embedder.preprocessing().apply(&picture))
}

/// A problem may name the file by its whole path, and a report says nothing of this machine.
fn refusal(file: &EvaluatedFile, problem: String) -> Refusal {
    let problem = problem.replace(&file.path.display().to_string(), &file.name());
    Refusal { file: file.name(), subject: file.subject.clone(), problem }
}
