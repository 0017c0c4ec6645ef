use std::{
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddr, ToSocketAddrs as _},
};

const SYNTAX: &str = "write an IP address and a port, such as `[::]:6969` or `[fe80::1%eth0]:6969`";

/// Reads an address from a command line or a configuration. Beside the forms that [`SocketAddr`] reads, it takes the name
/// of an interface behind a link-local address, as in `[fe80::1%eth0]:6969`.
///
/// The number of an interface, as in `[fe80::1%2]:6969`, can change when the system starts again. The name is looked up
/// at once, and no other name is.
///
/// ```
/// use dualstack_metrics::socket::parse_address;
///
/// assert_eq!(parse_address("[::]:6969")?, "[::]:6969".parse().unwrap());
/// assert!(parse_address("localhost:6969").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidInput`](ErrorKind::InvalidInput) if the text is not an address with a port, or there is no such interface.
pub fn parse_address(text: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let invalid = |reason: String| io::Error::new(ErrorKind::InvalidInput, reason);
    let (ip, interface, port) = split(text).ok_or_else(|| invalid(SYNTAX.to_owned()))?;
    // The system does not take this for the name of a host.
    (format!("{ip}%{interface}"), port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| invalid(format!("no interface `{interface}` has link-local addresses")))
}

fn split(text: &str) -> Option<(Ipv6Addr, &str, u16)> {
    let (host, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, interface) = host.split_once('%')?;
    (!interface.is_empty()).then_some((ip.parse().ok()?, interface, port.parse().ok()?))
}
