use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::{
    BindError, SocketOptions, Transport,
    error::{Failure, Step},
    new_socket,
};

const NO_IPV6: &str = "this host has no IPv6, or has it switched off; bind an IPv4 address, or `[::]` with \
                       `SocketOptions::dual_stack()`, which serves IPv4 without IPv6";
const NO_DUAL_STACK: &str = "this system has no dual-stack sockets (OpenBSD never has); bind one socket for each \
                             family, with `SocketOptions::bind_tcp_pair` or `SocketOptions::bind_udp_pair`";

// std has no `ErrorKind` for it.
#[cfg(unix)]
const NO_SUCH_FAMILY: Option<i32> = Some(libc::EAFNOSUPPORT);
#[cfg(windows)] // WSAEAFNOSUPPORT
const NO_SUCH_FAMILY: Option<i32> = Some(10047);
#[cfg(not(any(unix, windows)))]
const NO_SUCH_FAMILY: Option<i32> = None;

fn no_such_family(error: &io::Error) -> bool {
    NO_SUCH_FAMILY.is_some() && error.raw_os_error() == NO_SUCH_FAMILY
}

/// Whether a wildcard bind failed because there is no IPv6.
pub(super) fn lacks_ipv6(failure: &Failure) -> bool {
    match failure.step {
        Step::Create => no_such_family(&failure.error),
        Step::Bind => failure.error.kind() == io::ErrorKind::AddrNotAvailable,
        _ => false,
    }
}

impl SocketOptions {
    pub(super) fn explain(&self, transport: Transport, address: SocketAddr, failure: Failure) -> BindError {
        match failure.step {
            Step::Create if address.is_ipv6() && no_such_family(&failure.error) => {
                BindError::new(transport, address, failure, Some(NO_IPV6.into()))
                    .with_kind(io::ErrorKind::Unsupported)
            }
            Step::Set("IPV6_V6ONLY") if self.v6_only == Some(false) => {
                BindError::new(transport, address, failure, Some(NO_DUAL_STACK.into()))
                    .with_kind(io::ErrorKind::Unsupported)
            }
            Step::Bind => {
                let hint = self.bind_hint(transport, address, failure.error.kind());
                BindError::new(transport, address, failure, hint)
            }
            _ => BindError::new(transport, address, failure, None),
        }
    }

    fn bind_hint(&self, transport: Transport, address: SocketAddr, kind: io::ErrorKind) -> Option<String> {
        let (ip, port) = (address.ip(), address.port());
        let v6 = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        };
        match kind {
            io::ErrorKind::AddrInUse if port == 0 => None,
            // A canonical IPv4 address is taken from the IPv4 side, whichever socket asks for it.
            io::ErrorKind::AddrInUse if ip.to_canonical().is_ipv4() => {
                ipv6_socket_holds(transport, port).then(|| {
                    format!(
                        "an IPv6 socket holds port {port}; if it is dual-stack it takes IPv4 as well: bind it with \
                         `SocketOptions::v6_only()`"
                    )
                })
            }
            // When IPv6 alone could have it, the other family was in the way.
            io::ErrorKind::AddrInUse => {
                let only_ipv4_holds = self.v6_only != Some(true) && probe_v6_only(transport, address).is_ok();
                only_ipv4_holds.then(|| {
                    format!(
                        "an IPv4 socket holds port {port}, and a dual-stack socket needs it for both families; bind \
                         this one with `SocketOptions::v6_only()`, or close the other"
                    )
                })
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable
                if self.v6_only == Some(true)
                    && let Some(mapped) = v6.and_then(|ip| ip.to_ipv4_mapped()) =>
            {
                Some(format!(
                    "an IPv6-only socket cannot have an IPv4-mapped address; bind {mapped}"
                ))
            }
            io::ErrorKind::InvalidInput if needs_scope(address) => Some(format!(
                "a link-local address needs the number of its interface, as in `[{ip}%2]:{port}`"
            )),
            io::ErrorKind::AddrNotAvailable if v6.is_some_and(|ip| ip.to_ipv4_mapped().is_none()) && !has_ipv6() => {
                Some(NO_IPV6.into())
            }
            io::ErrorKind::AddrNotAvailable => Some(format!(
                "{ip} is not an address of this host; bind one that is, or `{}` for all of them",
                if v6.is_some() { "[::]" } else { "0.0.0.0" }
            )),
            _ => None,
        }
    }
}

fn needs_scope(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

fn ipv6_socket_holds(transport: Transport, port: u16) -> bool {
    let wildcard = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let in_use = matches!(
        probe_v6_only(transport, wildcard),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse
    );
    in_use && !ipv4_socket_listed(transport, port)
}

fn has_ipv6() -> bool {
    let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    probe_v6_only(Transport::Udp, loopback.into()).is_ok()
}

// Without SO_REUSEPORT even if it was asked for: the probe would take clients from the sockets that share the port.
fn probe_v6_only(transport: Transport, address: SocketAddr) -> io::Result<()> {
    let socket = new_socket(transport, address).map_err(|failure| failure.error)?;
    socket.set_only_v6(true)?;
    socket.bind(&address.into())
}

/// Whether an IPv4 socket has the port, so that a dual-stack one cannot. An IPv6-only socket next to it, as in a
/// pair, is then not to blame.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ipv4_socket_listed(transport: Transport, port: u16) -> bool {
    use std::io::BufRead;

    let table = match transport {
        Transport::Tcp => "/proc/thread-self/net/tcp",
        Transport::Udp => "/proc/thread-self/net/udp",
    };
    let Ok(table) = std::fs::File::open(table) else {
        return false;
    };
    let port = format!(":{port:04X}");
    io::BufReader::new(table)
        .lines()
        .map_while(Result::ok)
        .any(|line| {
            // `sl local_address rem_address st`, where 0A is LISTEN.
            let mut columns = line.split_ascii_whitespace().skip(1);
            columns.next().is_some_and(|local| local.ends_with(&port))
                && (transport == Transport::Udp || columns.nth(1) == Some("0A"))
        })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ipv4_socket_listed(_transport: Transport, _port: u16) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_local_address_needs_a_scope() {
        assert!(needs_scope("[fe80::1]:1".parse().unwrap()));
        assert!(!needs_scope("[fe80::1%2]:1".parse().unwrap()));
        assert!(!needs_scope("[2001:db8::1]:1".parse().unwrap()));
        assert!(!needs_scope("192.0.2.1:1".parse().unwrap()));
    }
}
