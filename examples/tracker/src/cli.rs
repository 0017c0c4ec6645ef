//! The command line.

use std::{net::SocketAddr, num::NonZeroUsize};

use clap::Parser;
use dualstack_metrics::socket::parse_address;

/// A BitTorrent tracker whose counters are split by the address family of its clients.
#[derive(Debug, Parser)]
#[command(name = "tracker")]
pub(crate) struct Args {
    /// Address to serve UDP clients on; can be repeated
    #[arg(long, value_name = "ADDR", default_value = "[::]:6969", value_parser = parse_address)]
    pub(crate) udp: Vec<SocketAddr>,

    /// Address to serve HTTP clients on; can be repeated
    #[arg(long, value_name = "ADDR", default_value = "[::]:7070", value_parser = parse_address)]
    pub(crate) http: Vec<SocketAddr>,

    /// Address to serve /metrics on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1212", value_parser = parse_address)]
    pub(crate) metrics: SocketAddr,

    /// Serve only IPv6 clients on IPv6 sockets, so that `0.0.0.0` and `[::]` can be used together on one port
    #[arg(long)]
    pub(crate) v6only: bool,

    /// Do not export the host's IPv6 counters
    #[arg(long)]
    pub(crate) no_kernel: bool,

    /// Also export the IPv6 counters of this network interface; can be repeated
    #[arg(long, value_name = "NAME", conflicts_with = "no_kernel")]
    pub(crate) kernel_interface: Vec<String>,

    /// Sockets and tasks for each UDP address, which share its port (`SO_REUSEPORT`)
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    pub(crate) workers: NonZeroUsize,

    /// Size of the receive buffer of each UDP socket (`SO_RCVBUF`) [default: set by the system]
    #[arg(long, value_name = "BYTES")]
    pub(crate) recv_buffer: Option<NonZeroUsize>,

    /// Maximum number of open connections to each HTTP address and to /metrics; further clients wait
    #[arg(long, value_name = "NUMBER", default_value = "500")]
    pub(crate) http_connections: NonZeroUsize,

    /// Maximum number of torrents; announces of further ones are refused
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    pub(crate) max_torrents: usize,

    /// Maximum number of peers of all torrents; announces of further ones are refused
    #[arg(long, value_name = "NUMBER", default_value_t = 500_000)]
    pub(crate) max_peers: usize,

    /// Maximum number of peers at one address, or in the /64 of an IPv6 address. A client with many torrents has a peer in
    /// each; the default has room for the largest, and leaves 98% of the swarm to others
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    pub(crate) max_peers_per_address: usize,

    /// Ban an address, or the /64 of an IPv6 address, for two minutes after this many wrong connection IDs within two
    /// minutes; 0 turns bans off. A client sends an unanswered request four times in two minutes, so the default has room
    /// for 25 such clients behind one address
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) ban_after: u32,

    /// Time after the start in which no address is banned, because IDs from before a restart are wrong [default: 240, the
    /// lifetime of an ID]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ban_grace: Option<u32>,

    /// Serve on free ports, send requests over IPv4 and IPv6, print the counters and exit
    #[arg(long, exclusive = true)]
    pub(crate) demo: bool,
}

impl Args {
    /// One dual-stack socket for each protocol, on free ports.
    pub(crate) fn for_demo() -> Self {
        Self::parse_from([
            "tracker",
            "--udp=[::]:0",
            "--http=[::]:0",
            "--metrics=127.0.0.1:0",
            "--no-kernel",
            "--ban-after=1",
            "--ban-grace=0",
        ])
    }
}
