use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::dataset::LabelledImage;
use crate::domain::Embedding;
use crate::image::{
    Corruption, DecodeLimits, ImageError, Picture, QualityLimits, Severity, corrupt, decode, gate,
};
use crate::model::Embedder;

use super::RobustnessError;

/// Pictures decoded at a time; bounds the memory.
const CHUNK: usize = 16;

/// Embeddings of the data set's pictures, by their place in it: `None` for what was not looked at, and for what
/// could not be decoded or the quality gate refused.
pub(super) type Look = Vec<Option<Embedding>>;

/// Looks at pictures through the quality gate and the model's preprocessing, as an enrolment does.
pub(super) struct Studio<'a> {
    embedder: &'a Embedder,
    images: &'a [LabelledImage],
    seed: u64,
    done: AtomicUsize,
    progress: &'a (dyn Fn(usize) + Sync),
}

impl<'a> Studio<'a> {
    /// `progress` gets how many pictures were looked at.
    pub(super) fn new(
        embedder: &'a Embedder,
        images: &'a [LabelledImage],
        seed: u64,
        progress: &'a (dyn Fn(usize) + Sync),
    ) -> Self {
        Self { embedder, images, seed, done: AtomicUsize::new(0), progress }
    }

    pub(super) fn clean(&self, on: &[usize]) -> Result<Look, RobustnessError> {
        let mut looks = self.looks(on, 1, |_, picture| Ok(vec![picture.clone()]))?;
        Ok(looks.pop().unwrap_or_default())
    }

    /// One look for each severity: a picture is decoded once for all of them.
    pub(super) fn damaged(
        &self,
        on: &[usize],
        corruption: Corruption,
        severities: &[Severity],
    ) -> Result<Vec<Look>, RobustnessError> {
        self.looks(on, severities.len(), |at, picture| {
            // A draw of its own for each picture, the same whatever else is looked at.
            let seed = self.seed.wrapping_add((at as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
            severities
                .iter()
                .map(|severity| corrupt(picture, corruption, *severity, seed))
                .collect()
        })
    }

    /// `change` makes `count` pictures of one.
    fn looks(
        &self,
        on: &[usize],
        count: usize,
        change: impl Fn(usize, &Picture) -> Result<Vec<Picture>, ImageError> + Sync,
    ) -> Result<Vec<Look>, RobustnessError> {
        let mut looks: Vec<Look> = vec![vec![None; self.images.len()]; count];
        for chunk in on.chunks(CHUNK) {
            let seen: Vec<Vec<Option<Vec<f32>>>> = chunk
                .par_iter()
                .map(|at| {
                    let path = &self.images[*at].path;
                    let bytes = std::fs::read(path)
                        .map_err(|source| RobustnessError::Read { path: path.clone(), source })?;
                    // A failure to acquire, as in every evaluation: a miss, and no reason to stop.
                    let Ok(picture) = decode(&bytes, &DecodeLimits::default()) else {
                        return Ok(vec![None; count]);
                    };
                    let changed = change(*at, &picture).map_err(|source| {
                        RobustnessError::Picture { path: path.clone(), source }
                    })?;
                    Ok(changed.iter().map(|picture| self.pixels(picture)).collect())
                })
                .collect::<Result<_, RobustnessError>>()?;
            let (mut pixels, mut places) = (Vec::new(), Vec::new());
            for (at, seen) in chunk.iter().zip(seen) {
                for (look, one) in seen.into_iter().enumerate() {
                    if let Some(one) = one {
                        pixels.push(one);
                        places.push((look, *at));
                    }
                }
            }
            for ((look, at), embedding) in
                places.into_iter().zip(self.embedder.embed_pixels(&pixels)?)
            {
                looks[look][at] = embedding.ok();
            }
            let more = chunk.len() * count;
            (self.progress)(self.done.fetch_add(more, Ordering::Relaxed) + more);
        }
        Ok(looks)
    }

    /// `None` where the quality gate refuses the picture.
    fn pixels(&self, picture: &Picture) -> Option<Vec<f32>> {
        gate(picture, &QualityLimits::default()).ok()?;
        Some(self.embedder.preprocessing().apply(picture))
    }
}
