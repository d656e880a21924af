//! A deployment as galleries see it: a second space is begun, filled, becomes the one that is searched, and the other is
//! kept until it is given up.
//!
//! Every step is one batch over all galleries together with the record of whoever deploys, and is told to them while no
//! template can be written: before and after it every gallery, and that record, say the same.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::domain::{Embedding, SampleId, SubjectId};
use crate::storage::{Batch, Seal};

use super::catalogue::Busy;
use super::galleries::Galleries;
use super::index::RowInfo;
use super::key::{self, Key};
use super::record::{GalleryDoc, template_to_bytes, to_json};
use super::space::{Role, Space, Spaces, TemplateSpace};
use super::{Gallery, GalleryError};

/// Records changed by one batch where there may be many.
const STEP: usize = 4096;

/// A sample that has no template yet in the space that is being filled.
#[derive(Debug, Clone)]
pub struct Gap(Arc<RowInfo>);

impl Gap {
    /// Whose sample it is.
    #[must_use]
    pub fn subject(&self) -> &SubjectId {
        &self.0.subject
    }

    /// Its name.
    #[must_use]
    pub fn sample(&self) -> &SampleId {
        &self.0.sample
    }
}

/// What a step does to a gallery's spaces; `None` leaves them.
type Change<'a> = &'a dyn Fn(&Gallery, &Spaces) -> Result<Option<Spaces>, GalleryError>;

impl Galleries {
    /// What the last step's caller had recorded with it.
    ///
    /// # Errors
    /// The store's.
    pub fn deployment_record(&self) -> Result<Option<Vec<u8>>, GalleryError> {
        Ok(self.store().get(&Key::Deployment.encode())?)
    }

    /// Begins to fill a space in every gallery that `which` names, and records it. `then` is called before another
    /// enrolment writes.
    ///
    /// # Errors
    /// [`GalleryError::SpaceTaken`], [`GalleryError::Dropping`], or the store's; nothing was changed then.
    pub fn begin_space(
        &self,
        space: TemplateSpace,
        which: impl Fn(&Gallery) -> bool,
        record: Vec<u8>,
        then: impl FnOnce(),
    ) -> Result<(), GalleryError> {
        let change = |gallery: &Gallery, spaces: &Spaces| {
            if !which(gallery) {
                return Ok(None);
            }
            if spaces.beside.is_some() {
                return Err(GalleryError::SpaceTaken(gallery.doc.id.clone()));
            }
            if spaces.partial {
                // What lacks a template at home would lack one in the space that is to be kept for the way back.
                return Err(GalleryError::Dropping(gallery.doc.id.clone()));
            }
            let beside = Some((Space::empty(space, &gallery.options), Role::Filling));
            Ok(Some(Spaces { beside, ..spaces.clone() }))
        };
        self.shift(&change, record, then)
    }

    /// Has galleries searched in the space that was filled, and keeps the other. Where `may_lack` says so, samples without a
    /// template in it are not searched any more, and go when the other space is given up.
    ///
    /// # Errors
    /// [`GalleryError::Gaps`] for a gallery that is not filled, or the store's; nothing was changed then.
    pub fn promote_space(
        &self,
        space: TemplateSpace,
        may_lack: impl Fn(&Gallery) -> bool,
        record: Vec<u8>,
        then: impl FnOnce(),
    ) -> Result<(), GalleryError> {
        let change = |gallery: &Gallery, spaces: &Spaces| match &spaces.beside {
            Some((filled, Role::Filling)) if filled.of == space => {
                // Both under the state's lock: removals go on, and one between the two counts would hide a gap.
                let (all, filled_rows) = {
                    let state = gallery.state();
                    (state.present_samples(), filled.index.live())
                };
                let partial = filled_rows != all;
                if partial && !may_lack(gallery) {
                    let (gallery, gaps) = (gallery.doc.id.clone(), all.saturating_sub(filled_rows));
                    return Err(GalleryError::Gaps { gallery, gaps });
                }
                let beside = Some((Arc::clone(&spaces.home), Role::Previous));
                Ok(Some(Spaces { home: Arc::clone(filled), partial, beside }))
            }
            Some(_) | None => Ok(None),
        };
        self.shift(&change, record, then)
    }

