use metrics::{Counter, counter, describe_counter};

/// The server's own counters, registered once: their labels are chosen at each increment.
pub(super) struct Counters {
    pub(super) received: Counter,
    pub(super) sent: Counter,
    pub(super) unanswered: Counter,
    pub(super) aborted: Counter,
    pub(super) handler_error: Counter,
    pub(super) handler_panic: Counter,
    pub(super) send_failed: Counter,
    pub(super) receive_error: Counter,
}

impl Counters {
    pub(super) fn register(prefix: &str) -> Self {
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
        let socket_errors = described("socket_errors_total", "Errors of the socket itself.");
        Self {
            received: counter!(received),
            sent: counter!(sent),
            unanswered: counter!(unanswered),
            aborted: counter!(aborted),
            handler_error: counter!(failed.clone(), "reason" => "handler_error"),
            handler_panic: counter!(failed.clone(), "reason" => "handler_panic"),
            send_failed: counter!(failed, "reason" => "send"),
            receive_error: counter!(socket_errors, "operation" => "receive"),
        }
    }
}
