use std::sync::Arc;

use rayon::prelude::*;

use crate::domain::{AttributeFilter, HandAttributes, SampleId, SubjectId};

use super::codes::Codes;
use super::encoder::Encoder;
use super::kernel::Kernel;
use super::layout::GROUP;
use super::planes::{Planes, RUN, Run};
use super::shelves::Shelves;
use super::signs::Signs;
use super::template::{Packed, PackedTemplate};

/// Rows of a block. A block is copied when a row is added to it or removed from it, so that searches under way keep what they saw: as
/// many as bits are looked up for at once. With four times as many, an enrolment spent a millisecond on memory.
pub(super) const BLOCK: usize = GROUP;

/// What a row stands for.
#[derive(Debug)]
pub(in crate::gallery) struct RowInfo {
    /// The sample's number, which decides ties.
    pub(in crate::gallery) number: u64,
    /// The subject's number.
    pub(in crate::gallery) subject_number: u64,
    pub(in crate::gallery) subject: Arc<SubjectId>,
    pub(in crate::gallery) sample: SampleId,
    pub(in crate::gallery) attributes: HandAttributes,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    /// A removed row is zeroed.
    pub(super) codes: Codes,
    pub(super) infos: Vec<Arc<RowInfo>>,
    /// Subject numbers beside each other, to find a subject's rows fast.
    pub(super) subjects: Vec<u64>,
    /// Aspect, side and accessories in two bits each, to filter fast.
    facets: Vec<u8>,
    /// Bit i: row i is not removed.
    live: u32,
}

impl Block {
    fn new(dim: usize) -> Self {
        Self {
            codes: Codes::new(dim, BLOCK),
            infos: Vec::with_capacity(BLOCK),
            subjects: Vec::with_capacity(BLOCK),
            facets: Vec::with_capacity(BLOCK),
            live: 0,
        }
    }

    fn push(&mut self, info: Arc<RowInfo>, template: Packed<'_>) {
        self.live |= 1 << self.infos.len();
        self.codes.push(template);
        self.subjects.push(info.subject_number);
        self.facets.push(facets(&info.attributes));
        self.infos.push(info);
    }

    fn wipe(&mut self, at: usize) {
        self.live &= !(1 << at);
        self.codes.wipe(at);
    }

    pub(super) fn is_live(&self, at: usize) -> bool {
        self.live >> at & 1 == 1
    }

    pub(super) fn len(&self) -> usize {
        self.infos.len()
    }
}

fn facets(attributes: &HandAttributes) -> u8 {
    let aspect = attributes.aspect.map_or(0, |aspect| aspect as u8 + 1);
    let side = attributes.side.map_or(0, |side| side as u8 + 1);
    let accessories = attributes.accessories.map_or(0, |worn| u8::from(worn) + 1);
    aspect | side << 2 | accessories << 4
}

/// A filter, ready to be asked often.
#[derive(Debug)]
pub(in crate::gallery) struct Admission<'a> {
    mask: u8,
    wanted: u8,
    filter: &'a AttributeFilter,
}

impl<'a> Admission<'a> {
    pub(in crate::gallery) fn new(filter: &'a AttributeFilter) -> Self {
        let wanted = facets(&HandAttributes {
            aspect: filter.aspect,
            side: filter.side,
            accessories: filter.accessories,
            ..HandAttributes::default()
        });
        let bits = |set: bool, at: u8| if set { 3 << at } else { 0 };
        let mask = bits(filter.aspect.is_some(), 0)
            | bits(filter.side.is_some(), 2)
            | bits(filter.accessories.is_some(), 4);
        Self { mask, wanted, filter }
    }

    pub(super) fn is_open(&self) -> bool {
        self.mask == 0 && self.filter.extra.is_empty()
    }

