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

use super::{
    Datagram, DatagramSocket, Overload, SocketDrops, UdpServer, address::Route, budget::poll_proceed,
    call::Outcome, handlers::Handlers, inbox::Inbox, outbox::Outbox, report::Report,
};
use crate::scope::{ClientScopes, Scope, WithScope as _};

/// How many batches a server that shuts down receives at most. A peer that keeps sending cannot delay it further.
const BATCHES_WHEN_CLOSING: u32 = 512;

/// Old versions of `futures-timer` panic if a time cannot be added to now.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pin_project! {
    /// The future of [`UdpServer::serve`]: serves until it is dropped or shut down gracefully.
    ///
    /// When it is dropped, it drops the handlers that wait, in their scopes, and counts them as aborted.
    #[must_use = "nothing is served unless it is polled"]
    pub struct Serve<S, Signal = Pending<()>>
    where
        S: Service<Datagram>,
    {
        core: Core<S>,
        #[pin]
        signal: Signal,
    }
}

impl<S: Service<Datagram>> Serve<S> {
    pub(super) fn new(server: UdpServer, service: S) -> Self {
        Self {
            core: Core::new(server, service),
            signal: std::future::pending(),
        }
    }

    /// Shuts down when `signal` is done. The server answers what the system has received by then, and nothing after
    /// that. It is done when all handlers are, or after [`UdpServer::shutdown_timeout`]: then it aborts those that still
    /// wait.
    pub fn with_graceful_shutdown<Signal: Future<Output = ()>>(self, signal: Signal) -> Serve<S, Signal> {
        Serve {
            core: self.core,
            signal,
        }
    }
}

impl<S: Service<Datagram>, Signal> Serve<S, Signal> {
    /// Counts what the kernel drops at the socket. Call it before the server is spawned.
    #[must_use]
    pub fn socket_drops(&self) -> SocketDrops {
        let core = &self.core;
        core.socket
            .socket_drops(core.report.prefix(), core.scopes.server())
    }
}

