//! The handlers in flight.

use std::{
    collections::BTreeMap,
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    address::Route,
    call::{Abort, Call, Done},
};
use crate::scope::{Scope, Scoped};

/// The handlers that wait.
pub(super) struct Handlers<F> {
    started: u64,
    /// The place for the next handler, if there is one.
    vacant: Option<Pin<Box<Call<F>>>>,
    in_flight: FuturesUnordered<Pin<Box<Call<F>>>>,
    /// How to abort those in flight, by number: the oldest comes first.
    by_age: BTreeMap<u64, Arc<Abort>>,
}

impl<F> Handlers<F> {
    pub(super) fn new() -> Self {
        Self {
            started: 0,
            vacant: None,
            in_flight: FuturesUnordered::new(),
            by_age: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Aborts the oldest. [`poll_done`](Self::poll_done) drops and returns it.
    pub(super) fn abort_oldest(&mut self) {
        if let Some((_, oldest)) = self.by_age.pop_first() {
            oldest.abort();
        }
    }

    /// Drops all, each in its scope, and returns the scopes.
    pub(super) fn drop_all(&mut self) -> Vec<Scope> {
        self.by_age.clear();
        let dropped = self.in_flight.iter_mut().map(|call| {
            call.as_mut().clear();
            call.scope()
        });
        let scopes = dropped.collect();
        self.in_flight.clear();
        scopes
    }
}

impl<F, E> Handlers<F>
where
    F: Future<Output = Result<Option<Bytes>, E>>,
    E: Display,
{
    /// Polls a handler for the first time. Keeps it if it is not done.
    pub(super) fn start(
        &mut self,
        cx: &mut Context<'_>,
        future: Scoped<F>,
        scope: Scope,
        route: Option<Route>,
    ) -> Option<Done> {
        let mut call = self.vacant.take().unwrap_or_else(Call::vacant);
        self.started += 1;
        call.as_mut().start(self.started, future, scope, route);
        if let Poll::Ready(done) = call.as_mut().poll(cx) {
            self.vacant = Some(call);
            return Some(done);
        }
        self.by_age.insert(self.started, call.as_mut().abort_handle());
        self.in_flight.push(call);
        None
    }

    /// The next handler that is done, if there is one now.
    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Option<Done> {
        if self.is_empty() {
            return None;
        }
        let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(cx) else {
            return None;
        };
        self.by_age.remove(&done.number);
        Some(done)
    }
}
