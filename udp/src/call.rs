//! One handler, from its first poll until it is done.

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

use crate::{address::Route, budget::poll_proceed};

/// The result of a handler.
#[derive(Debug)]
pub(crate) enum Handled {
    Answer(Bytes),
    NoAnswer,
    Failed(String),
    Panicked,
    Aborted,
}

/// Whose outcome it is, and where the answer goes. There is no route if the datagram cannot be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket<T> {
    pub(crate) tag: T,
    pub(crate) route: Option<Route>,
}

/// Asks a waiting handler to be dropped.
#[derive(Debug, Default)]
pub(crate) struct Abort {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl Abort {
    pub(crate) fn abort(&self) {
        self.requested.store(true, Ordering::Release);
        self.waker.wake();
    }
}

pin_project! {
    /// A handler. Its place is used again, so a handler that is ready at once takes no allocation.
    pub(crate) struct Call<F, T> {
        #[pin]
        future: Option<F>,
        number: u64,
        ticket: Ticket<T>,
        // Made when the handler has to wait.
        abort: Option<Arc<Abort>>,
    }
}

impl<F, T: Copy> Call<F, T> {
    pub(crate) fn new(number: u64, future: F, ticket: Ticket<T>) -> Self {
        Self {
            future: Some(future),
            number,
            ticket,
            abort: None,
        }
    }

    /// Takes the place of a handler that is done.
    pub(crate) fn replace(self: Pin<&mut Self>, number: u64, future: F, ticket: Ticket<T>) {
        let mut this = self.project();
        this.future.set(Some(future));
        *this.number = number;
        *this.ticket = ticket;
        *this.abort = None;
    }

    pub(crate) fn tag(&self) -> T {
        self.ticket.tag
    }

    pub(crate) fn abort_handle(self: Pin<&mut Self>) -> Arc<Abort> {
        Arc::clone(self.project().abort.get_or_insert_default())
    }

    /// Drops the handler. Catches a panic of its drop.
    pub(crate) fn clear(self: Pin<&mut Self>) {
        let mut future = self.project().future;
        drop(catch_unwind(AssertUnwindSafe(|| future.set(None))));
    }
}

impl<F, T, E> Future for Call<F, T>
where
    F: Future<Output = Result<Option<Bytes>, E>>,
    T: Copy,
    E: Display,
{
    /// With the number of the handler.
    type Output = (u64, Ticket<T>, Handled);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let mut is_aborted = false;
        if let Some(abort) = this.abort {
            abort.waker.register(cx.waker());
            is_aborted = abort.requested.load(Ordering::Acquire);
        }
        let handled = match this.future.as_pin_mut() {
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
                    Ok(Poll::Ready(Ok(Some(answer)))) => Handled::Answer(answer),
                    Ok(Poll::Ready(Ok(None))) => Handled::NoAnswer,
                    Ok(Poll::Ready(Err(error))) => Handled::Failed(error),
                    Err(_) => Handled::Panicked,
                }
            }
            _ => Handled::Aborted,
        };
        self.as_mut().clear();
        Poll::Ready((self.number, self.ticket, handled))
    }
}
