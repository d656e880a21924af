//! A long list of which a copy costs little.

use std::sync::Arc;

/// Items that a copy takes one pointer for.
const SHELF: usize = 64;

/// Items in order. A copy shares everything with its original, and a change copies one item and the pointers of its shelf: with a pointer for
/// each item, an enrolment in a gallery of a million touched 31,250 of them, twice.
#[derive(Debug, Clone)]
pub(super) struct Shelves<T> {
    /// [`SHELF`] each, but for the last.
    shelves: Vec<Arc<Vec<Arc<T>>>>,
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        Self { shelves: Vec::new() }
    }
}

impl<T: Clone> Shelves<T> {
    pub(super) fn len(&self) -> usize {
        let last = self.shelves.last().map_or(0, |shelf| shelf.len());
        self.shelves.len().saturating_sub(1) * SHELF + last
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> &T {
        &self.shelves[at / SHELF][at % SHELF]
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut T {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shelves[at / SHELF])[at % SHELF])
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.shelves.last().and_then(|shelf| shelf.last()).map(|item| &**item)
    }

    pub(super) fn push(&mut self, item: Arc<T>) {
        if self.shelves.last().is_none_or(|shelf| shelf.len() == SHELF) {
            self.shelves.push(Arc::new(Vec::with_capacity(SHELF)));
        }
        if let Some(shelf) = self.shelves.last_mut() {
            Arc::make_mut(shelf).push(item);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shelves.iter().flat_map(|shelf| shelf.iter().map(|item| &**item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_copy_keeps_what_it_had_whatever_happens_to_the_other(
            items in prop::collection::vec(any::<u32>(), 0..200),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..9),
            more in prop::collection::vec(any::<u32>(), 0..80),
        ) {
            let mut shelves = Shelves::default();
            items.iter().for_each(|item| shelves.push(Arc::new(*item)));
            let copy = shelves.clone();
            let mut expected = items.clone();
            for (at, to) in changes {
                if !expected.is_empty() {
                    let at = at.index(expected.len());
                    expected[at] = to;
                    *shelves.get_mut(at) = to;
                }
            }
            more.iter().for_each(|item| shelves.push(Arc::new(*item)));
            expected.extend(&more);
            prop_assert_eq!(shelves.iter().copied().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!((shelves.len(), shelves.last()), (expected.len(), expected.last()));
            prop_assert!((0..expected.len()).all(|at| *shelves.get(at) == expected[at]));
            prop_assert_eq!(copy.iter().copied().collect::<Vec<_>>(), items);
        }
    }
}
