//! The budget that tokio gives a task each time it polls it.

use std::{
    pin::pin,
    task::{Context, Poll},
};

use tokio::sync::Semaphore;

/// Takes one unit of the budget. Pending if there is none left: the task is then woken with a new one.
///
/// Every resource of tokio takes a unit when it is ready, and this one always is. `tokio::task::coop`, which has a
/// function for it, needs a newer tokio than the rest of this crate.
pub(crate) fn poll_proceed(cx: &mut Context<'_>) -> Poll<()> {
    thread_local! {
        static ALWAYS_FREE: Semaphore = const { Semaphore::const_new(1) };
    }

    let poll = |semaphore: &Semaphore| pin!(semaphore.acquire()).poll(cx).map(drop);
    ALWAYS_FREE.try_with(poll).unwrap_or(Poll::Ready(()))
}
