//! Sockets that are not bound yet.

use std::{io, net::SocketAddr};

use socket2::{Domain, Socket, Type};

use super::error::{Failure, Step, Transport, during};

pub(super) fn new_socket(transport: Transport, address: SocketAddr) -> Result<Socket, Failure> {
    let kind = match transport {
        Transport::Tcp => Type::STREAM,
        Transport::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None).map_err(during(Step::Create))?;
    socket
        .set_nonblocking(true)
        .map_err(during(Step::Set("O_NONBLOCK")))?;
    // On Windows this option would let a second program take the port.
    #[cfg(unix)]
    if transport == Transport::Tcp {
        socket
            .set_reuse_address(true)
            .map_err(during(Step::Set("SO_REUSEADDR")))?;
    }
    Ok(socket)
}

#[cfg(all(
    unix,
    not(any(
        target_os = "solaris",
        target_os = "illumos",
        target_os = "cygwin",
        target_os = "nuttx"
    ))
))]
pub(super) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(
    unix,
    not(any(
        target_os = "solaris",
        target_os = "illumos",
        target_os = "cygwin",
        target_os = "nuttx"
    ))
)))]
pub(super) fn set_reuse_port(_socket: &Socket) -> io::Result<()> {
    Err(no_such_option())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_freebind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        socket.set_freebind_v4(true)
    } else {
        socket.set_freebind_v6(true)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn set_freebind(_socket: &Socket, _address: SocketAddr) -> io::Result<()> {
    Err(no_such_option())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn no_such_option() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this system does not have the option")
}
