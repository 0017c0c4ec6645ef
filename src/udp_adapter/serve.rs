//! The loop.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Display},
    future::Pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::{
    Datagram, Overload, SocketDrops, UdpServer,
    call::{Abort, Call, Done, Outcome},
    counters::Counters,
    packet::{Batch, DatagramSocket, Route},
};
use crate::scope::{ClientScopes, Scope};

/// A socket that fails this often in a row is left alone for a while.
const ERRORS_IN_A_ROW: u32 = 16;
const ERROR_PAUSE: Duration = Duration::from_millis(100);

const BATCHES_WHEN_CLOSING: u32 = 512;

pin_project! {
    /// The future of [`UdpServer::serve`]: serves until it is dropped, or shut down gracefully.
    ///
    /// When it is dropped, the handlers that wait are dropped in their scopes and counted as aborted.
    #[must_use = "nothing is served unless it is polled"]
    pub struct Serve<S, Signal = Pending<()>>
    where
        S: Service<Datagram>,
    {
        core: Core<S>,
        #[pin]
        signal: Signal,
        shutdown: Shutdown,
    }
}

enum Shutdown {
    No,
    /// What the system has queued is still received, then nothing any more.
    Yes {
        deadline: Pin<Box<Sleep>>,
    },
}

impl<S: Service<Datagram>> Serve<S> {
    pub(super) fn new(server: UdpServer, service: S) -> Self {
        Self {
            core: Core::new(server, service),
            signal: std::future::pending(),
            shutdown: Shutdown::No,
        }
    }

    /// Shuts down when `signal` is done: what the system has received by then is answered, and nothing after that. The
    /// server is done when all handlers are, or after [`UdpServer::shutdown_timeout`], when those that still wait are
    /// aborted.
    ///
    /// # Panics
    ///
    /// The returned future panics when the signal comes and the runtime's time driver is not enabled.
    pub fn with_graceful_shutdown<Signal: Future<Output = ()>>(self, signal: Signal) -> Serve<S, Signal> {
        Serve {
            core: self.core,
            signal,
            shutdown: self.shutdown,
        }
    }
}

impl<S: Service<Datagram>, Signal> Serve<S, Signal> {
    /// What the kernel dropped at the socket, to be asked for while the server runs.
    #[must_use]
    pub fn socket_drops(&self) -> SocketDrops {
        SocketDrops::new(
            self.core.socket.id(),
            self.core.scopes.server(),
            &self.core.prefix,
        )
    }
}

impl<S, Signal> Future for Serve<S, Signal>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
    Signal: Future<Output = ()>,
{
    /// `Ok` after a graceful shutdown. An error is never returned today: what goes wrong with the socket is counted,
    /// logged, and tried again.
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if matches!(this.shutdown, Shutdown::No) && this.signal.poll(cx).is_ready() {
            let deadline = Box::pin(tokio::time::sleep(this.core.shutdown_timeout));
            *this.shutdown = Shutdown::Yes { deadline };
            this.core.is_closing = true;
        }
        // Before the handlers, which may leave nothing of the task's budget.
        let is_late = match this.shutdown {
            Shutdown::Yes { deadline } => deadline.as_mut().poll(cx).is_ready(),
            Shutdown::No => false,
        };
        if is_late {
            this.core.give_up();
        } else {
            ready!(this.core.poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Service<Datagram>, Signal> fmt::Debug for Serve<S, Signal> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("socket", &self.core.socket)
            .field("in_flight", &self.core.in_flight.len())
            .finish_non_exhaustive()
    }
}

/// Says at the most once a second that something goes wrong.
#[derive(Default)]
struct LogLimit {
    last: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    /// How often it was left out since the last time, when it is time to say it again.
    fn allows(&mut self) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| last.elapsed() < Duration::from_secs(1))
        {
            self.left_out += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.left_out))
    }
}

#[derive(Default)]
struct Log {
    failed: LogLimit,
    overload: LogLimit,
    socket: LogLimit,
}

struct Core<S: Service<Datagram>> {
    socket: DatagramSocket,
    service: S,
    scopes: ClientScopes,
    prefix: String,
    max_in_flight: usize,
    overload: Overload,
    shutdown_timeout: Duration,

    counters: Option<Counters>,
    batch: Batch,
    next_number: u64,
    /// The place for the next handler, when there is one.
    vacant: Option<Pin<Box<Call<S::Future>>>>,
    in_flight: FuturesUnordered<Pin<Box<Call<S::Future>>>>,
    /// The handlers in flight, oldest first.
    by_age: BTreeMap<u64, Arc<Abort>>,
    /// Answers that the socket did not take yet.
    outbox: VecDeque<(Bytes, Route, Scope)>,

    is_closing: bool,
    /// How much is still received when closing: a peer that goes on sending must not hold the server up.
    batches_left: u32,
    is_closed: bool,
    errors_in_a_row: u32,
    pause: Option<Pin<Box<Sleep>>>,
    log: Log,
}

