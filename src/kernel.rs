//! The host's IPv6 counters, as the kernel keeps them (Linux), beside those of the program.
//!
//! What the program counts is what arrived at it. The kernel knows what did not: header errors, packets without a
//! route, failed reassembly, full receive buffers, and congestion marks.
//!
//! ```
//! use dualstack_metrics::KernelCounters;
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
//! let kernel = KernelCounters::new().interface("eth0");
//!
//! // What a handler of /metrics does:
//! kernel.update()?;
//! let output = metrics.render();
//! # if std::fs::exists("/proc/net/snmp6")? {
//! assert!(output.contains("# HELP ip6_in_hdr_errors_total Received packets dropped for an error in the IPv6 header"));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Names
//!
//! Every `Ip6*`, `Icmp6*`, `Udp6*` and `UdpLite6*` counter of `/proc/net/snmp6` is set, those that nobody knew of when
//! this was written included; what a kernel does not have is absent. The name is the kernel's in snake case:
//!
//! | kernel | metric |
//! |---|---|
//! | `Ip6InReceives` | `ip6_in_receives_total` |
//! | `Ip6InNoECTPkts` | `ip6_in_no_ect_pkts_total` |
//! | `Ip6ReasmOKs` | `ip6_reasm_oks_total` |
//! | `Icmp6OutMLDv2Reports` | `icmp6_out_mldv2_reports_total` |
//! | `Icmp6InType135` | `icmp6_in_type_total{type="135"}` |
//! | `UdpLite6InDatagrams` | `udplite6_in_datagrams_total` |
//! | `Ip6InReceives` of one interface | `interface_ip6_in_receives_total{interface="eth0"}` |
//!
//! A word begins at a capital after a small letter or a figure, and at the last of several capitals when a small letter
//! follows, unless that is a plural's `s` or the `v` of a version. `docs/kernel-counters.md` has the whole table, and
//! what the counters mean; the HELP text of each says it as well, in short, and quotes the kernel's name. Per-interface
//! counters have names of their own so that a `sum()` does not count a packet twice.
//!
//! # What is set, and when
//!
//! [`update`](KernelCounters::update) reads everything first, and sets nothing unless all of it makes sense. Where there
//! is no such file (IPv6 switched off at boot, another system), it does nothing, and that is no error. The counters are
//! set outside every [`Scope`], also from the handler of a request: they are the host's, or rather those of the network
//! namespace that the process is in, and no client's. Metrics are described at the first update that sees them, with the
//! recorder of that time.
//!
//! A counter of the [`metrics`] crate that is set to an absolute value never falls. An interface's counters start from
//! zero when it goes away and comes back under the same name, so what it had before is carried as an offset: the sum
//! over its lives that were seen. For the kernel's own number, ask the kernel. At most [`MAX_INTERFACES`] names of
//! interfaces are followed in the life of one `KernelCounters`.
//!
//! # Why not the `procfs` crate
//!
//! Its reader of this file (0.18) fills a struct with one field for each counter that was known. A counter that it does
//! not know it passes over (of Linux 6.18: `Ip6OutTransmits`, `Icmp6OutRateLimitHost`, `Udp6MemErrors`,
//! `UdpLite6MemErrors`, and every `Icmp6InType…` and `Icmp6OutType…`). One counter that the kernel lacks makes it fail
//! as a whole, as will all of `UdpLite6*`, whose removal from Linux is announced. It does not read `dev_snmp6`. What is
//! left to reuse is splitting a line at the white space.

mod counters;
mod help;
mod names;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use self::counters::Counters;
use crate::scope::Scope;

/// How many names of interfaces are followed: where interfaces come and go by the hundred, as those of containers do,
/// the number of series must not.
pub const MAX_INTERFACES: usize = 256;

const PROC_NET: &str = "/proc/net";

/// Sets counters to what the kernel's are. See the [module](self).
#[derive(Debug)]
#[must_use = "nothing is set before `update` or `update_every` is called"]
pub struct KernelCounters {
    proc_net: PathBuf,
    interfaces: Interfaces,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Interfaces {
    These(Vec<String>),
    All,
}

#[derive(Debug, Default)]
struct State {
    host: Counters,
    interfaces: BTreeMap<String, Counters>,
    has_warned: bool,
}

impl KernelCounters {
    /// The counters of the host, without those of single interfaces.
    pub fn new() -> Self {
        Self {
            proc_net: PROC_NET.into(),
            interfaces: Interfaces::These(Vec::new()),
            state: Mutex::default(),
        }
    }

