//! A socket can be bound to an address of its host.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, Socket, Type};

use super::Owner;
use crate::{address::Route, ready::UdpSocket};

/// Asks whose the source of `route` is. `None` if the system does not tell.
pub(super) fn ask(_: &UdpSocket, route: &Route, _: bool) -> Option<Owner> {
    let address: SocketAddr = match route.from?.to_canonical() {
        IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, route.interface).into(),
        IpAddr::V4(ip) => (ip, 0).into(),
    };
    match is_bound_and_connected(address) {
        Ok(()) => Some(Owner::Host),
        // A broadcast address needs an option to be connected to.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied
            ) =>
        {
            Some(Owner::Other)
        }
        Err(_) => None,
    }
}

fn is_bound_and_connected(mut address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.bind(&address.into())?;
    // Sends nothing.
    address.set_port(9);
    socket.connect(&address.into())
}

/// There are no such prefixes.
pub(super) fn send_from_routed(_: &UdpSocket) -> bool {
    false
}
