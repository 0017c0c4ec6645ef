//! The command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Parser;
use dualstack_metrics::socket::parse_address;

/// A TURN relay (RFC 8656, UDP) whose counters are split by the address family of its clients and of their peers.
#[derive(Debug, Parser)]
#[command(name = "turn_relay")]
pub(crate) struct Args {
    /// Address to serve clients on; can be repeated. A listener on `[::]` relays to peers of both families, any other
    /// listener to peers of its own family
    #[arg(long, value_name = "ADDR", default_value = "[::]:3478", value_parser = parse_address)]
    pub(crate) listen: Vec<SocketAddr>,

    /// Address of this host that peers send to, at most one for each family. The default is the address that the client
    /// sent its request to, if it has the right family
    #[arg(long, value_name = "IP")]
    relay_ip: Vec<IpAddr>,

    /// A user who is allowed to relay; can be repeated
    #[arg(long, value_name = "NAME:PASSWORD", required = true, value_parser = user)]
    pub(crate) user: Vec<User>,

    /// The realm of the users
    #[arg(long, default_value = "turn_relay")]
    pub(crate) realm: String,

    /// Maximum number of relay sockets for each listener
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) max_allocations: usize,

    /// Serve only IPv6 clients and peers on IPv6 sockets
    #[arg(long)]
    pub(crate) v6only: bool,

    /// Address to serve /metrics on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9641", value_parser = parse_address)]
    pub(crate) metrics: SocketAddr,
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

fn user(argument: &str) -> Result<User, &'static str> {
    match argument.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => Ok(User {
            name: name.to_owned(),
            password: password.to_owned(),
        }),
        _ => Err("expected NAME:PASSWORD"),
    }
}

/// The addresses that peers send to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RelayIps {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Args {
    pub(crate) fn relay_ips(&self) -> Result<RelayIps, String> {
        let mut ips = RelayIps::default();
        for ip in &self.relay_ip {
            let is_second = match ip {
                IpAddr::V4(ip) => ips.v4.replace(*ip).is_some(),
                IpAddr::V6(ip) => ips.v6.replace(*ip).is_some(),
            };
            if is_second {
                return Err(format!(
                    "--relay-ip {ip}: only one address for each family is allowed"
                ));
            }
        }
        Ok(ips)
    }
}