    /// Those of this interface as well, while it is there. For more than one, call it again.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        if let Interfaces::These(names) = &mut self.interfaces {
            names.push(name.into());
        }
        self
    }

    /// Those of every interface as well, loopback and those that appear later included: some 70 series for each.
    pub fn all_interfaces(mut self) -> Self {
        self.interfaces = Interfaces::All;
        self
    }

    /// The directory to read in the place of `/proc/net`: `/host/proc/1/net`, say, in a container that is shown the
    /// host's `/proc`.
    pub fn proc_net(mut self, directory: impl Into<PathBuf>) -> Self {
        self.proc_net = directory.into();
        self
    }

    /// Reads the kernel's counters and sets those of the recorder. Takes some 100 µs, and does not block on anything
    /// but another update.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or is not what the kernel writes. Nothing is set then.
    pub fn update(&self) -> Result<(), Error> {
        // Held while reading: of two updates the one that read later must set later.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.proc_net.join("snmp6");
        let Some(text) = read(&path)? else {
            return Ok(());
        };
        state.host.read(&text).map_err(|problem| problem.at(&path))?;
        let interfaces = self.read_interfaces(&mut state)?;

        Scope::none().run(|| {
            state.host.set();
            for name in interfaces {
                if let Some(counters) = state.interfaces.get_mut(&name) {
                    counters.set();
                }
            }
        });
        Ok(())
    }

    /// Updates now and every `interval`, on a thread of its own, until what is returned is dropped. Errors are logged.
    /// The recorder is the global one.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn update_every(self, interval: Duration) -> io::Result<Updates> {
        let (stop, stopped) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("kernel-counters".into())
            .spawn(move || {
                let mut was_error = false;
                loop {
                    let result = self.update();
                    if let Err(error) = &result
                        && !was_error
                    {
                        tracing::warn!(%error, "the kernel's counters cannot be read");
                    }
                    was_error = result.is_err();
                    if stopped.recv_timeout(interval) != Err(mpsc::RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })?;
        Ok(Updates { _stop: stop })
    }

    /// Returns the names of those that are there.
    fn read_interfaces(&self, state: &mut State) -> Result<Vec<String>, Error> {
        let directory = self.proc_net.join("dev_snmp6");
        let mut present = Vec::new();
        for name in self.interfaces.names(&directory)? {
            let path = directory.join(&name);
            let Some(text) = read_interface(&path)? else {
                continue;
            };
            if !state.follows(&name) {
                continue;
            }
            let counters = state
                .interfaces
                .entry(name.clone())
                .or_insert_with(|| Counters::of_interface(&name));
            counters.read(&text).map_err(|problem| problem.at(&path))?;
            present.push(name);
        }
        Ok(present)
    }
}

impl State {
    /// Whether the interface is followed already, or there is room for it.
    fn follows(&mut self, interface: &str) -> bool {
        if self.interfaces.contains_key(interface) || self.interfaces.len() < MAX_INTERFACES {
            return true;
        }
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!(interface, "{MAX_INTERFACES} interfaces are followed: no more");
        }
        false
    }
}

impl Default for KernelCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl Interfaces {
    fn names(&self, directory: &Path) -> Result<Vec<String>, Error> {
        match self {
            Self::These(names) => {
                let mut names: Vec<_> = names.iter().filter(|name| is_interface(name)).cloned().collect();
                names.sort_unstable();
                names.dedup();
                Ok(names)
            }
            Self::All => {
                let error = |error| Problem::Io(error).at(directory);
                let entries = match directory.read_dir() {
                    Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                    entries => entries.map_err(error)?,
                };
                let mut names = entries
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                    .collect::<io::Result<Vec<_>>>()
                    .map_err(error)?;
                names.sort_unstable();
                Ok(names)
            }
        }
    }
}

/// Anything else is the name of no interface, and must not become a path.
fn is_interface(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    // The kernel writes the text at the first of several calls of `read`, so all of them see one.
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::Io(error).at(path)),
    }
}

fn read_interface(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        // Gone since it was opened.
        Err(_) if !path.exists() => Ok(None),
        result => result,
    }
}

/// Keeps [`KernelCounters::update_every`] going until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the updates"]
pub struct Updates {
    _stop: mpsc::Sender<()>,
}

/// Why nothing was set.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Io(io::Error),
    Line { number: usize, what: String },
    Whole(String),
}

impl Problem {
    fn at(self, path: &Path) -> Error {
        Error {
            path: path.into(),
            problem: self,
        }
    }
}

impl Error {
    /// The file that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Io(error) => write!(f, "cannot read {path}: {error}"),
            Problem::Line { number, what } => write!(f, "{path}, line {number}: {what}"),
            Problem::Whole(what) => write!(f, "{path}: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Line { .. } | Problem::Whole(_) => None,
        }
    }
}
