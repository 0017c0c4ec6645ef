//! Hosts with other interfaces, sysctls or kernels than this one: a thread that has a network namespace or a filter of
//! system calls. Threads and processes that it starts inherit both.

use std::{fs, panic, process::Command, thread};

use libc::c_long;
pub use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::{skip_or_fail, spawning};

/// A setup for [`in_namespace`]: there are no IPv6 addresses, but IPv6 sockets can be made.
pub const WITHOUT_IPV6_ADDRESSES: &str =
    "for i in all default lo; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done";

/// Runs `test` in a network namespace of its own, where loopback is up and the shell script `setup` has been run. Skips
/// it where that needs more rights.
///
/// Only this thread has the namespace: read `/proc/thread-self/net`, not `/proc/net`, which is the main thread's.
#[track_caller]
pub fn in_namespace(setup: &str, test: impl FnOnce() + Send) {
    let prepare = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
        let script = format!("set -e\nip link set lo up\n{setup}");
        let output = spawning(|| Command::new("sh").args(["-c", &script]).output());
        let output = output.map_err(|error| format!("sh: {error}"))?;
        if output.status.success() {
            Ok(())
        } else {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Err(format!("cannot set up a network namespace: {}", stderr.trim()))
        }
    };
    in_thread(prepare, test);
}

/// The output of `ip` in this thread's namespace.
pub fn ip(arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    let output = spawning(|| command.output()).unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number of a link.
pub fn link_number(link: &str) -> u32 {
    let shown = ip(&format!("-oneline link show dev {link}"));
    shown.split_once(':').unwrap().0.parse().unwrap()
}

/// An IPv4 counter of this thread's namespace.
pub fn snmp(protocol: &str, name: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let start = format!("{protocol}: ");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix(&start));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|pair| pair.0 == name).expect(name);
    value.parse().unwrap()
}

/// The system calls that [`denying`] makes fail: a number, and values of some of the arguments.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    call: c_long,
    arguments: &'static [(u8, u64)],
}

impl Denied {
    /// `socket(AF_INET6, ..)`
    pub const IPV6_SOCKET: Self = Self::new(libc::SYS_socket, &[(0, libc::AF_INET6 as u64)]);
    /// `bind` to an address of the length of a `sockaddr_in6`.
    pub const IPV6_BIND: Self = Self::new(libc::SYS_bind, &[(2, size_of::<libc::sockaddr_in6>() as u64)]);
    /// `setsockopt(_, IPPROTO_IPV6, IPV6_V6ONLY, ..)`
    pub const V6ONLY: Self = Self::new(
        libc::SYS_setsockopt,
        &[(1, libc::IPPROTO_IPV6 as u64), (2, libc::IPV6_V6ONLY as u64)],
    );

    /// `fcntl(_, F_DUPFD_CLOEXEC, ..)`
    pub const DUPLICATE: Self = Self::new(libc::SYS_fcntl, &[(1, libc::F_DUPFD_CLOEXEC as u64)]);

    const fn new(call: c_long, arguments: &'static [(u8, u64)]) -> Self {
        Self { call, arguments }
    }

    fn filter(self, error: i32) -> Result<BpfProgram, seccompiler::BackendError> {
        let conditions = self.arguments.iter();
        let conditions = conditions.map(|&(at, value)| SeccompCondition::new(at, Dword, Eq, value));
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        let rules = [(self.call, vec![rule])].into();
        let fail = SeccompAction::Errno(error.cast_unsigned());
        SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            fail,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }
}

/// Runs `test` in a thread whose `denied` system calls do nothing and fail with `error`, or succeed if that is
/// [`Errno::UnknownErrno`]. Skips it where that cannot be had.
#[track_caller]
pub fn denying(error: Errno, denied: Denied, test: impl FnOnce() + Send) {
    in_thread(|| deny(error, denied), test);
}

/// From now on, `denied` system calls of this thread fail with `error`.
pub fn deny(error: Errno, denied: Denied) -> Result<(), String> {
    let filter = denied
        .filter(error as i32)
        .map_err(|error| format!("no seccomp filter: {error}"))?;
    seccompiler::apply_filter(&filter).map_err(|error| format!("no seccomp filter: {error}"))
}

/// Runs `test` in a thread with the name of this one, so that libtest knows whose output it is.
#[track_caller]
fn in_thread(prepare: impl FnOnce() -> Result<(), String> + Send, test: impl FnOnce() + Send) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let prepared = thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, || prepare().map(|()| test()));
        thread
            .unwrap()
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    });
    if let Err(reason) = prepared {
        skip_or_fail(&reason);
    }
}
