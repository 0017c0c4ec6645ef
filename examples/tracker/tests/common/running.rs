//! The example's binary as a child process, and what it counts.

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use test_support::{
    Labels, Seen, and, assert_samples, eventually, http::get, sample, samples, seven, spawning,
};

fn command(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(args: &str) -> Output {
    let mut command = command(args);
    spawning(|| command.output()).unwrap()
}

/// A tracker that serves. Killed when dropped.
pub(crate) struct Tracker {
    /// In the order in which they were asked for.
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) metrics: SocketAddr,
    child: Child,
    // Kept open: a tracker that wrote more would fail.
    _stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<String>>,
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

    /// Returns when the tracker has said where it listens.
    pub(crate) fn start_as(args: &str) -> Self {
        let mut command = command(args);
        let (mut child, mut stdout, first) = spawning(|| {
            let mut child = command.spawn().unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let first = next_line(&mut stdout);
            (child, stdout, first)
        });
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });

        let (mut udp, mut http) = (Vec::new(), Vec::new());
        let mut line = first;
        let metrics = loop {
            let Some(url) = line.strip_prefix("listening on ") else {
                let _ = child.kill();
                panic!("tracker {args}: {line:?}, and\n{}", stderr.join().unwrap());
            };
            match url.split_once("://").expect(url) {
                ("udp", address) => udp.push(address.parse().expect(url)),
                ("http", address) => match address.strip_suffix("/metrics") {
                    Some(address) => break address.parse().expect(url),
                    None => http.push(address.parse().expect(url)),
                },
                _ => panic!("{url}"),
            }
            line = next_line(&mut stdout);
        };
        Self {
            udp,
            http,
            metrics,
            child,
            _stdout: stdout,
            stderr: Some(stderr),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asserts all series that the tracker has, once it has them: a response is counted after it was sent.
    #[track_caller]
    pub(crate) fn assert_counts(&self, expected: impl IntoIterator<Item = String>) {
        let mut expected: Vec<_> = expected.into_iter().collect();
        expected.sort();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut counts = self.counts();
        while counts != expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            counts = self.counts();
        }
        assert_samples(counts, expected);
    }

    /// The samples of what the tracker counts, sorted. There may be others, of the host.
    fn counts(&self) -> Vec<String> {
        const PREFIXES: [&str; 4] = [
            "udp_tracker_server_",
            "http_tracker_core_",
            "swarm_coordination_registry_",
            "tracker_core_",
        ];
        let mut samples = samples(&get(self.metrics, "/metrics").text());
        samples.retain(|sample| PREFIXES.iter().any(|prefix| sample.starts_with(prefix)));
        // The kernel's word, 0 included.
        samples.retain(|sample| !sample.starts_with("udp_tracker_server_socket_drops_total"));
        samples.sort();
        samples
    }

    /// Shuts it down as an operator would; it must have gone on until now. Returns what it had to say.
    pub(crate) fn stop(self) -> String {
        self.stop_with("TERM")
    }

    /// It does nothing until it is stopped.
    pub(crate) fn pause(&self) {
        self.kill("STOP");
    }

    /// Neither std nor every host has a `kill`, but every shell does.
    fn kill(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.id());
        let killed = spawning(|| Command::new("sh").args(["-c", &kill]).status()).unwrap();
        assert!(killed.success(), "{kill}");
    }

    pub(crate) fn stop_with(mut self, signal: &str) -> String {
        assert_eq!(self.child.try_wait().unwrap(), None, "still serves");
        self.kill(signal);
        // Where it is paused, it gets the signal now.
        self.kill("CONT");
        let mut status: Option<ExitStatus> = None;
        eventually("the tracker has stopped", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let stderr = self.stderr.take().unwrap().join().unwrap();
        assert_eq!(status.unwrap().code(), Some(0), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Both fail only where it has stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking()
            && let Some(Ok(stderr)) = self.stderr.take().map(JoinHandle::join)
        {
            eprintln!("the tracker said:\n{stderr}");
        }
    }
}

fn next_line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// A listener's address as a client has it.
pub(crate) fn at(ip: IpAddr, listener: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip, listener.port())
}

/// What is counted of one class of UDP clients on one socket. What is 0 has no series.
#[derive(Default)]
pub(crate) struct Udp {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) unanswered: u64,
    pub(crate) connects: u64,
    pub(crate) announces: u64,
    pub(crate) scrapes: u64,
    pub(crate) errors: u64,
}

impl Udp {
    pub(crate) fn of(&self, client: Seen, socket: SocketAddr) -> Vec<String> {
        let labels = seven("udp", socket, client);
        let accepted = "requests_accepted_total";
        let all = [
            ("requests_received_total", None, self.received),
            ("responses_sent_total", None, self.sent),
            ("requests_unanswered_total", None, self.unanswered),
            (accepted, Some("connect"), self.connects),
            (accepted, Some("announce"), self.announces),
            (accepted, Some("scrape"), self.scrapes),
            ("errors_total", None, self.errors),
        ];
        series("udp_tracker_server", &labels, &all)
    }
}

/// What is counted of one class of HTTP clients on one socket.
#[derive(Default)]
pub(crate) struct Http {
    pub(crate) announces: u64,
    pub(crate) scrapes: u64,
}

impl Http {
    pub(crate) fn of(&self, client: Seen, socket: SocketAddr) -> Vec<String> {
        let labels = seven("http", socket, client);
        let all = [
            ("requests_received_total", Some("announce"), self.announces),
            ("requests_received_total", Some("scrape"), self.scrapes),
        ];
        series("http_tracker_core", &labels, &all)
    }
}

/// The requests that one class of HTTP clients sent to one socket, and that were answered with a failure reason.
pub(crate) fn http_errors(client: Seen, socket: SocketAddr, kind: &str, count: u64) -> String {
    let labels = and(seven("http", socket, client), "request_kind", kind);
    sample("http_tracker_core_errors_total", &labels, count)
}

fn series(prefix: &str, labels: &Labels, all: &[(&str, Option<&str>, u64)]) -> Vec<String> {
    all.iter()
        .filter(|(_, _, count)| *count > 0)
        .map(|(name, kind, count)| {
            let labels = match kind {
                Some(kind) => and(labels.clone(), "request_kind", kind),
                None => labels.clone(),
            };
            sample(&format!("{prefix}_{name}"), &labels, *count)
        })
        .collect()
}

/// What is counted of the swarm: no client's labels, and no server's.
pub(crate) struct Swarm {
    pub(crate) torrents: u64,
    pub(crate) downloads: u64,
}

impl Swarm {
    pub(crate) fn samples(&self) -> Vec<String> {
        let all = [
            ("swarm_coordination_registry_torrents_added_total", self.torrents),
            ("tracker_core_persistent_torrents_downloads_total", self.downloads),
        ];
        let all = all.iter().filter(|(_, count)| *count > 0);
        all.map(|(name, count)| sample(name, &Labels::new(), *count))
            .collect()
    }
}
