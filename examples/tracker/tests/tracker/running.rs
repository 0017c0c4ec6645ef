//! The tracker's binary as a child process, and its counters.

use std::{
    net::{IpAddr, SocketAddr},
    process::Output,
};

use test_support::{
    INET, INET6, Labels, MAPPED, Program, Seen, Signal, and, assert_soon, http::get, sample, samples, seven,
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tracker");

/// Runs the binary to its end.
pub(crate) fn run(args: &str) -> Output {
    Program::run(BINARY, args)
}

/// A tracker that serves.
pub(crate) struct Tracker {
    /// In the order of the arguments.
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) metrics: SocketAddr,
    program: Program,
}

impl Tracker {
    /// One socket for each protocol.
    pub(crate) fn dual_stack() -> Self {
        Self::start("--udp [::]:0 --http [::]:0")
    }

    /// With `/metrics` on a free port.
    pub(crate) fn start(listeners: &str) -> Self {
        Self::start_as(&format!("{listeners} --metrics 127.0.0.1:0"))
    }

    pub(crate) fn start_as(args: &str) -> Self {
        let (program, urls) = Program::listening(BINARY, args);
        let addresses = |scheme: &str| {
            let urls = urls.iter().filter_map(|url| url.strip_prefix(scheme));
            let addresses = urls.map(|url| url.trim_end_matches("/metrics").parse().expect(url));
            addresses.collect::<Vec<SocketAddr>>()
        };
        let (udp, mut http) = (addresses("udp://"), addresses("http://"));
        assert_eq!(udp.len() + http.len(), urls.len(), "{urls:?}");
        Self {
            metrics: http.pop().expect("its metrics are the last"),
            udp,
            http,
            program,
        }
    }

    /// Asserts all series of the tracker, but for others that are still at zero. It counts a response after it has sent it.
    #[track_caller]
    pub(crate) fn assert_counts(&self, expected: impl IntoIterator<Item = String>) {
        const PREFIXES: [&str; 4] = [
            "udp_tracker_server_",
            "http_tracker_core_",
            "swarm_coordination_registry_",
            "tracker_core_",
        ];
        let expected: Vec<String> = expected.into_iter().collect();
        let counts = || {
            let mut samples = samples(&get(self.metrics, "/metrics").text());
            samples.retain(|sample| PREFIXES.iter().any(|prefix| sample.starts_with(prefix)));
            samples.retain(|sample| !sample.ends_with(" 0") || expected.contains(sample));
            samples
        };
        assert_soon(counts, expected.iter().cloned());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Shuts it down as an operator does. It must still run. Returns its log.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.stop_with(Signal::SIGTERM)
    }

    #[track_caller]
    pub(crate) fn stop_with(self, signal: Signal) -> String {
        self.program.stop(signal)
    }
}

/// Where a client at `ip` reaches a listener.
pub(crate) fn at(ip: IpAddr, listener: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip, listener.port())
}

/// How a listener sees a client at `ip`. The listener is IPv4 where the host has no IPv6 sockets.
pub(crate) fn seen(ip: IpAddr, listener: SocketAddr) -> Seen {
    match (ip.is_ipv4(), listener.is_ipv4()) {
        (true, true) => INET,
        (true, false) => MAPPED,
        _ => INET6,
    }
}

/// A word for a metric, its name, and the kind of request.
type Metric = (&'static str, &'static str, Option<&'static str>);

const UDP: &[Metric] = &[
    ("received", "udp_tracker_server_requests_received_total", None),
    ("sent", "udp_tracker_server_responses_sent_total", None),
    ("unanswered", "udp_tracker_server_requests_unanswered_total", None),
    (
        "connects",
        "udp_tracker_server_requests_accepted_total",
        Some("connect"),
    ),
    (
        "announces",
        "udp_tracker_server_requests_accepted_total",
        Some("announce"),
    ),
    (
        "scrapes",
        "udp_tracker_server_requests_accepted_total",
        Some("scrape"),
    ),
    ("errors", "udp_tracker_server_errors_total", None),
    ("aborted", "udp_tracker_server_requests_aborted_total", None),
    ("banned", "udp_tracker_server_requests_banned_total", None),
];
const HTTP: &[Metric] = &[
    (
        "announces",
        "http_tracker_core_requests_received_total",
        Some("announce"),
    ),
    (
        "scrapes",
        "http_tracker_core_requests_received_total",
        Some("scrape"),
    ),
    (
        "announce_errors",
        "http_tracker_core_errors_total",
        Some("announce"),
    ),
    ("scrape_errors", "http_tracker_core_errors_total", Some("scrape")),
];
const SWARM: &[Metric] = &[
    (
        "torrents",
        "swarm_coordination_registry_torrents_added_total",
        None,
    ),
    (
        "downloads",
        "tracker_core_persistent_torrents_downloads_total",
        None,
    ),
    (
        "refused",
        "swarm_coordination_registry_announces_refused_total",
        None,
    ),
];

/// The samples of one class of UDP clients on one socket, such as `"received 2, sent 2, connects 2"`.
pub(crate) fn udp_counts(client: Seen, socket: SocketAddr, counts: &str) -> Vec<String> {
    counted(UDP, &seven("udp", socket, client), counts)
}

/// The samples of one class of HTTP clients on one socket, such as `"announces 3, scrapes 1"`.
pub(crate) fn http_counts(client: Seen, socket: SocketAddr, counts: &str) -> Vec<String> {
    counted(HTTP, &seven("http", socket, client), counts)
}

/// The samples of the swarm, which have no labels, such as `"torrents 1, downloads 2"`.
pub(crate) fn swarm_counts(counts: &str) -> Vec<String> {
    counted(SWARM, &Labels::new(), counts)
}

fn counted(metrics: &[Metric], labels: &Labels, counts: &str) -> Vec<String> {
    let sample_of = |count: &str| {
        let (word, value) = count.split_once(' ').expect(count);
        let (_, name, kind) = metrics.iter().find(|(known, ..)| *known == word).expect(word);
        let labels = match kind {
            Some(kind) => and(labels.clone(), "request_kind", kind),
            None => labels.clone(),
        };
        sample(name, &labels, value.parse().expect(count))
    };
    counts.split(", ").map(sample_of).collect()
}
