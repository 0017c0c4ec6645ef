//! What the server counts, and what it logs.

use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use metrics::{Counter, counter, describe_counter};

use crate::scope::{Scope, warn_without_recorder};

/// At most one line of each kind is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Counts what becomes of datagrams, each in the scope of its client, and logs what goes wrong.
pub(super) struct Report {
    prefix: String,
    socket: SocketAddr,
    /// The scope of the socket itself.
    server: Scope,
    counters: Option<Counters>,
    failures: LogLimit,
    overload: LogLimit,
    socket_errors: LogLimit,
    stalls: LogLimit,
}

impl Report {
    pub(super) fn new(prefix: String, socket: SocketAddr, server: Scope) -> Self {
        Self {
            prefix,
            socket,
            server,
            counters: None,
            failures: LogLimit::default(),
            overload: LogLimit::default(),
            socket_errors: LogLimit::default(),
            stalls: LogLimit::default(),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn received(&mut self, client: Scope) {
        self.count(client, |counters| &counters.received);
    }

    pub(super) fn sent(&mut self, client: Scope, answers: u64) {
        self.count_many(client, answers, |counters| &counters.sent);
    }

    pub(super) fn unanswered(&mut self, client: Scope) {
        self.count(client, |counters| &counters.unanswered);
    }

    pub(super) fn aborted(&mut self, client: Scope) {
        self.count(client, |counters| &counters.aborted);
    }

    pub(super) fn handler_error(&mut self, client: Scope, error: &str) {
        self.count(client, |counters| &counters.handler_error);
        if let Some(left_out) = self.failures.allows() {
            tracing::warn!(socket = %self.socket, error, left_out, "a handler failed");
        }
    }

    pub(super) fn handler_panic(&mut self, client: Scope) {
        self.count(client, |counters| &counters.handler_panic);
        if let Some(left_out) = self.failures.allows() {
            tracing::error!(socket = %self.socket, left_out, "a handler panicked");
        }
    }

    /// The socket did not take an answer of `length` bytes.
    pub(super) fn send_error(&mut self, client: Scope, error: &io::Error, length: usize) {
        self.count(client, |counters| &counters.send_failed);
        if let Some(left_out) = self.failures.allows() {
            tracing::warn!(
                socket = %self.socket,
                %error,
                length,
                left_out,
                "the socket did not take an answer"
            );
        }
    }

    /// An answer was given up before the socket could take it.
    pub(super) fn send_blocked(&mut self, client: Scope) {
        self.count(client, |counters| &counters.send_blocked);
    }

    /// The socket has taken no answer for one more second.
    pub(super) fn stalled(&mut self, blocked: Duration, waiting: usize) {
        self.count(self.server, |counters| &counters.send_stalled);
        if let Some(left_out) = self.stalls.allows() {
            tracing::warn!(
                socket = %self.socket,
                ?blocked,
                waiting,
                left_out,
                "the send buffer is full and the socket takes no answers: its link is too slow, or answers wait for \
                 neighbours that do not exist; see `SocketOptions::send_buffer_size`"
            );
        }
    }

    pub(super) fn receive_error(&mut self, error: &io::Error) {
        self.count(self.server, |counters| &counters.receive_error);
        if let Some(left_out) = self.socket_errors.allows() {
            tracing::warn!(socket = %self.socket, %error, left_out, "cannot receive datagrams");
        }
    }

    /// `limit` handlers wait.
    pub(super) fn overload(&mut self, limit: usize, consequence: impl Display) {
        if let Some(left_out) = self.overload.allows() {
            tracing::warn!(
                socket = %self.socket,
                limit,
                left_out,
                "too many handlers wait, {consequence}; see `UdpServer::max_in_flight`"
            );
        }
    }

    fn count(&mut self, scope: Scope, counter: impl FnOnce(&Counters) -> &Counter) {
        self.count_many(scope, 1, counter);
    }

    fn count_many(&mut self, scope: Scope, number: u64, counter: impl FnOnce(&Counters) -> &Counter) {
        let prefix = &self.prefix;
        let counters = self.counters.get_or_insert_with(|| {
            warn_without_recorder();
            Counters::register(prefix)
        });
        scope.run(|| counter(counters).increment(number));
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
            "Datagrams whose handler was dropped before it was done, or that were refused past the limit.",
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
}

/// Allows one line in each [`LOG_INTERVAL`], and counts those that are left out.
#[derive(Default)]
struct LogLimit {
    last: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    /// How many lines were left out since the last one, if a line is allowed now.
    fn allows(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.left_out))
    }
}
