//! The counters of a server, and its log.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use dualstack_udp::{Datagram, Observer, Outcome, Trouble};
use metrics::{Counter, counter, describe_counter};

use super::datagram::read_client;
use crate::{
    client::DatagramSource,
    log::LogLimit,
    scope::{ClientScopes, Scope, warn_without_recorder},
};

type OnOutcome = Box<dyn FnMut(Outcome<'_>, u64) + Send>;

/// Finds the scope of each datagram, counts its outcome there, and logs errors.
pub(super) struct Report {
    pub(super) prefix: String,
    pub(super) has_counters: bool,
    pub(super) on_outcome: Option<OnOutcome>,
    pub(super) scopes: ClientScopes,
    pub(super) source: Option<Box<dyn DatagramSource>>,
    socket: SocketAddr,
    counters: Option<Counters>,
    failures: LogLimit,
    overload: LogLimit,
    socket_errors: LogLimit,
    stalls: LogLimit,
}

impl Report {
    pub(super) fn new(socket: SocketAddr, scopes: ClientScopes) -> Self {
        let limit = || LogLimit::new(Duration::from_secs(1));
        Self {
            prefix: "udp_server".to_owned(),
            has_counters: true,
            on_outcome: None,
            scopes,
            source: None,
            socket,
            counters: None,
            failures: limit(),
            overload: limit(),
            socket_errors: limit(),
            stalls: limit(),
        }
    }

    /// Starts all counters at zero, for the clients that the socket can see. The counters are registered again with the
    /// first datagram, in case a recorder is installed only then.
    pub(super) fn start_at_zero(&self) {
        if !self.has_counters {
            return;
        }
        let counters = Counters::register(&self.prefix);
        let start = |scope: Scope, counters: &[&Counter]| {
            scope.run(|| counters.iter().for_each(|counter| counter.increment(0)));
        };
        for client in self.scopes.expected() {
            start(client, &counters.of_clients());
        }
        start(
            self.scopes.server(),
            &[&counters.send_stalled, &counters.receive_error],
        );
    }

    fn count(&mut self, scope: Scope, number: u64, counter: impl FnOnce(&Counters) -> &Counter) {
        if self.has_counters {
            let counters = self
                .counters
                .get_or_insert_with(|| Counters::register(&self.prefix));
            scope.run(|| counter(counters).increment(number));
        }
    }
}

/// Whose outcome it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// The scope of the client, without labels that a handler adds: all outcomes of a client are in one series.
    scope: Scope,
    /// Whether the source panicked.
    has_panicked: bool,
}

impl Observer for Report {
    type Tag = Tag;

    fn received(&mut self, datagram: &mut Datagram) -> Result<Tag, Tag> {
        warn_without_recorder();
        let read = self.source.as_deref().map_or(Ok(true), |source| {
            catch_unwind(AssertUnwindSafe(|| read_client(source, datagram)))
        });
        if read.is_err() {
            *datagram = datagram.clone().without_client();
        }
        let tag = Tag {
            scope: self.scopes.for_client(&*datagram),
            has_panicked: read.is_err(),
        };
        self.count(tag.scope, 1, |counters| &counters.received);
        if matches!(read, Ok(true)) {
            Ok(tag)
        } else {
            Err(tag)
        }
    }

    fn outcome(&mut self, tag: Tag, outcome: Outcome<'_>, datagrams: u64) {
        let outcome = if tag.has_panicked {
            Outcome::HandlerPanicked
        } else {
            outcome
        };
        self.count(tag.scope, datagrams, |counters| counters.of(outcome));
        if let Some(on_outcome) = &mut self.on_outcome {
            tag.scope.run(|| on_outcome(outcome, datagrams));
        }
        let (socket, failures) = (self.socket, &self.failures);
        match outcome {
            Outcome::HandlerFailed(error) => {
                if let Some(left_out) = failures.should_log() {
                    tracing::warn!(%socket, error, left_out, "a handler failed");
                }
            }
            Outcome::HandlerPanicked => {
                if let Some(left_out) = failures.should_log() {
                    tracing::error!(%socket, left_out, "a handler or the source of clients panicked");
                }
            }
            Outcome::SendFailed { error, length } => {
                if let Some(left_out) = failures.should_log() {
                    tracing::warn!(%socket, %error, length, left_out, "the socket did not take an answer");
                }
            }
            Outcome::Answered | Outcome::Unanswered | Outcome::Aborted | Outcome::SendBlocked => {}
        }
    }