    /// Whether at least one row in so many passes, by what some of them do.
    pub(super) fn admits_one_in(&self, so_many: usize, rows: &Rows) -> bool {
        /// At equal steps.
        const ASKED: usize = 512;
        if self.is_open() {
            return true;
        }
        let step = rows.len().div_ceil(ASKED).max(1);
        let admits = |row: &usize| {
            let (block, at) = rows.place(*row as u32);
            self.admits(block, at)
        };
        let passing = (0..rows.len()).step_by(step).filter(admits).count();
        passing * so_many * step >= rows.len()
    }

    /// Whether row `at` is live and passes.
    pub(super) fn admits(&self, block: &Block, at: usize) -> bool {
        block.is_live(at)
            && (self.mask == 0 || block.facets[at] & self.mask == self.wanted)
            && (self.filter.extra.is_empty() || self.filter.admits(&block.infos[at].attributes))
    }
}

/// Every template of a gallery with its bits, removed ones included until a merge drops them. Cloning copies
/// pointers.
#[derive(Debug, Clone)]
pub(in crate::gallery) struct Rows {
    pub(super) dim: usize,
    pub(super) blocks: Shelves<Block>,
    pub(super) planes: Planes,
    /// What made every row's bits.
    pub(super) encoder: Arc<Encoder>,
    kernel: Kernel,
    len: usize,
    live: usize,
    /// Sums of the squares of [`Signs::errors`].
    errors: [f64; 3],
}

