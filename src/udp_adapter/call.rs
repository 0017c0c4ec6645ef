//! One handler, from its first poll to its outcome.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

use super::{address::Route, budget::poll_proceed};
use crate::scope::{Scope, Scoped};

/// What became of a datagram.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Bytes),
    NoAnswer,
    HandlerError(String),
    HandlerPanic,
    Aborted,
}

/// A datagram whose outcome is known.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) number: u64,
    pub(super) outcome: Outcome,
    pub(super) scope: Scope,
    pub(super) route: Option<Route>,
}

/// Asks a waiting handler to be dropped.
#[derive(Debug, Default)]
pub(super) struct Abort {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl Abort {
    pub(super) fn abort(&self) {
        self.requested.store(true, Ordering::Release);
        self.waker.wake();
    }
}

pin_project! {
    /// A place for a handler. It is reused, so a handler that is ready at once takes no allocation.
    pub(super) struct Call<F> {
        #[pin]
        future: Option<Scoped<F>>,
        number: u64,
        route: Option<Route>,
        // The client's, without labels that the handler adds: all outcomes of a class are in one series.
        scope: Scope,
        // Made when the handler has to wait.
        abort: Option<Arc<Abort>>,
    }
}

impl<F> Call<F> {
    pub(super) fn vacant() -> Pin<Box<Self>> {
        Box::pin(Self {
            future: None,
            number: 0,
            route: None,
            scope: Scope::none(),
            abort: None,
        })
    }

    pub(super) fn start(
        self: Pin<&mut Self>,
        number: u64,
        future: Scoped<F>,
        scope: Scope,
        route: Option<Route>,
    ) {
        let mut this = self.project();
        *this.number = number;
        *this.route = route;
        *this.scope = scope;
        *this.abort = None;
        this.future.set(Some(future));
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    pub(super) fn abort_handle(self: Pin<&mut Self>) -> Arc<Abort> {
        Arc::clone(self.project().abort.get_or_insert_default())
    }

    /// Drops the handler in its scope. Catches a panic of its drop.
    pub(super) fn clear(self: Pin<&mut Self>) {
        let mut future = self.project().future;
        drop(catch_unwind(AssertUnwindSafe(|| future.set(None))));
    }
}

impl<F, E> Future for Call<F>
where
    F: Future<Output = Result<Option<Bytes>, E>>,
    E: Display,
{
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let this = self.as_mut().project();
        let mut is_aborted = false;
        if let Some(abort) = this.abort {
            abort.waker.register(cx.waker());
            is_aborted = abort.requested.load(Ordering::Acquire);
        }
        let outcome = match this.future.as_pin_mut() {
            Some(future) if !is_aborted => {
                let poll = || future.poll(cx).map_err(|error| error.to_string());
                match catch_unwind(AssertUnwindSafe(poll)) {
                    Ok(Poll::Pending) => {
                        // It may wait only for a new budget. The runtime would wake it after other tasks, which may be
                        // after the server has its next budget.
                        if poll_proceed(cx).is_pending() {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                    Ok(Poll::Ready(Ok(Some(answer)))) => Outcome::Answer(answer),
                    Ok(Poll::Ready(Ok(None))) => Outcome::NoAnswer,
                    Ok(Poll::Ready(Err(error))) => Outcome::HandlerError(error),
                    Err(_) => Outcome::HandlerPanic,
                }
            }
            _ => Outcome::Aborted,
        };
        self.as_mut().clear();
        let this = self.project();
        Poll::Ready(Done {
            number: *this.number,
            outcome,
            scope: *this.scope,
            route: *this.route,
        })
    }
}
