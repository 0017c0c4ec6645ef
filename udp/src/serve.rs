//! The loop.

use std::{
    fmt::{self, Display},
    future::Pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_timer::Delay;
use futures_util::FutureExt;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    budget::poll_proceed,
    call::{Handled, Ticket},
    datagram::Datagram,
    handlers::Handlers,
    inbox::Inbox,
    observer::{Observer, Outcome, Trouble},
    outbox::Outbox,
    queue::Outgoing,
    server::Server,
};

/// How many batches a server that shuts down receives at most. A peer that keeps sending cannot delay it further.
const BATCHES_WHEN_CLOSING: u32 = 512;

/// How many datagrams are handled in one poll at most. That is the budget of tokio, which not every executor has.
const DATAGRAMS_IN_A_POLL: u32 = 128;

/// Old versions of `futures-timer` panic if a time cannot be added to now.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pin_project! {
    /// The future of [`Server::serve`]: serves until it is dropped or shut down gracefully.
    ///
    /// When it is dropped, it drops the handlers that wait, and their outcome is [`Outcome::Aborted`].
    #[must_use = "nothing is served unless it is polled"]
    pub struct Serve<S, O, Signal = Pending<()>>
    where
        S: Service<Datagram>,
        O: Observer,
    {
        core: Core<S, O>,
        #[pin]
        signal: Signal,
    }
}

impl Server {
    /// Returns a future that answers each datagram with the response of `service`, or not at all if that is `None`. It is
    /// done only after a [graceful shutdown](Serve::with_graceful_shutdown).
    pub fn serve<S, O>(self, service: S, observer: O) -> Serve<S, O>
    where
        S: Service<Datagram, Response = Option<Bytes>>,
        S::Error: Display,
        O: Observer,
    {
        Serve {
            core: Core {
                outbox: Outbox::new(self.max_send_batch),
                server: self,
                service,
                observer,
                phase: Phase::Serving,
                handlers_first: true,
                datagrams_left: 0,
                waits_for_budget: false,
                inbox: Inbox::new(),
                handlers: Handlers::new(),
            },
            signal: std::future::pending(),
        }
    }
}

impl<S: Service<Datagram>, O: Observer> Serve<S, O> {
    /// Shuts down when `signal` is done. The server answers the datagrams that the system has received by then, and none
    /// after that. It is done when all handlers are, or after [`Server::shutdown_timeout`]: then it aborts those that
    /// still wait.
    pub fn with_graceful_shutdown<Signal: Future<Output = ()>>(self, signal: Signal) -> Serve<S, O, Signal> {
        Serve {
            core: self.core,
            signal,
        }
    }
}

impl<S, O, Signal> Future for Serve<S, O, Signal>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
    O: Observer,
    Signal: Future<Output = ()>,
{
    /// `Ok` after a graceful shutdown. No error is returned today: the observer gets the errors of the socket, and the
    /// server tries again.
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let core = this.core;
        if matches!(core.phase, Phase::Serving) && this.signal.poll(cx).is_ready() {
            core.phase = Phase::Closing {
                deadline: Delay::new(core.server.shutdown_timeout.min(LONGEST_SHUTDOWN)),
                batches_left: BATCHES_WHEN_CLOSING,
            };
        }
        if core.phase.is_over(cx) {
            core.give_up();
        } else {
            ready!(core.poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Service<Datagram>, O: Observer, Signal> fmt::Debug for Serve<S, O, Signal> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("socket", &self.core.server.socket)
            .field("in_flight", &self.core.handlers.len())
            .finish_non_exhaustive()
    }
}

enum Phase {
    Serving,
    /// Receives at most `batches_left` more of the batches that the system has queued, then nothing.
    Closing {
        deadline: Delay,
        batches_left: u32,
    },
}

impl Phase {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Serving => false,
            Self::Closing { deadline, .. } => deadline.poll_unpin(cx).is_ready(),
        }
    }

    fn receives(&self) -> bool {
        !matches!(self, Self::Closing { batches_left: 0, .. })
    }
}

struct Core<S: Service<Datagram>, O: Observer> {
    server: Server,
    service: S,
    observer: O,
    phase: Phase,
    /// Whether the handlers that wait are polled before a batch is taken, or after it. They take turns, because either may
    /// use up the budget that the task has for one poll.
    handlers_first: bool,
    /// How many more datagrams this poll may handle.
    datagrams_left: u32,
    /// Whether handlers past the limit wait for the next budget before any is aborted.
    waits_for_budget: bool,
    inbox: Inbox,
    handlers: Handlers<S::Future, O::Tag>,
    outbox: Outbox<O::Tag>,
}

impl<S: Service<Datagram>, O: Observer> Core<S, O> {
    /// Gives an outcome to each datagram that has none yet.
    fn give_up(&mut self) {
        for tag in self.handlers.drop_all() {
            self.observer.outcome(tag, Outcome::Aborted, 1);
        }
        self.outbox.give_up(&mut self.observer);
        while let Some(mut datagram) = self.inbox.next(&self.server.socket) {
            let (Ok(tag) | Err(tag)) = self.observer.received(&mut datagram);
            self.observer.outcome(tag, Outcome::Aborted, 1);
        }
    }
}

