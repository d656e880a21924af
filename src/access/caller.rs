use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use crate::domain::{GalleryId, Scope};

use super::id::KeyId;
use super::record::KeyRecord;

/// Who asks, and what they may. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller(Option<Arc<KeyRecord>>);

tokio::task_local! {
    static CURRENT: Caller;
}

impl Caller {
    /// Whoever asked for what the task at hand does; [`Caller::local`] where nobody was named.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_else(|_| Self::local())
    }

    /// Does something in the name of this caller. Threads that it starts know nothing of that.
    pub fn acting<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// Somebody who may do everything: whoever has the data directory itself, or asks a server that has no keys.
    #[must_use]
    pub fn local() -> Self {
        Self(None)
    }

    pub(super) fn of(record: Arc<KeyRecord>) -> Self {
        Self(Some(record))
    }

    /// The key that was sent; `None` for [`Caller::local`].
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        self.0.as_ref().map(|record| record.id)
    }

    /// Who it was, for a history: the key's id and name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.0.as_ref().map(|record| format!("{} ({})", record.id, record.name))
    }

    /// Whether one of these scopes is held.
    #[must_use]
    pub fn has_any(&self, scopes: &[Scope]) -> bool {
        let holds = |held: &BTreeSet<Scope>| {
            held.contains(&Scope::Admin) || scopes.iter().any(|scope| held.contains(scope))
        };
        self.0.as_ref().is_none_or(|record| holds(&record.scopes))
    }

    /// Whether a gallery of this name, be there one or not, may be asked about.
    #[must_use]
    pub fn may_reach(&self, gallery: &str) -> bool {
        let galleries = self.0.as_ref().and_then(|record| record.galleries.as_ref());
        galleries.is_none_or(|named: &BTreeSet<GalleryId>| {
            named.iter().any(|name| name.as_str() == gallery)
        })
    }
}