impl<S: Service<Datagram>> Core<S> {
    fn new(server: UdpServer, service: S) -> Self {
        Self {
            socket: server.socket,
            service,
            scopes: server.scopes,
            prefix: server.prefix,
            max_in_flight: server.max_in_flight,
            overload: server.overload,
            shutdown_timeout: server.shutdown_timeout,
            counters: None,
            batch: Batch::new(),
            next_number: 0,
            vacant: None,
            in_flight: FuturesUnordered::new(),
            by_age: BTreeMap::new(),
            outbox: VecDeque::new(),
            is_closing: false,
            batches_left: BATCHES_WHEN_CLOSING,
            is_closed: false,
            errors_in_a_row: 0,
            pause: None,
            log: Log::default(),
        }
    }

    fn count(&mut self, scope: Scope, counter: impl FnOnce(&Counters) -> &metrics::Counter) {
        let prefix = &self.prefix;
        let counters = self.counters.get_or_insert_with(|| Counters::register(prefix));
        scope.run(|| counter(counters).increment(1));
    }

    /// Gives everything that has no outcome yet the one it is left with.
    fn give_up(&mut self) {
        let waiting: Vec<Scope> = self
            .in_flight
            .iter_mut()
            .map(|call| {
                call.as_mut().clear();
                call.scope()
            })
            .collect();
        self.in_flight.clear();
        self.by_age.clear();
        for scope in waiting {
            self.count(scope, |counters| &counters.aborted);
        }
        while let Some((_, _, scope)) = self.outbox.pop_front() {
            self.count(scope, |counters| &counters.send_failed);
        }
        while self.abort_next() {}
    }

    /// Takes the next datagram of the batch, if there is one, and serves it no further.
    fn abort_next(&mut self) -> bool {
        let Some((_, meta)) = self.batch.next() else {
            return false;
        };
        let scope = self.scopes.for_client(meta.addr);
        self.count(scope, |counters| &counters.received);
        self.count(scope, |counters| &counters.aborted);
        true
    }

    fn warn_of_overload(&mut self, message: &'static str) {
        if let Some(left_out) = self.log.overload.allows() {
            tracing::warn!(
                socket = %self.socket.local_addr(),
                limit = self.max_in_flight,
                left_out,
                "too many handlers wait, {message}; see `UdpServer::max_in_flight`"
            );
        }
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
    /// Ready when it is closing and everything has its outcome.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.poll_flush(cx));
            // First a batch, then the handlers that wait: either could use up the task's budget.
            let taken = self.poll_batch(cx);
            self.poll_in_flight(cx);
            if !self.outbox.is_empty() {
                continue;
            }
            if taken.is_pending() {
                return Poll::Pending;
            }
            if self.is_closed && self.batch.is_empty() {
                return if self.in_flight.is_empty() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
        }
    }

