//! Shared by the tests of the workspace.
//!
//! A test that needs something of the host, such as IPv6, root or an installed program, says in one line that it was
//! skipped where that is missing. `REQUIRE_EXTERNAL=1` turns all of these but the lack of IPv6 into failures.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::should_implement_trait,
    clippy::return_self_not_must_use,
    reason = "only tests use it"
)]

pub mod http;
mod labels;
mod log;
#[cfg(unix)]
mod program;
#[cfg(target_os = "linux")]
pub mod raw;
mod recorded;
mod samples;
#[cfg(target_os = "linux")]
mod sandbox;
mod server;
pub mod udp;

use std::{
    error::Error,
    io::{self, Write},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::id,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

pub use labels::{Digit, numbered};
pub use log::Log;
#[cfg(unix)]
pub use nix::sys::signal::Signal;
#[cfg(unix)]
pub use program::Program;
pub use recorded::{CountersOf, Metrics, recorded, recorded_by};
pub use samples::{
    INET, INET6, Labels, MAPPED, Seen, UNKNOWN, and, assert_samples, assert_soon, each, of_server, on_unix,
    rejected, requests, sample, samples, seen, series, seven,
};
#[cfg(target_os = "linux")]
pub use sandbox::{
    Denied, Errno, WITHOUT_IPV6_ADDRESSES, deny, denying, in_namespace, ip, link_number, snmp,
};
pub use server::{dual_stack, serve};

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// How long a test waits for an answer or for the end of something.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Writes past std's macros, because libtest hides their output when a test passes.
fn say_skipped(reason: &str) {
    let test = std::thread::current();
    let line = format!("{}: skipped: {reason}\n", test.name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).expect("stderr");
}

/// Says that a test is skipped, or fails with `REQUIRE_EXTERNAL=1`.
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

/// Like [`ipv6_available`], and says so when it is not. A host without IPv6 never makes a test fail.
pub fn ipv6_or_say() -> bool {
    let available = ipv6_available();
    if !available {
        say_skipped("no IPv6 on this host");
    }
    available
}

/// `127.0.0.1`, and `::1` if the host has it: where clients on this host reach a wildcard socket.
pub fn loopbacks() -> Vec<IpAddr> {
    let mut ips = vec![V4];
    if ipv6_or_say() {
        ips.push(V6);
    }
    ips
}

// A child process holds copies of all sockets of this process until its `exec` is complete, which can be after `spawn`
// has returned. This lock is held until the child has written something.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Runs `start`, which starts a child process and returns when the child has written something or has ended.
pub fn spawning<T>(start: impl FnOnce() -> T) -> T {
    let _spawning = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    start()
}

/// The message of an error, and the messages of its sources.
pub fn report(error: &dyn Error) -> Vec<String> {
    iter::successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect()
}

/// Drops `sockets` and waits until no child process holds copies of them, nor of sockets that were dropped before.
pub fn close<T>(sockets: T) {
    drop(sockets);
    spawning(|| ());
}

/// A port that is free for TCP and UDP in both families. It is below the ephemeral ports, so no test that binds port 0
/// gets it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let is_free = |host: &str, port| {
        let free = |result: io::Result<()>| !matches!(result, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        free(TcpListener::bind(address).map(drop)) && free(UdpSocket::bind(address).map(drop))
    };
    // Test processes that run at the same time start a hundred ports apart.
    let start = u16::try_from(id() % 100).unwrap() * 100;
    let port = (0..10_000)
        .map(|_| 20_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|&port| is_free("0.0.0.0", port) && is_free("[::]", port))
        .expect("a free port between 20,000 and 30,000");
    close(());
    port
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap()
}

/// Runs a future on the current thread, with all of tokio's drivers.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Like [`block_on`], for a future that spawns local tasks.
pub fn block_on_local<F: Future>(future: F) -> F::Output {
    // The tasks are dropped before it.
    let runtime = runtime();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Returns when `is_so`. Fails after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "30 s are over, and not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// [`eventually`], for changes on the runtime of this thread.
pub async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "30 s are over, and not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Numbers that look random and are the same in each run (`SplitMix64`).
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
