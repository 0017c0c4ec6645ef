use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::{
    error::{BindError, Failure, Step, Transport},
    open::new_socket,
};

const NO_IPV6: &str = "IPv6 is missing or disabled on this host; bind an IPv4 address, or `[::]` with \
                       `SocketOptions::dual_stack()`, which also serves IPv4 alone";
const NO_DUAL_STACK: &str = "this system does not support dual-stack sockets; bind one socket per family with \
                             `SocketOptions::bind_tcp_pair` or `SocketOptions::bind_udp_pair`";

// `io::ErrorKind` has no such kind.
#[cfg(unix)]
const NO_SUCH_FAMILY: Option<i32> = Some(libc::EAFNOSUPPORT);
#[cfg(windows)] // WSAEAFNOSUPPORT
const NO_SUCH_FAMILY: Option<i32> = Some(10047);
#[cfg(not(any(unix, windows)))]
const NO_SUCH_FAMILY: Option<i32> = None;

fn no_such_family(error: &io::Error) -> bool {
    NO_SUCH_FAMILY.is_some() && error.raw_os_error() == NO_SUCH_FAMILY
}

/// Whether binding `[::]` failed because the host has no IPv6.
pub(super) fn lacks_ipv6(failure: &Failure) -> bool {
    match failure.step {
        Step::Create => no_such_family(&failure.error),
        Step::Bind => failure.error.kind() == io::ErrorKind::AddrNotAvailable,
        _ => false,
    }
}

/// `v6_only` is the value of `IPV6_V6ONLY` that was asked for.
pub(super) fn explain(
    v6_only: Option<bool>,
    transport: Transport,
    address: SocketAddr,
    failure: Failure,
) -> BindError {
    match failure.step {
        Step::Create if address.is_ipv6() && no_such_family(&failure.error) => {
            BindError::new(transport, address, failure, Some(NO_IPV6.into()))
                .with_kind(io::ErrorKind::Unsupported)
        }
        Step::Set("IPV6_V6ONLY") if v6_only == Some(false) => {
            BindError::new(transport, address, failure, Some(NO_DUAL_STACK.into()))
                .with_kind(io::ErrorKind::Unsupported)
        }
        Step::Bind => {
            let hint = bind_hint(v6_only, transport, address, failure.error.kind());
            BindError::new(transport, address, failure, hint)
        }
        _ => BindError::new(transport, address, failure, None),
    }
}

