//! What the tests need of the host, and how they say that it is not there.

#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::should_implement_trait,
    clippy::return_self_not_must_use,
    reason = "it is for tests alone"
)]

pub mod http;
mod log;
#[cfg(target_os = "linux")]
pub mod raw;

pub use self::log::Log;

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Read, Write},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::{Command, Stdio, id},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

const INSIDE: &str = "DUALSTACK_TEST_INSIDE";

// A child has every socket of this process until its `exec` is through, which is after `spawn` has returned. Held
// until it has said something.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Past the macros of std, whose output a test that passes keeps to itself.
fn say_skipped(reason: &str) {
    let test = std::thread::current();
    let line = format!("{}: skipped: {reason}\n", test.name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).expect("stderr");
}

/// Says aloud that something is not tested here; with `REQUIRE_EXTERNAL=1`, fails instead.
pub fn skip_or_fail(reason: &str) {
    assert!(
        std::env::var_os("REQUIRE_EXTERNAL").is_none_or(|value| value != "1"),
        "REQUIRE_EXTERNAL=1, but: {reason}"
    );
    say_skipped(reason);
}

/// Whether `::1` can be bound.
pub fn ipv6_available() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Like [`ipv6_available`], and says so when it is not: a host without IPv6 is no failure.
pub fn ipv6_or_say() -> bool {
    let available = ipv6_available();
    if !available {
        say_skipped("no IPv6 on this host");
    }
    available
}

/// Drops the sockets, and returns when their ports are free: also those of sockets that were dropped before.
pub fn close<T>(sockets: T) {
    drop(sockets);
    drop(SPAWNING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Runs `start`, which starts a child process and returns when that has said something, or has ended. Until then
/// the child may have every socket of this process.
pub fn spawning<T>(start: impl FnOnce() -> T) -> T {
    let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    start()
}

/// What a report of an error prints: its message and those of its sources.
pub fn report(error: &dyn Error) -> Vec<String> {
    iter::successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect()
}

/// Where a client of this host can be reached by a server on all addresses: `127.0.0.1`, and `::1` where there is one.
pub fn loopbacks() -> Vec<IpAddr> {
    let mut ips = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if ipv6_or_say() {
        ips.push(Ipv6Addr::LOCALHOST.into());
    }
    ips
}

/// A port that no socket of either family has, TCP or UDP. Below the ephemeral ports, so that no other test gets it
/// by asking for port 0.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let is_free = |host: &str, port| {
        let free = |result: io::Result<()>| !matches!(result, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        free(TcpListener::bind(address).map(drop)) && free(UdpSocket::bind(address).map(drop))
    };
    // Test processes that run at the same time get a hundred each.
    let start = u16::try_from(id() % 100).unwrap() * 100;
    let port = (0..10_000)
        .map(|_| 20_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|&port| is_free("0.0.0.0", port) && is_free("[::]", port))
        .expect("a free port between 20,000 and 30,000");
    close(());
    port
}

/// Whether this is the process that [`in_namespace`] or [`under_seccomp`] started. A test that is only meant for
/// there is `#[ignore]`d, and returns when this is false.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the ignored `test` of this binary in a network namespace of its own: loopback is up, and `setup`, a shell
/// script, has been run. Skips aloud where that cannot be had.
pub fn in_namespace(setup: &str, test: &str) {
    const READY: &str = "the namespace is ready";

    let script = format!("set -e\nip link set lo up\n{setup}\necho '{READY}'\nexec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    run_inside(command, test, READY);
}

/// The setup of a namespace whose addresses are IPv4 only. IPv6 sockets can still be made there.
pub const WITHOUT_IPV6_ADDRESSES: &str =
    "for i in all default lo; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done";

/// The rule of a kernel that makes no IPv6 sockets.
pub const WITHOUT_IPV6_SOCKETS: &str =
    "import socket\ndeny(errno.EAFNOSUPPORT, 'socket', (0, socket.AF_INET6))";

/// What `ip` says, in the namespace that the test runs in.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number of a link.
pub fn link_number(link: &str) -> u32 {
    let shown = ip(&format!("-oneline link show dev {link}"));
    shown.split_once(':').unwrap().0.parse().unwrap()
}

/// Runs the ignored `test` of this binary with system calls failing as `rules` says: the rest of a Python program,
/// where `deny(errno, syscall, *arguments)` adds a rule, an argument being a pair of its number and its value. Skips
/// aloud where that cannot be had.
pub fn under_seccomp(rules: &str, test: &str) {
    const READY: &str = "the filter is ready";

    let program = format!(
        "import errno, os, sys, seccomp\n\
         rules = seccomp.SyscallFilter(defaction=seccomp.ALLOW)\n\
         def deny(error, call, *arguments):\n\
         \x20   rules.add_rule(seccomp.ERRNO(error), call, *(seccomp.Arg(n, seccomp.EQ, v) for n, v in arguments))\n\
         {rules}\n\
         rules.load()\n\
         print('{READY}', flush=True)\n\
         os.execv(sys.argv[1], sys.argv[1:])"
    );
    // Debian's, which sees Debian's python3-seccomp.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &program]);
    run_inside(command, test, READY);
}

fn run_inside(mut command: Command, test: &str, ready: &str) {
    command
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return skip_or_fail(&format!("{}: {error}", command.get_program().display())),
    };
    let (mut first, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" && child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 {
        first.extend(byte);
    }
    drop(spawning);

    let output = child.wait_with_output().unwrap();
    first.extend(output.stdout);
    let stdout = String::from_utf8_lossy(&first);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !stdout.contains(ready) {
        return skip_or_fail(&format!("{}: {}", command.get_program().display(), stderr.trim()));
    }
    eprint!("{stderr}");
    assert!(
        output.status.success() && stdout.contains("test result: ok. 1 passed"),
        "{test}: {}\n{stdout}",
        output.status
    );
}

// What the exporter wrote, and what it should have written.

/// The samples of a Prometheus exposition, sorted: its lines without comments, each with its labels ordered by name. No
/// series may be there twice, and no label name twice in one.
pub fn samples(output: &str) -> Vec<String> {
    let mut all = BTreeMap::new();
    for line in output
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // No label value that a test uses has a quote and a comma in a row.
        let labels = labels.strip_suffix('}').expect(line).split_inclusive("\",");
        let mut labels: Vec<_> = labels
            .map(|label| label.trim_end_matches(',').split_once('=').expect(line))
            .collect();
        labels.sort_unstable();
        assert!(
            labels.windows(2).all(|pair| pair[0].0 != pair[1].0),
            "a label twice: {line}"
        );
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let series = if labels.is_empty() {
            name.to_owned()
        } else {
            format!("{name}{{{}}}", labels.join(","))
        };
        assert!(all.insert(series, value).is_none(), "a series twice: {line}");
    }
    all.into_iter()
        .map(|(series, value)| format!("{series} {value}"))
        .collect()
}

