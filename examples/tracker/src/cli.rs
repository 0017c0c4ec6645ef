//! The command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Parser;

/// A BitTorrent tracker that counts what it does by the address family of its clients.
#[derive(Debug, Parser)]
#[command(name = "tracker")]
pub(crate) struct Args {
    /// Where to serve UDP clients; may be given more than once
    #[arg(long, value_name = "ADDR", default_value = "[::]:6969")]
    pub(crate) udp: Vec<SocketAddr>,

    /// Where to serve HTTP clients; may be given more than once
    #[arg(long, value_name = "ADDR", default_value = "[::]:7070")]
    pub(crate) http: Vec<SocketAddr>,

    /// Where to serve /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1212")]
    pub(crate) metrics: SocketAddr,

    /// Leave IPv4 alone on IPv6 sockets, so that 0.0.0.0 and [::] can be given together on one port
    #[arg(long)]
    pub(crate) v6only: bool,

    /// Leave the host's IPv6 counters out of /metrics
    #[arg(long)]
    pub(crate) no_kernel: bool,

    /// Export this interface's IPv6 counters as well; may be given more than once
    #[arg(long, value_name = "NAME", conflicts_with = "no_kernel")]
    pub(crate) kernel_interface: Vec<String>,

    /// Serve on free ports, send requests as IPv4 and IPv6 clients, print the counters and exit
    #[arg(long, conflicts_with_all = ["udp", "http", "metrics", "v6only"])]
    pub(crate) demo: bool,
}

impl Args {
    /// One dual-stack socket for each protocol, all on free ports.
    pub(crate) fn for_demo() -> Self {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        Self {
            udp: vec![any],
            http: vec![any],
            metrics: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            v6only: false,
            no_kernel: true,
            kernel_interface: Vec::new(),
            demo: true,
        }
    }
}