    fn trouble(&mut self, trouble: Trouble<'_>) {
        let (socket, server) = (self.socket, self.scopes.server());
        match trouble {
            Trouble::ReceiveFailed(error) => {
                self.count(server, 1, |counters| &counters.receive_error);
                if let Some(left_out) = self.socket_errors.should_log() {
                    tracing::warn!(%socket, %error, left_out, "cannot receive datagrams");
                }
            }
            Trouble::Stalled { blocked, waiting } => {
                self.count(server, 1, |counters| &counters.send_stalled);
                if let Some(left_out) = self.stalls.should_log() {
                    tracing::warn!(
                        %socket,
                        ?blocked,
                        waiting,
                        left_out,
                        "the send buffer is full and the socket takes no answers: its link is too slow, or answers wait for \
                         neighbours that do not exist; see `SocketOptions::send_buffer_size`"
                    );
                }
            }
            Trouble::Overload { limit } => {
                if let Some(left_out) = self.overload.should_log() {
                    tracing::warn!(
                        %socket,
                        limit,
                        left_out,
                        "too many handlers wait, the oldest is aborted; see `UdpServer::max_in_flight`"
                    );
                }
            }
        }
    }
}

/// Registered once: the labels are chosen at each increment.
struct Counters {
    received: Counter,
    sent: Counter,
    unanswered: Counter,
    aborted: Counter,
    handler_error: Counter,
    handler_panic: Counter,
    send_failed: Counter,
    send_blocked: Counter,
    send_stalled: Counter,
    receive_error: Counter,
}

impl Counters {
    #[cold]
    fn register(prefix: &str) -> Self {
        let described = |name: &str, description: &'static str| {
            let name = format!("{prefix}_{name}");
            describe_counter!(name.clone(), description);
            name
        };
        let received = described("requests_received_total", "Datagrams taken from the socket.");
        let sent = described("responses_sent_total", "Answers that the socket took.");
        let unanswered = described(
            "requests_unanswered_total",
            "Datagrams that were left without an answer on purpose.",
        );
        let aborted = described(
            "requests_aborted_total",
            "Datagrams whose handler was dropped before it was done, or that were left when the server ended.",
        );
        let failed = described(
            "requests_failed_total",
            "Datagrams whose handler failed or panicked, or whose answer the socket did not take.",
        );
        let socket_errors = described(
            "socket_errors_total",
            "Errors of the socket itself: failed receives, and seconds in which it took no answer.",
        );
        Self {
            received: counter!(received),
            sent: counter!(sent),
            unanswered: counter!(unanswered),
            aborted: counter!(aborted),
            handler_error: counter!(failed.clone(), "reason" => "handler_error"),
            handler_panic: counter!(failed.clone(), "reason" => "handler_panic"),
            send_failed: counter!(failed.clone(), "reason" => "send"),
            send_blocked: counter!(failed, "reason" => "send_blocked"),
            send_stalled: counter!(socket_errors.clone(), "operation" => "send"),
            receive_error: counter!(socket_errors, "operation" => "receive"),
        }
    }

    fn of_clients(&self) -> [&Counter; 8] {
        [
            &self.received,
            &self.sent,
            &self.unanswered,
            &self.aborted,
            &self.handler_error,
            &self.handler_panic,
            &self.send_failed,
            &self.send_blocked,
        ]
    }

    fn of(&self, outcome: Outcome<'_>) -> &Counter {
        match outcome {
            Outcome::Answered => &self.sent,
            Outcome::Unanswered => &self.unanswered,
            Outcome::Aborted => &self.aborted,
            Outcome::HandlerFailed(_) => &self.handler_error,
            Outcome::HandlerPanicked => &self.handler_panic,
            Outcome::SendFailed { .. } => &self.send_failed,
            Outcome::SendBlocked => &self.send_blocked,
        }
    }
}
