use rayon::prelude::*;

use super::{Entry, EvaluationError, Session, Vectors};
use crate::tensor::Panels;

/// Similarities held at a time by one thread, as a number of values: 4 MiB.
const BLOCK: usize = 1 << 20;
/// Most probes in a block.
const ROWS: usize = 192;

/// What is compared with what: a session over embeddings.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    pub(super) session: &'a Session,
    vectors: &'a Vectors,
    captures: Option<&'a [u64]>,
}

impl<'a> Trial<'a> {
    /// Compares every probe of `session` with its whole gallery; entries name rows of `vectors`.
    ///
    /// # Errors
    /// [`EvaluationError::NoSuchRow`].
    pub fn new(vectors: &'a Vectors, session: &'a Session) -> Result<Self, EvaluationError> {
        let rows = vectors.len();
        let all = session.gallery.iter().chain(&session.probes);
        match all.map(|entry| entry.row).find(|row| *row >= rows) {
            Some(row) => Err(EvaluationError::NoSuchRow { row, rows }),
            None => Ok(Self { session, vectors, captures: None }),
        }
    }

    /// Leaves out, probe by probe, the gallery samples that have the probe's label and its capture.
    /// captures: one number for every row of the embeddings.
    ///
    /// # Errors
    /// [`EvaluationError::Captures`].
    pub fn without_same_capture(self, captures: &'a [u64]) -> Result<Self, EvaluationError> {
        let rows = self.vectors.len();
        if captures.len() != rows {
            return Err(EvaluationError::Captures { got: captures.len(), rows });
        }
        Ok(Self { captures: Some(captures), ..self })
    }

    /// Whether the gallery sample counts for the probe.
    pub(super) fn counts(&self, probe: Entry, sample: Entry) -> bool {
        self.captures.is_none_or(|captures| {
            probe.label != sample.label || captures[probe.row] != captures[sample.row]
        })
    }

    /// Whether any gallery sample may not count.
    pub(super) fn filters(&self) -> bool {
        self.captures.is_some()
    }

    /// Calls `f` for every probe, given by its place in the session, with its similarities to the gallery
    /// in gallery order. The products are taken in blocks, on all threads; an entry's value does not
    /// depend on the block it falls in, so equal embeddings tie. Results come in the order of the probes.
    pub(super) fn each_probe<R: Send>(&self, f: impl Fn(usize, &[f32]) -> R + Sync) -> Vec<R> {
        let gallery = self.session.gallery.len();
        let panels = Panels::pack(
            self.vectors.dim(),
            self.session.gallery.iter().map(|e| self.vectors.row(e.row)),
        );
        let rows = (BLOCK / gallery.max(1)).clamp(1, ROWS);
        let blocks: Vec<Vec<R>> = self
            .session
            .probes
            .par_chunks(rows)
            .enumerate()
            .map_init(Vec::new, |similarities: &mut Vec<f32>, (block, probes)| {
                let left: Vec<&[f32]> = probes.iter().map(|e| self.vectors.row(e.row)).collect();
                similarities.resize(probes.len() * gallery, 0.0);
                panels.products(&left, similarities);
                (0..probes.len())
                    .map(|at| {
                        let row = &similarities[at * gallery..(at + 1) * gallery];
                        f(block * rows + at, row)
                    })
                    .collect()
            })
            .collect();
        blocks.into_iter().flatten().collect()
    }

    /// The similarities of one probe to the gallery, in gallery order.
    pub(super) fn similarities(&self, probe: Entry) -> Vec<f32> {
        let session = Session { gallery: self.session.gallery.clone(), probes: vec![probe] };
        let one = Trial { session: &session, vectors: self.vectors, captures: self.captures };
        one.each_probe(|_, similarities| similarities.to_vec()).pop().unwrap_or_default()
    }
}
