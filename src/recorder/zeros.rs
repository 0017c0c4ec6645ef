//! Counters that start at zero in given scopes.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use metrics::{Counter, Metadata};

use super::handle::Handle;
use crate::{cache::Cached as _, scope::Scope};

/// How many counters are remembered, to start them at zero in scopes that are added later.
const MAX_COUNTERS: usize = 4_096;

/// The scopes in which counters start at zero. See [`ScopedRecorderLayer::zeros`](super::ScopedRecorderLayer::zeros).
///
/// A clone is the same set. An iterator of scopes can be turned into one.
#[derive(Clone, Default)]
pub struct Zeros {
    // Nothing is locked, so a recorder or an allocator that counts may come back here.
    started: Arc<ArcSwap<Started>>,
}

#[derive(Clone, Default)]
struct Started {
    scopes: Vec<Scope>,
    counters: Vec<Arc<Handle<Counter>>>,
}

impl Zeros {
    /// No scopes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds scopes. The counters that were registered until now start at zero in them, too.
    pub fn add(&self, scopes: impl IntoIterator<Item = Scope>) {
        let scopes: Vec<Scope> = scopes.into_iter().collect();
        let before = self.started.rcu(|started| {
            let mut started = Started::clone(started);
            started.counters.retain(|counter| !counter.is_idle());
            for scope in &scopes {
                if !started.scopes.contains(scope) {
                    started.scopes.push(*scope);
                }
            }
            started
        });
        for counter in &before.counters {
            for scope in &scopes {
                counter.start_at_zero(*scope);
            }
        }
    }

    /// Starts a counter that is registered now, if that is outside every scope.
    pub(super) fn start(&self, counter: &Arc<Handle<Counter>>, metadata: &Metadata<'_>) {
        // The counters of this crate belong to no client, or start by themselves in the scopes of their socket.
        let is_own = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
        if is_own || Scope::current() != Scope::none() {
            return;
        }
        let has_room = |started: &Started| {
            started.counters.len() < MAX_COUNTERS
                && !started.counters.iter().any(|other| other.is_same(counter))
        };
        let before = self.started.rcu(|started| {
            let mut started = Arc::clone(started);
            if has_room(&started) {
                Arc::make_mut(&mut started).counters.push(Arc::clone(counter));
            }
            started
        });
        if has_room(&before) {
            for scope in &before.scopes {
                counter.start_at_zero(*scope);
            }
        }
    }
}

impl<I: IntoIterator<Item = Scope>> From<I> for Zeros {
    fn from(scopes: I) -> Self {
        let zeros = Self::new();
        zeros.add(scopes);
        zeros
    }
}

impl fmt::Debug for Zeros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zeros")
            .field("scopes", &self.started.load().scopes)
            .finish_non_exhaustive()
    }
}