impl<S, Signal> Future for Serve<S, Signal>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
    Signal: Future<Output = ()>,
{
    /// `Ok` after a graceful shutdown. No error is returned today: errors of the socket are counted, logged, and tried
    /// again.
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let core = this.core;
        if matches!(core.phase, Phase::Serving) && this.signal.poll(cx).is_ready() {
            core.phase = Phase::Closing {
                deadline: Delay::new(core.shutdown_timeout.min(LONGEST_SHUTDOWN)),
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

impl<S: Service<Datagram>, Signal> fmt::Debug for Serve<S, Signal> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("socket", &self.core.socket)
            .field("in_flight", &self.core.handlers.len())
            .finish_non_exhaustive()
    }
}

enum Phase {
    Serving,
    /// Receives at most `batches_left` more batches of what the system has queued, then nothing.
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

struct Core<S: Service<Datagram>> {
    socket: DatagramSocket,
    service: S,
    scopes: ClientScopes,
    source: Option<Box<dyn crate::client::DatagramSource>>,
    max_in_flight: usize,
    overload: Overload,
    shutdown_timeout: Duration,
    phase: Phase,
    /// Whether the handlers that wait are polled before a batch is taken, or after it. They take turns, because either may
    /// use up the budget that the task has for one poll.
    handlers_first: bool,
    /// Whether handlers past the limit wait for the next budget before it is decided about them.
    gave_way: bool,
    inbox: Inbox,
    handlers: Handlers<S::Future>,
    outbox: Outbox,
    report: Report,
}

impl<S: Service<Datagram>> Core<S> {
    fn new(server: UdpServer, service: S) -> Self {
        Self {
            report: Report::new(server.prefix, server.socket.local_addr(), server.scopes.server()),
            socket: server.socket,
            service,
            scopes: server.scopes,
            source: server.source,
            max_in_flight: server.max_in_flight,
            overload: server.overload,
            shutdown_timeout: server.shutdown_timeout,
            phase: Phase::Serving,
            handlers_first: true,
            gave_way: false,
            inbox: Inbox::new(),
            handlers: Handlers::new(),
            outbox: Outbox::new(server.max_send_batch),
        }
    }

    /// Gives an outcome to everything that has none yet.
    fn give_up(&mut self) {
        for client in self.handlers.drop_all() {
            self.report.aborted(client);
        }
        self.outbox.give_up(&mut self.report);
        while self.refuse_next() {}
    }

    /// Counts the next datagram of the batch as aborted, if there is one.
    fn refuse_next(&mut self) -> bool {
        let Some(mut datagram) = self.inbox.next(&self.socket) else {
            return false;
        };
        self.read_client(&mut datagram);
        let client = self.scopes.for_client(&datagram);
        self.report.received(client);
        self.report.aborted(client);
        true
    }

    /// Returns false if the datagram must not be served.
    fn read_client(&self, datagram: &mut Datagram) -> bool {
        let source = self.source.as_deref();
        source.is_none_or(|source| datagram.read_client(source))
    }
}

impl<S: Service<Datagram>> Drop for Core<S> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<S> Core<S>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
{
    /// Ready after a shutdown, when everything has its outcome.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handlers_first = !self.handlers_first || self.gave_way;
        loop {
            let had_room = self.outbox.has_room();
            if self.handlers_first {
                self.poll_handlers(cx);
            }
            let taken = self.poll_batch(cx);
            if !self.handlers_first {
                self.poll_handlers(cx);
            }
            self.outbox.flush(cx, &self.socket, &mut self.report);
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
        let (socket, report) = (&self.socket, &mut self.report);
        match &mut self.phase {
            Phase::Serving => self.inbox.poll_recv(cx, socket, report),
            Phase::Closing { batches_left: 0, .. } => Poll::Pending,
            Phase::Closing { batches_left, .. } => {
                let received = self.inbox.try_recv(socket, report);
                *batches_left = if received { *batches_left - 1 } else { 0 };
                Poll::Ready(())
            }
        }
    }

    /// Hands the next datagram of the batch to the service. Pending if the service takes none now.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.max_in_flight;
        if self.overload == Overload::RefuseNewest && ready!(self.poll_exceeds(cx, limit - 1)) {
            self.refuse_next();
            self.report.overload(limit, "a datagram is refused");
            return Poll::Ready(());
        }

        // Lets other tasks run during a flood, and no handler start without a budget, which would make it wait.
        ready!(poll_proceed(cx));
        let service = &mut self.service;
        let ready = catch_unwind(AssertUnwindSafe(|| {
            service
                .poll_ready(cx)
                .map_err(|error| Outcome::HandlerError(error.to_string()))
        }));
        let is_ready = match ready {
            Ok(ready) => ready!(ready),
            Err(_) => Err(Outcome::HandlerPanic),
        };

        let Some(mut datagram) = self.inbox.next(&self.socket) else {
            return Poll::Ready(());
        };
        let route = Route::new(self.socket.local_addr(), datagram.local_addr(), datagram.peer());
        let is_served = self.read_client(&mut datagram);
        let scope = self.scopes.for_client(&datagram);
        self.report.received(scope);
        if !is_served {
            self.report.unanswered(scope);
            return Poll::Ready(());
        }
        let service = &mut self.service;
        let future = is_ready.and_then(|()| {
            // The future gets what the call adds to the scope.
            let call = || service.call(datagram).with_current_scope();
            scope
                .run(|| catch_unwind(AssertUnwindSafe(call)))
                .map_err(|_| Outcome::HandlerPanic)
        });
        match future {
            Ok(future) => {
                if let Some(done) = self.handlers.start(cx, future, scope, route) {
                    self.finish(done.outcome, done.scope, done.route);
                }
            }
            Err(outcome) => self.finish(outcome, scope, route),
        }
        Poll::Ready(())
    }

    /// Aborts the oldest handlers past the limit.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.max_in_flight;
        while self.overload == Overload::AbortOldest && ready!(self.poll_exceeds(cx, limit)) {
            self.handlers.abort_oldest();
            self.report.overload(limit, "the oldest is aborted");
            // The handlers take turns, so it may take several rounds to come to the oldest.
            while self.handlers.len() > limit {
                self.poll_handlers(cx);
            }
        }
        Poll::Ready(())
    }

    /// Whether more than `limit` handlers wait. Pending if they may only lack budget: then the next poll begins with
    /// them.
    fn poll_exceeds(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<bool> {
        if self.handlers.len() > limit {
            self.poll_handlers(cx);
        }
        let exceeds = self.handlers.len() > limit;
        self.gave_way = exceeds && !self.gave_way && poll_proceed(cx).is_pending();
        if self.gave_way {
            Poll::Pending
        } else {
            Poll::Ready(exceeds)
        }
    }

    /// Finishes the handlers that are done.
    fn poll_handlers(&mut self, cx: &mut Context<'_>) {
        while let Some(done) = self.handlers.poll_done(cx) {
            self.finish(done.outcome, done.scope, done.route);
        }
    }

    fn finish(&mut self, outcome: Outcome, scope: Scope, route: Option<Route>) {
        match outcome {
            Outcome::Answer(payload) => match route {
                Some(route) => self
                    .outbox
                    .send(&self.socket, payload, route, scope, &mut self.report),
                None => self.report.unanswered(scope),
            },
            Outcome::NoAnswer => self.report.unanswered(scope),
            Outcome::Aborted => self.report.aborted(scope),
            Outcome::HandlerError(error) => self.report.handler_error(scope, &error),
            Outcome::HandlerPanic => self.report.handler_panic(scope),
        }
    }
}