fn bind_hint(
    v6_only: Option<bool>,
    transport: Transport,
    address: SocketAddr,
    kind: io::ErrorKind,
) -> Option<String> {
    let (ip, port) = (address.ip(), address.port());
    let is_mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4();
    match kind {
        io::ErrorKind::AddrInUse if port == 0 => None,
        // A mapped address needs the IPv4 side of the port, like an IPv4 address.
        io::ErrorKind::AddrInUse if ip.to_canonical().is_ipv4() => {
            ipv6_socket_holds(transport, port).then(|| {
                format!(
                    "an IPv6 socket holds port {port}; if it is dual-stack it takes IPv4 as well: bind it with \
                     `SocketOptions::v6_only()`"
                )
            })
        }
        // If the port is free for IPv6 alone, an IPv4 socket is the cause.
        io::ErrorKind::AddrInUse => {
            let only_ipv4_holds = v6_only != Some(true) && probe_v6_only(transport, address).is_ok();
            only_ipv4_holds.then(|| {
                format!(
                    "an IPv4 socket holds port {port}, and a dual-stack socket needs it for both families; bind \
                     this one with `SocketOptions::v6_only()`, or close the other"
                )
            })
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable
            if v6_only == Some(true) && is_mapped =>
        {
            Some(format!(
                "an IPv6-only socket cannot be bound to an IPv4-mapped address; bind {}",
                ip.to_canonical()
            ))
        }
        io::ErrorKind::InvalidInput if needs_scope(address) => Some(format!(
            "a link-local address needs a scope id, the number of its interface, as in `[{ip}%2]:{port}`"
        )),
        io::ErrorKind::AddrNotAvailable if ip.is_ipv6() && !is_mapped && !has_ipv6() => {
            Some(NO_IPV6.into())
        }
        io::ErrorKind::AddrNotAvailable => Some(duplicate_hint(address).unwrap_or_else(|| format!(
            "{ip} is not an address of this host; bind one that is, or `{}` for all addresses",
            if ip.is_ipv6() { "[::]" } else { "0.0.0.0" }
        ))),
        _ => None,
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

// Never with SO_REUSEPORT: the probe would take clients from the sockets that share the port.
fn probe_v6_only(transport: Transport, address: SocketAddr) -> io::Result<()> {
    let socket = new_socket(transport, address).map_err(|failure| failure.error)?;
    socket.set_only_v6(true)?;
    socket.bind(&address.into())
}

/// Whether an IPv4 socket has the port. An IPv6-only socket next to it, as in a pair, is then not the cause.
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

/// The reason why an IPv6 address of this host cannot be bound.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn duplicate_hint(address: SocketAddr) -> Option<String> {
    let SocketAddr::V6(address) = address else {
        return None;
    };
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    table.lines().find_map(|line| duplicate_in(line, address))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn duplicate_hint(_address: SocketAddr) -> Option<String> {
    None
}

/// Reads `address interface prefix_length scope flags name`, with numbers in hexadecimal.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn duplicate_in(line: &str, address: SocketAddrV6) -> Option<String> {
    const FAILED: u8 = 0x08; // IFA_F_DADFAILED
    const TENTATIVE: u8 = 0x40; // IFA_F_TENTATIVE

    let columns: Vec<_> = line.split_ascii_whitespace().collect();
    let &[ip, number, _, _, flags, name] = &columns[..] else {
        return None;
    };
    let number = u32::from_str_radix(number, 16).ok()?;
    let is_this = u128::from_str_radix(ip, 16).ok()? == address.ip().to_bits()
        && [0, number].contains(&address.scope_id());
    let flags = u8::from_str_radix(flags, 16).ok()?;
    if is_this && flags & FAILED != 0 {
        Some(format!(
            "another host on {name} has this address (duplicate address detection has found it); remove it from one \
             of them"
        ))
    } else if is_this && flags & TENTATIVE != 0 {
        Some(format!(
            "the host still checks that no other one on {name} has this address (duplicate address detection); try \
             again in some seconds, or bind it with `SocketOptions::freebind(true)`"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn an_address_that_another_host_has_is_named() {
        let hint = |line, address: &str| match address.parse().unwrap() {
            SocketAddr::V6(address) => duplicate_in(line, address),
            SocketAddr::V4(_) => None,
        };
        let (failed, checked, used) = (
            "fe800000000000000000000000000007 0a 40 20 c8   v0",
            "fe800000000000000000000000000007 0b 40 20 c0   v1",
            "fe800000000000000000000000000007 0c 40 20 80   v2",
        );
        let text = hint(failed, "[fe80::7%10]:1").unwrap();
        assert!(text.starts_with("another host on v0 has this address"), "{text}");
        let text = hint(checked, "[fe80::7%11]:1").unwrap();
        assert!(text.contains("no other one on v1 has this address"), "{text}");
        assert_eq!(hint(used, "[fe80::7%12]:1"), None);
        assert_eq!(hint(failed, "[fe80::7%11]:1"), None);
        assert_eq!(hint(failed, "[fe80::8%10]:1"), None);
    }

    #[test]
    fn only_a_link_local_address_needs_a_scope() {
        assert!(needs_scope("[fe80::1]:1".parse().unwrap()));
        assert!(!needs_scope("[fe80::1%2]:1".parse().unwrap()));
        assert!(!needs_scope("[2001:db8::1]:1".parse().unwrap()));
        assert!(!needs_scope("192.0.2.1:1".parse().unwrap()));
    }
}
