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

use crate::call::{Abort, Call, Handled, Ticket};

/// The handlers that wait.
pub(crate) struct Handlers<F, T> {
    started: u64,
    /// The place for the next handler, if there is one.
    vacant: Option<Pin<Box<Call<F, T>>>>,
    in_flight: FuturesUnordered<Pin<Box<Call<F, T>>>>,
    /// How to abort those in flight, by number: the oldest comes first.
    by_age: BTreeMap<u64, Arc<Abort>>,
}

impl<F, T: Copy> Handlers<F, T> {
    pub(crate) fn new() -> Self {
        Self {
            started: 0,
            vacant: None,
            in_flight: FuturesUnordered::new(),
            by_age: BTreeMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Aborts the oldest. [`poll_done`](Self::poll_done) drops and returns it.
    pub(crate) fn abort_oldest(&mut self) {
        if let Some((_, oldest)) = self.by_age.pop_first() {
            oldest.abort();
        }
    }

    /// Drops all, and returns their tags.
    pub(crate) fn drop_all(&mut self) -> Vec<T> {
        self.by_age.clear();
        let dropped = self.in_flight.iter_mut().map(|call| {
            call.as_mut().clear();
            call.tag()
        });
        let tags = dropped.collect();
        self.in_flight.clear();
        tags
    }
}

impl<F, T, E> Handlers<F, T>
where
    F: Future<Output = Result<Option<Bytes>, E>>,
    T: Copy,
    E: Display,
{
    /// Polls a handler for the first time. Keeps it if it is not done.
    pub(crate) fn start(
        &mut self,
        cx: &mut Context<'_>,
        future: F,
        ticket: Ticket<T>,
    ) -> Option<(Ticket<T>, Handled)> {
        self.started += 1;
        let mut call = if let Some(mut call) = self.vacant.take() {
            call.as_mut().replace(self.started, future, ticket);
            call
        } else {
            Box::pin(Call::new(self.started, future, ticket))
        };
        if let Poll::Ready((_, ticket, handled)) = call.as_mut().poll(cx) {
            self.vacant = Some(call);
            return Some((ticket, handled));
        }
        self.by_age.insert(self.started, call.as_mut().abort_handle());
        self.in_flight.push(call);
        None
    }

    /// The next handler that is done, if there is one now.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Option<(Ticket<T>, Handled)> {
        if self.is_empty() {
            return None;
        }
        let Poll::Ready(Some((number, ticket, handled))) = self.in_flight.poll_next_unpin(cx) else {
            return None;
        };
        self.by_age.remove(&number);
        Some((ticket, handled))
    }
}