    /// Has galleries searched where they were before the last promotion; what was enrolled and removed since stays so.
    /// The space that they leave is given up.
    ///
    /// # Errors
    /// The store's; nothing was changed then.
    pub fn return_to_previous(
        &self,
        record: Vec<u8>,
        then: impl FnOnce(),
    ) -> Result<(), GalleryError> {
        let change = |_: &Gallery, spaces: &Spaces| match &spaces.beside {
            Some((previous, Role::Previous)) => {
                Ok(Some(Spaces { home: Arc::clone(previous), partial: false, beside: None }))
            }
            Some((_, Role::Filling)) | None => Ok(None),
        };
        self.shift(&change, record, then)
    }

    /// Gives up the second spaces that are there for this. Their templates go with [`Galleries::purge`].
    ///
    /// # Errors
    /// The store's; nothing was changed then.
    pub fn give_up(
        &self,
        role: Role,
        record: Vec<u8>,
        then: impl FnOnce(),
    ) -> Result<(), GalleryError> {
        let change = |_: &Gallery, spaces: &Spaces| match &spaces.beside {
            Some((_, of)) if *of == role => Ok(Some(Spaces { beside: None, ..spaces.clone() })),
            Some(_) | None => Ok(None),
        };
        self.shift(&change, record, then)
    }

    /// Stores what a caller says of its deployment, without any change to a gallery.
    ///
    /// # Errors
    /// The store's.
    pub fn record_deployment(&self, record: Vec<u8>) -> Result<(), GalleryError> {
        self.shift(&|_, _| Ok(None), record, || ())
    }

    fn shift(
        &self,
        change: Change<'_>,
        record: Vec<u8>,
        then: impl FnOnce(),
    ) -> Result<(), GalleryError> {
        // Nobody creates or deletes a gallery meanwhile.
        let _next: MutexGuard<'_, u32> = self.lock();
        let galleries = self.list();
        let _shifts: Vec<_> = galleries.iter().map(|gallery| gallery.shift.write()).collect();
        let mut batch = Batch::default();
        let mut changed = Vec::new();
        for gallery in &galleries {
            let spaces = gallery.spaces.load();
            let Some(after) = change(gallery, &spaces)? else { continue };
            let doc = gallery.doc_of(&spaces, &after);
            let at = Key::Gallery { gallery: gallery.number };
            batch.put(at.encode(), to_json("gallery", &doc)?, Seal::Store);
            changed.push((gallery, after, doc.purging));
        }
        batch.put(Key::Deployment.encode(), record, Seal::Store);
        self.store().commit(batch)?;
        for (gallery, after, purging) in changed {
            gallery.spaces.replace(after);
            *gallery.purging.lock() = purging;
        }
        then();
        Ok(())
    }

    /// Removes the templates of spaces that were given up, and samples that a deployment dropped for good. What was
    /// interrupted goes on at the next start.
    ///
    /// # Errors
    /// The store's.
    pub fn purge(&self) -> Result<(), GalleryError> {
        self.purge_while(&|| true)
    }

    /// The same, for as long as `go_on` says so; the rest is done by the next call.
    ///
    /// # Errors
    /// The store's.
    pub fn purge_while(&self, go_on: &dyn Fn() -> bool) -> Result<(), GalleryError> {
        self.list().iter().try_for_each(|gallery| gallery.purge_while(go_on))
    }
}

