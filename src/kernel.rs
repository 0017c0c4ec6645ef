//! The kernel's IPv6 counters of this host (Linux), next to the program's own.
//!
//! A program counts the packets that reach it. The kernel also counts the others: header errors, packets without a route,
//! failed reassembly, full receive buffers, and congestion marks.
//!
//! ```
//! use dualstack_metrics::KernelCounters;
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
//! let kernel = KernelCounters::new().interface("eth0");
//!
//! // In the handler of /metrics:
//! kernel.update()?;
//! let output = metrics.render();
//! # if std::fs::exists("/proc/net/snmp6")? {
//! assert!(output.contains("# HELP ip6_in_hdr_errors_total Received packets dropped because of an error in the IPv6"));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Names
//!
//! Every `Ip6*`, `Icmp6*`, `Udp6*` and `UdpLite6*` counter of `/proc/net/snmp6` is set, including counters that newer
//! kernels add. A counter that the kernel does not have is absent. The name of the metric is the kernel's name in snake
//! case:
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
//! A word starts at a capital after a small letter or a digit. In a run of capitals, the last one starts a word if a
//! small letter follows it, unless that letter is a plural `s` or the `v` of a version. `docs/kernel-counters.md` has
//! the whole table with the meaning of each counter. Each metric's HELP text has the meaning and the kernel's name.
//! Counters of an interface have names of their own, so that a `sum()` does not count a packet twice.
//!
//! # Updates
//!
//! [`update`](KernelCounters::update) reads all files first, and sets nothing unless all of them are valid. If there is
//! no such file, because IPv6 was disabled at boot or the system is not Linux, `update` does nothing and returns `Ok`.
//!
//! Call `update` before each render. If the exporter serves or pushes on its own, call it in a task of the program, such
//! as every 15 seconds.
//!
//! The counters are set outside every [`Scope`], even in the handler of a request, because they belong to no client. They
//! come from the network namespace of the calling thread. A metric is described at the first update that finds it, to the
//! recorder of that update.
//!
//! A counter of the [`metrics`] crate that is set to an absolute value never falls, but the kernel's counters of an
//! interface start from zero when the interface comes back under the same name. The earlier values are then added as an
//! offset, so the series is the sum over all lives of the interface. One `KernelCounters` follows at most
//! [`MAX_INTERFACES`] interface names, and does not read the files of others.

mod counters;
mod error;
mod help;
mod names;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

pub use self::error::KernelCountersError;
use self::{counters::Counters, error::Problem};
use crate::{once::WarnOnce, scope::Scope};

/// The limit of interface names that one [`KernelCounters`] follows. It bounds the number of series on hosts where the
/// interfaces of containers come and go by the hundred.
pub const MAX_INTERFACES: usize = 256;

// `/proc/net` belongs to the main thread, which may be in another network namespace.
const PROC_NET: &str = "/proc/thread-self/net";

/// Sets counters to the values of the kernel's counters. See the [module](self).
#[derive(Debug)]
#[must_use = "counters are set by `update`"]
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
    limit_warning: WarnOnce,
}

impl KernelCounters {
    /// The counters of the host, without its interfaces.
    pub fn new() -> Self {
        Self {
            proc_net: PROC_NET.into(),
            interfaces: Interfaces::These(Vec::new()),
            state: Mutex::default(),
        }
    }

    /// Adds the counters of an interface, for as long as it exists. To add more than one, call it again.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        if let Interfaces::These(names) = &mut self.interfaces {
            names.push(name.into());
        }
        self
    }

    /// Adds the counters of every interface, including loopback and interfaces that appear later: about 70 series each.
    pub fn all_interfaces(mut self) -> Self {
        self.interfaces = Interfaces::All;
        self
    }

    /// Reads this directory instead of `/proc/thread-self/net`. In a container with the host's `/proc` at `/host/proc`,
    /// the host's counters are in `/host/proc/1/net`.
    pub fn proc_net(mut self, directory: impl Into<PathBuf>) -> Self {
        self.proc_net = directory.into();
        self
    }

    /// Reads the kernel's counters and sets them in the recorder. Takes about 40 µs for the host and as much for each
    /// interface. Blocks only while another update runs.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or does not have the kernel's format. Nothing is set then.
    pub fn update(&self) -> Result<(), KernelCountersError> {
        // Locked while reading, so that the later of two updates also sets later.
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

    /// Returns the names of the interfaces that exist.
    fn read_interfaces(&self, state: &mut State) -> Result<Vec<String>, KernelCountersError> {
        let directory = self.proc_net.join("dev_snmp6");
        let mut present = Vec::new();
        for name in self.interfaces.names(&directory)? {
            if !state.follows(&name) {
                continue;
            }
            let path = directory.join(&name);
            let Some(text) = read_interface(&path)? else {
                continue;
            };
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
    /// Whether the interface is already followed, or there is room for it.
    fn follows(&mut self, interface: &str) -> bool {
        if self.interfaces.contains_key(interface) || self.interfaces.len() < MAX_INTERFACES {
            return true;
        }
        if self.limit_warning.first() {
            tracing::warn!(
                interface,
                "this interface and later ones have no counters: the limit is {MAX_INTERFACES} interface names"
            );
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
    fn names(&self, directory: &Path) -> Result<Vec<String>, KernelCountersError> {
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

/// Checked because a name becomes part of a path.
fn is_interface(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, KernelCountersError> {
    // This takes several reads of one consistent text: the kernel writes it once, at the first.
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::Io(error).at(path)),
    }
}

fn read_interface(path: &Path) -> Result<Option<String>, KernelCountersError> {
    match read(path) {
        // The interface disappeared after the file was opened.
        Err(_) if !path.exists() => Ok(None),
        result => result,
    }
}