/// Returns when `is_so`, and fails when that takes more than 30 s.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "30 s are over, and not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The labels of a series. The order in which the exporter writes them is not the point.
pub type Labels = BTreeMap<&'static str, String>;

/// A client's family and type, as its labels have them.
pub type Seen = (&'static str, &'static str);

pub const INET: Seen = ("inet", "plain");
pub const MAPPED: Seen = ("inet", "v4_mapped_v6");
pub const INET6: Seen = ("inet6", "plain");
pub const UNKNOWN: Seen = ("unknown", "unknown");

/// The seven labels of the contract, spelled out here once more on purpose.
pub fn seven(protocol: &str, server: SocketAddr, (family, ip_type): Seen) -> Labels {
    let server_family = if server.is_ipv4() { "inet" } else { "inet6" };
    Labels::from([
        ("client_address_ip_family", family.into()),
        ("client_address_ip_type", ip_type.into()),
        ("server_binding_address_ip_family", server_family.into()),
        ("server_binding_address_ip_type", "plain".into()),
        ("server_binding_ip", server.ip().to_string()),
        ("server_binding_port", server.port().to_string()),
        ("server_binding_protocol", protocol.into()),
    ])
}

/// `labels` and one more.
pub fn and(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.insert(name, value.into());
    labels
}

/// A sample, in the form of [`samples`].
pub fn sample(name: &str, labels: &Labels, value: u64) -> String {
    if labels.is_empty() {
        return format!("{name} {value}");
    }
    let labels: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    format!("{name}{{{}}} {value}", labels.join(","))
}

/// The samples of one metric.
pub fn series(output: &str, name: &str) -> Vec<String> {
    let mut lines = samples(output);
    lines.retain(|line| line.split(['{', ' ']).next() == Some(name));
    lines
}

/// Fails unless `lines` are the `expected` samples, all of them and no other.
#[track_caller]
pub fn assert_samples(mut lines: Vec<String>, expected: impl IntoIterator<Item = String>) {
    let mut expected: Vec<_> = expected.into_iter().collect();
    expected.sort();
    lines.sort();
    assert!(
        lines == expected,
        "expected:\n  {}\nis:\n  {}",
        expected.join("\n  "),
        lines.join("\n  ")
    );
}

/// [`eventually`] for what happens on this thread's runtime.
pub async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "30 s are over, and not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Numbers that look random and are the same at each run (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