    /// Takes a batch and hands it to the service. Pending when there is none, or the service takes none now.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.batch.is_empty() && !self.is_closed {
            if self.is_closing {
                // What the system has queued, until there is nothing, or an error.
                self.batches_left -= 1;
                match self.socket.try_recv(&mut self.batch) {
                    Ok(()) => self.is_closed = self.batches_left == 0,
                    Err(error) => {
                        self.is_closed = true;
                        if error.kind() != io::ErrorKind::WouldBlock {
                            self.receive_failed(&error);
                        }
                    }
                }
            } else {
                ready!(self.poll_recv(cx));
            }
        }
        while !self.batch.is_empty() && self.outbox.is_empty() {
            ready!(self.poll_next_call(cx));
        }
        Poll::Ready(())
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match ready!(self.socket.poll_recv(cx, &mut self.batch)) {
            Ok(()) => self.errors_in_a_row = 0,
            Err(error) => {
                self.receive_failed(&error);
                self.errors_in_a_row += 1;
                if self.errors_in_a_row >= ERRORS_IN_A_ROW {
                    self.pause = Some(Box::pin(tokio::time::sleep(ERROR_PAUSE)));
                }
            }
        }
        Poll::Ready(())
    }

    fn receive_failed(&mut self, error: &io::Error) {
        self.count(self.scopes.server(), |counters| &counters.receive_error);
        if let Some(left_out) = self.log.socket.allows() {
            tracing::warn!(socket = %self.socket.local_addr(), %error, left_out, "cannot receive datagrams");
        }
    }

    /// Ready when the socket has taken every answer there was.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((answer, route, scope)) = self.outbox.pop_front() {
            match self.socket.poll_send_ready(cx) {
                Poll::Pending => {
                    self.outbox.push_front((answer, route, scope));
                    return Poll::Pending;
                }
                // The runtime is gone, and the socket will never be ready.
                Poll::Ready(Err(_)) => {
                    self.count(scope, |counters| &counters.send_failed);
                    continue;
                }
                Poll::Ready(Ok(())) => {}
            }
            if let Some(answer) = self.try_send(answer, route, scope) {
                self.outbox.push_front(answer);
            }
        }
        Poll::Ready(())
    }

    /// Sends an answer, and gives it back where the socket cannot take it now.
    fn try_send(&mut self, answer: Bytes, route: Route, scope: Scope) -> Option<(Bytes, Route, Scope)> {
        match self.socket.try_send(&answer, &route) {
            Ok(()) => self.count(scope, |counters| &counters.sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Some((answer, route, scope));
            }
            Err(error) => {
                self.count(scope, |counters| &counters.send_failed);
                if let Some(left_out) = self.log.failed.allows() {
                    tracing::warn!(
                        socket = %self.socket.local_addr(),
                        %error,
                        length = answer.len(),
                        left_out,
                        "the socket did not take an answer"
                    );
                }
            }
        }
        None
    }

    /// Takes what is done of the handlers in flight.
    fn poll_in_flight(&mut self, cx: &mut Context<'_>) {
        while !self.in_flight.is_empty() {
            let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(cx) else {
                return;
            };
            self.by_age.remove(&done.number);
            self.finish(done);
        }
    }

    fn finish(&mut self, done: Done) {
        let scope = done.scope;
        match done.outcome {
            Outcome::Answer(answer) => {
                // Answers keep their order.
                let waiting = if self.outbox.is_empty() {
                    self.try_send(answer, done.route, scope)
                } else {
                    Some((answer, done.route, scope))
                };
                self.outbox.extend(waiting);
            }
            Outcome::NoAnswer => self.count(scope, |counters| &counters.unanswered),
            Outcome::Aborted => self.count(scope, |counters| &counters.aborted),
            Outcome::HandlerError(error) => {
                self.count(scope, |counters| &counters.handler_error);
                if let Some(left_out) = self.log.failed.allows() {
                    tracing::warn!(socket = %self.socket.local_addr(), error, left_out, "a handler failed");
                }
            }
            Outcome::HandlerPanic => {
                self.count(scope, |counters| &counters.handler_panic);
                if let Some(left_out) = self.log.failed.allows() {
                    tracing::error!(socket = %self.socket.local_addr(), left_out, "a handler panicked");
                }
            }
        }
    }

    /// Hands the next datagram of the batch to the service. Pending when the service takes none now.
    fn poll_next_call(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.overload == Overload::RefuseNewest && !self.has_room(cx) {
            self.abort_next();
            self.warn_of_overload("a datagram is refused");
            return Poll::Ready(());
        }

        // A flood must leave the thread to others now and then, and its handlers must not find the budget used up, which
        // would make them wait.
        ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
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
        let Some((payload, meta)) = self.batch.next() else {
            return Poll::Ready(());
        };
        let scope = self.scopes.for_client(meta.addr);
        let route = Route::back(&meta);
        self.count(scope, |counters| &counters.received);
        self.next_number += 1;
        let number = self.next_number;

        let datagram = Datagram::new(payload, meta.addr, self.socket.destination(&meta));
        let service = &mut self.service;
        let future = is_ready.and_then(|()| {
            scope
                .run(|| catch_unwind(AssertUnwindSafe(|| service.call(datagram))))
                .map_err(|_| Outcome::HandlerPanic)
        });
        match future {
            Ok(future) => self.start(cx, number, future, scope, route),
            Err(outcome) => self.finish(Done {
                number,
                outcome,
                scope,
                route,
            }),
        }
        Poll::Ready(())
    }

    /// Polls a handler once, and keeps it when it has to wait.
    fn start(&mut self, cx: &mut Context<'_>, number: u64, future: S::Future, scope: Scope, route: Route) {
        let mut call = self.vacant.take().unwrap_or_else(Call::vacant);
        call.as_mut().start(number, future, scope, route);
        match call.as_mut().poll(cx) {
            Poll::Ready(done) => {
                self.vacant = Some(call);
                self.finish(done);
            }
            Poll::Pending => {
                self.make_room(cx);
                self.by_age.insert(number, call.as_mut().abort_handle());
                self.in_flight.push(call);
            }
        }
    }

    /// Whether one more handler may wait, when those that are done have gone.
    fn has_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.in_flight.len() >= self.max_in_flight {
            self.poll_in_flight(cx);
        }
        self.in_flight.len() < self.max_in_flight
    }

    fn make_room(&mut self, cx: &mut Context<'_>) {
        if self.has_room(cx) {
            return;
        }
        if let Some((_, oldest)) = self.by_age.pop_first() {
            oldest.abort();
            self.warn_of_overload("the oldest is aborted");
        }
        // The set takes turns, and may pass before it comes to the one that was aborted.
        while self.in_flight.len() >= self.max_in_flight {
            self.poll_in_flight(cx);
        }
    }
}
