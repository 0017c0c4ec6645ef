//! The command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Parser;

/// A TURN relay (RFC 8656, UDP) that counts what it relays by the address family of its clients and of their peers.
#[derive(Debug, Parser)]
#[command(name = "turn_relay")]
pub(crate) struct Args {
    /// Where to serve clients; may be given more than once. On [::] relays reach peers of both families; on an address of
    /// one family, and on 0.0.0.0, of that family
    #[arg(long, value_name = "ADDR", default_value = "[::]:3478")]
    pub(crate) listen: Vec<SocketAddr>,

    /// An address of this host that peers may send to, at most one for each family; without, the address that the client
    /// asked, where it is of the family
    #[arg(long, value_name = "IP")]
    relay_ip: Vec<IpAddr>,

    /// Who may relay, with which password; may be given more than once
    #[arg(long, value_name = "NAME:PASSWORD", required = true, value_parser = user)]
    pub(crate) user: Vec<User>,

    /// The realm of the users
    #[arg(long, default_value = "turn_relay")]
    pub(crate) realm: String,

    /// How many relay sockets a listener may have
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) max_allocations: usize,

    /// Leave IPv4 alone on IPv6 sockets: [::] is then an address of one family
    #[arg(long)]
    pub(crate) v6only: bool,

    /// Where to serve /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9641")]
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
        _ => Err("a name, a colon and a password"),
    }
}

/// The addresses that peers may send to.
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
                return Err(format!("--relay-ip {ip}: there is one of that family already"));
            }
        }
        Ok(ips)
    }
}