impl Gallery {
    /// The samples that have no template in the space that is being filled; none when no space is.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let spaces = self.spaces.load();
        match &spaces.beside {
            Some((space, Role::Filling)) => lacking(&spaces.home, space).map(Gap).collect(),
            Some((_, Role::Previous)) | None => Vec::new(),
        }
    }

    /// Records of templates in the store, of whichever space: one a sample when no deployment is under way.
    ///
    /// # Errors
    /// The store's.
    pub fn templates_kept(&self) -> Result<usize, GalleryError> {
        Ok(self.store.keys(&key::in_gallery(key::TEMPLATE, self.number))?.len())
    }

    /// Adds templates for gaps in the space that is being filled. Samples that were removed since are left out. Durable when
    /// this returns; says how many were added.
    ///
    /// # Errors
    /// [`GalleryError::Generation`] when that space is not being filled (any more), [`GalleryError::Dimensions`], or
    /// the store's.
    pub fn fill(
        &self,
        to: TemplateSpace,
        made: Vec<(Gap, Embedding)>,
    ) -> Result<usize, GalleryError> {
        let _shift = self.shift.read();
        let spaces = self.spaces.load();
        let space = match &spaces.beside {
            Some((space, Role::Filling)) if space.of == to => space,
            Some(_) | None => {
                let (got, expected) = (to.generation, spaces.home.of.generation);
                return Err(GalleryError::Generation { got, expected });
            }
        };
        let names: HashSet<Busy> = made
            .iter()
            .flat_map(|(gap, _)| {
                [Busy::Subject(gap.subject().clone()), Busy::Sample(gap.sample().clone())]
            })
            .collect();
        let _reservation = self.reserve(names.into_iter().collect());
        let mut batch = Batch::default();
        let mut added = Vec::with_capacity(made.len());
        for (Gap(row), template) in made {
            if template.dim() != to.dim {
                return Err(GalleryError::Dimensions { got: template.dim(), expected: to.dim });
            }
            let data_key = {
                let state = self.state();
                let entry = state.present(&row.subject).ok();
                let sample = entry.and_then(|entry| entry.samples.get(&row.sample));
                let same = sample.is_some_and(|sample| sample.number == row.number);
                entry.filter(|_| same).map(|entry| entry.data_key)
            };
            let Some(data_key) = data_key else { continue };
            let (gallery, subject, sample) = (self.number, row.subject_number, row.number);
            let generation = to.generation.0;
            let at = Key::Template { gallery, subject, sample, generation }.encode();
            if self.store.get(&at)?.is_some() {
                continue;
            }
            batch.put(at, template_to_bytes(&template), Seal::Data(data_key));
            added.push((row, template));
        }
        self.store.commit(batch)?;
        // Under the state's lock, as an enrolment's rows are.
        let state = self.state();
        space
            .index
            .push(added.iter().map(|(row, template)| (Arc::clone(row), template.as_slice())));
        drop(state);
        Ok(added.len())
    }

    /// The record of this gallery with other spaces. What it leaves is to be purged.
    fn doc_of(&self, before: &Spaces, after: &Spaces) -> GalleryDoc {
        let TemplateSpace { generation, fingerprint, dim } = after.home.of;
        let stays = |space: &Arc<Space>| after.both().any(|other| Arc::ptr_eq(space, other));
        let gone = before.both().filter(|space| !stays(space)).map(|space| space.of.generation.0);
        let mut purging = self.purging.lock().clone();
        purging.extend(gone);
        GalleryDoc {
            generation,
            fingerprint,
            dim,
            partial: after.partial,
            beside: after.beside_doc(),
            purging,
            ..self.doc.clone()
        }
    }

    fn purge_while(&self, go_on: &dyn Fn() -> bool) -> Result<(), GalleryError> {
        let spaces = self.spaces.load();
        let drops = spaces.partial && spaces.beside.is_none();
        if drops && !self.drop_lacking(go_on)? {
            return Ok(());
        }
        let purging = self.purging.lock().clone();
        if purging.is_empty() && !drops {
            return Ok(());
        }
        let all = self.store.keys(&key::in_gallery(key::TEMPLATE, self.number))?;
        let stale: Vec<Vec<u8>> = all
            .into_iter()
            .filter(|at| match Key::decode(at) {
                Some(Key::Template { generation, .. }) => purging.contains(&generation),
                Some(_) | None => false,
            })
            .collect();
        for keys in stale.chunks(STEP) {
            if !go_on() {
                return Ok(());
            }
            let mut batch = Batch::default();
            keys.iter().for_each(|at| batch.remove(at.clone()));
            self.store.commit(batch)?;
        }
        // The record last, so that a crash before it has all of this done again.
        let _shift = self.shift.write();
        let _reservation = self.reserve(vec![Busy::Record]);
        if self.state().deleted {
            return Ok(());
        }
        let mut now = Spaces::clone(&self.spaces.load());
        // Only of the space that samples were dropped for: a way back may have been given up, or a deployment promoted, since.
        now.partial &= !(drops && Arc::ptr_eq(&now.home, &spaces.home));
        let mut left = self.purging.lock().clone();
        left.retain(|generation| !purging.contains(generation));
        let doc = GalleryDoc { purging: left.clone(), ..self.doc_of(&now, &now) };
        let mut batch = Batch::default();
        for generation in purging {
            batch.remove(Key::Calibration { gallery: self.number, generation }.encode());
        }
        let at = Key::Gallery { gallery: self.number };
        batch.put(at.encode(), to_json("gallery", &doc)?, Seal::Store);
        self.store.commit(batch)?;
        self.spaces.replace(now);
        *self.purging.lock() = left;
        Ok(())
    }
}

/// Rows of one space whose sample has none in the other.
fn lacking(all: &Space, some: &Space) -> impl Iterator<Item = Arc<RowInfo>> {
    // The smaller one first: a row that comes between is a gap that turns out to be none.
    let there: HashSet<u64> = some.index.rows().iter().map(|row| row.number).collect();
    all.index.rows().into_iter().filter(move |row| !there.contains(&row.number))
}