impl Rows {
    pub(super) fn new(kernel: Kernel, encoder: Arc<Encoder>) -> Self {
        let dim = encoder.mean.len();
        Self {
            dim,
            blocks: Shelves::default(),
            planes: Planes::new(dim),
            encoder,
            kernel,
            len: 0,
            live: 0,
            errors: [0.0; 3],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Bytes that templates and bits take.
    pub(super) fn bytes(&self) -> usize {
        // All but the last are full, and so equally large.
        let full = self.len / BLOCK;
        let block = |block: &Block| block.codes.bytes();
        let of_full = if full > 0 { full * block(self.blocks.get(0)) } else { 0 };
        let last = self.blocks.last().filter(|_| !self.len.is_multiple_of(BLOCK));
        let blocks = of_full + last.map_or(0, block);
        blocks + self.planes.bytes()
    }

    /// [`Signs::errors`] of a usual row.
    pub(super) fn usual_errors(&self) -> [f32; 3] {
        self.errors.map(|sum| (sum / self.len.max(1) as f64).sqrt() as f32)
    }

    pub(super) fn push(&mut self, info: Arc<RowInfo>, vector: &[f32]) {
        self.push_packed(info, PackedTemplate::new(vector).view());
    }

    /// Adds what is packed already, as it is.
    pub(super) fn push_packed(&mut self, info: Arc<RowInfo>, template: Packed<'_>) {
        if self.len.is_multiple_of(BLOCK) {
            self.blocks.push(Arc::new(Block::new(self.dim)));
        }
        let signs = self.signs(template);
        self.blocks.get_mut(self.len / BLOCK).push(info, template);
        self.planes.push(&signs);
        self.len += 1;
        self.live += 1;
        add(&mut self.errors, signs.errors.map(squared));
    }

    /// The same for many, run by run on all threads of the pool.
    pub(super) fn extend<'a>(
        &mut self,
        which: &[u32],
        row: impl Fn(u32) -> (&'a Arc<RowInfo>, Packed<'a>) + Sync,
    ) {
        let room = self.len.next_multiple_of(RUN) - self.len;
        let (first, others) = which.split_at(room.min(which.len()));
        let (whole, last) = others.split_at(others.len() / RUN * RUN);
        let one_by_one = |rows: &mut Self, which: &[u32]| {
            for at in which {
                let (info, template) = row(*at);
                rows.push_packed(Arc::clone(info), template);
            }
        };
        one_by_one(self, first);
        let run = |which: &[u32]| {
            let (mut run, mut errors) = (Run::new(self.dim, RUN), [0.0; 3]);
            let blocks = which.chunks(BLOCK).map(|which| {
                let mut block = Block::new(self.dim);
                for at in which {
                    let (info, template) = row(*at);
                    let signs = self.signs(template);
                    block.push(Arc::clone(info), template);
                    run.push(&signs);
                    add(&mut errors, signs.errors.map(squared));
                }
                Arc::new(block)
            });
            (blocks.collect(), run, errors)
        };
        let runs: Vec<(Vec<Arc<Block>>, Run, [f64; 3])> = whole.par_chunks(RUN).map(run).collect();
        for (blocks, run, errors) in runs {
            self.len += RUN;
            self.live += RUN;
            add(&mut self.errors, errors);
            blocks.into_iter().for_each(|block| self.blocks.push(block));
            self.planes.push_run(run);
        }
        one_by_one(self, last);
    }

    fn signs(&self, template: Packed<'_>) -> Signs {
        Signs::new(self.kernel, &self.encoder, &template.values(self.kernel))
    }

    /// Removes rows and zeroes their templates and codes; unknown and removed ones are passed over.
    pub(super) fn remove(&mut self, removed: impl Fn(&Block, usize) -> bool) {
        for number in 0..self.blocks.len() {
            let block = self.blocks.get(number);
            let gone: Vec<usize> =
                (0..block.len()).filter(|at| block.is_live(*at) && removed(block, *at)).collect();
            if gone.is_empty() {
                continue;
            }
            self.live -= gone.len();
            let block = self.blocks.get_mut(number);
            for at in gone {
                block.wipe(at);
                self.planes.wipe(number * BLOCK + at);
            }
        }
    }

    /// Rows of an earlier look at the same that were live then and are not now. Blocks that are shared still are passed over.
    pub(super) fn removed_since(&self, earlier: &Self) -> Vec<u32> {
        let mut removed = Vec::new();
        let both = earlier.blocks.iter().zip(self.blocks.iter());
        for (first, (then, now)) in (0..).step_by(BLOCK).zip(both) {
            if !std::ptr::eq(then, now) {
                let gone = (0..then.len()).filter(|at| then.is_live(*at) && !now.is_live(*at));
                removed.extend(gone.map(|at| first + at as u32));
            }
        }
        removed
    }

    /// Removes rows by their numbers.
    pub(super) fn remove_rows(&mut self, gone: &[u32]) {
        for row in gone {
            if self.is_live(*row) {
                self.blocks.get_mut(*row as usize / BLOCK).wipe(*row as usize % BLOCK);
                self.planes.wipe(*row as usize);
                self.live -= 1;
            }
        }
    }

    pub(super) fn place(&self, row: u32) -> (&Block, usize) {
        let row = row as usize;
        (self.blocks.get(row / BLOCK), row % BLOCK)
    }

    pub(super) fn template(&self, row: u32) -> Packed<'_> {
        let (block, at) = self.place(row);
        block.codes.row(at)
    }

    pub(super) fn info(&self, row: u32) -> &Arc<RowInfo> {
        let (block, at) = self.place(row);
        &block.infos[at]
    }

    pub(super) fn is_live(&self, row: u32) -> bool {
        let (block, at) = self.place(row);
        block.is_live(at)
    }

    /// Live rows of a subject, in order.
    pub(super) fn of_subject(&self, subject_number: u64) -> Vec<u32> {
        let mut found = Vec::new();
        for (first, block) in (0..).step_by(BLOCK).zip(self.blocks.iter()) {
            // Looking first for any lets the compiler compare many at once.
            if block.subjects.iter().fold(false, |any, subject| any | (*subject == subject_number))
            {
                let rows = (0..block.len())
                    .filter(|at| block.subjects[*at] == subject_number && block.is_live(*at));
                found.extend(rows.map(|at| first + at as u32));
            }
        }
        found
    }
}

fn squared(error: f32) -> f64 {
    f64::from(error).powi(2)
}

fn add(sums: &mut [f64; 3], more: [f64; 3]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}