impl<S: Service<Datagram>, O: Observer> Drop for Core<S, O> {
    fn drop(&mut self) {
        // A panic of the observer would end the process if another one has brought us here.
        drop(catch_unwind(AssertUnwindSafe(|| self.give_up())));
    }
}

impl<S, O> Core<S, O>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
    O: Observer,
{
    /// Ready after a shutdown, when everything has its outcome.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handlers_first = !self.handlers_first || self.waits_for_budget;
        self.datagrams_left = DATAGRAMS_IN_A_POLL;
        loop {
            let had_room = self.outbox.has_room();
            if self.handlers_first {
                self.poll_handlers(cx);
            }
            let taken = self.poll_batch(cx);
            if !self.handlers_first {
                self.poll_handlers(cx);
            }
            self.outbox.flush(cx, &self.server.socket, &mut self.observer);
            if self.is_done() {
                return Poll::Ready(());
            }
            if taken.is_pending() && (had_room || !self.outbox.has_room()) {
                return Poll::Pending;
            }
        }
    }

    fn is_done(&self) -> bool {
        !self.phase.receives() && self.inbox.is_empty() && self.handlers.is_empty() && self.outbox.is_empty()
    }

    /// Takes a batch and hands it to the service. Pending if there is none, the service takes none now, or too many
    /// answers wait.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.outbox.has_room() {
            return Poll::Pending;
        }
        ready!(self.poll_limit(cx));
        if self.inbox.is_empty() {
            ready!(self.poll_recv(cx));
        }
        while !self.inbox.is_empty() && self.outbox.has_room() {
            ready!(self.poll_next(cx));
            ready!(self.poll_limit(cx));
        }
        Poll::Ready(())
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (socket, observer) = (&self.server.socket, &mut self.observer);
        match &mut self.phase {
            Phase::Serving => self.inbox.poll_recv(cx, socket, observer),
            Phase::Closing { batches_left: 0, .. } => Poll::Pending,
            Phase::Closing { batches_left, .. } => {
                let received = self.inbox.try_recv(socket, observer);
                *batches_left = if received { *batches_left - 1 } else { 0 };
                Poll::Ready(())
            }
        }
    }

    /// Hands the next datagram of the batch to the service. Pending if the service takes none now.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Lets other tasks and the shutdown run during a flood, and no handler start without a budget, which would make it
        // wait.
        ready!(poll_proceed(cx));
        let Some(left) = self.datagrams_left.checked_sub(1) else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let service = &mut self.service;
        let ready = catch_unwind(AssertUnwindSafe(|| {
            service
                .poll_ready(cx)
                .map_err(|error| Handled::Failed(error.to_string()))
        }));
        let is_ready = match ready {
            Ok(ready) => ready!(ready),
            Err(_) => Err(Handled::Panicked),
        };

        let socket = &self.server.socket;
        let Some(mut datagram) = self.inbox.next(socket) else {
            return Poll::Ready(());
        };
        self.datagrams_left = left;
        let route = datagram.route(socket.local_addr());
        let tag = match self.observer.received(&mut datagram) {
            Ok(tag) => tag,
            Err(tag) => {
                self.observer.outcome(tag, Outcome::Unanswered, 1);
                return Poll::Ready(());
            }
        };
        let future = is_ready.and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| service.call(datagram))).map_err(|_| Handled::Panicked)
        });
        let ticket = Ticket { tag, route };
        match future {
            Ok(future) => {
                if let Some((ticket, handled)) = self.handlers.start(cx, future, ticket) {
                    self.finish(ticket, handled);
                }
            }
            Err(handled) => self.finish(ticket, handled),
        }
        Poll::Ready(())
    }

    /// Aborts the oldest handlers past the limit. Pending if the handlers past it may only lack budget: then the next poll
    /// begins with them.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.server.max_in_flight;
        loop {
            if self.handlers.len() > limit {
                self.poll_handlers(cx);
            }
            let exceeds = self.handlers.len() > limit;
            self.waits_for_budget = exceeds && !self.waits_for_budget && poll_proceed(cx).is_pending();
            if self.waits_for_budget {
                return Poll::Pending;
            }
            if !exceeds {
                return Poll::Ready(());
            }
            self.handlers.abort_oldest();
            self.observer.trouble(Trouble::Overload { limit });
            // The handlers take turns, so it may take several rounds to come to the oldest.
            while self.handlers.len() > limit {
                self.poll_handlers(cx);
            }
        }
    }

    /// Finishes the handlers that are done.
    fn poll_handlers(&mut self, cx: &mut Context<'_>) {
        while let Some((ticket, handled)) = self.handlers.poll_done(cx) {
            self.finish(ticket, handled);
        }
    }

    fn finish(&mut self, Ticket { tag, route }: Ticket<O::Tag>, handled: Handled) {
        let mut outcome = |outcome| self.observer.outcome(tag, outcome, 1);
        match (handled, route) {
            (Handled::Answer(payload), Some(route)) => {
                let answer = Outgoing { payload, route, tag };
                self.outbox.send(answer, &self.server.socket, &mut self.observer);
            }
            (Handled::Answer(_), None) | (Handled::NoAnswer, _) => outcome(Outcome::Unanswered),
            (Handled::Failed(error), _) => outcome(Outcome::HandlerFailed(&error)),
            (Handled::Panicked, _) => outcome(Outcome::HandlerPanicked),
            (Handled::Aborted, _) => outcome(Outcome::Aborted),
        }
    }
}
