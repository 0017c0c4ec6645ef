//! Asks the served socket itself, which knows its device and its network namespace, and then the routing table.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
    },
};
use socket2::SockRef;

use super::Owner;
use crate::{
    address::Route,
    ready::UdpSocket,
    send::{is_about_the_source, probe},
};

/// Asks whose the source of `route` is. `None` if the system does not tell. If the socket is `free`, it may send from every
/// IPv6 address, and does not know.
pub(super) fn ask(socket: &UdpSocket, route: &Route, free: bool) -> Option<Owner> {
    let from = route.from?.to_canonical();
    if from.is_ipv4() || !free {
        match probe(socket, route) {
            Ok(()) => return Some(Owner::Host),
            Err(error) if is_about_the_source(&error) => {}
            Err(_) => return None,
        }
    }
    match is_routed_here(from) {
        Ok(true) if from.is_ipv6() => Some(Owner::Prefix),
        Ok(true) => Some(Owner::Host),
        Ok(false) => Some(Owner::Other),
        Err(_) => None,
    }
}

/// Lets the socket send from every IPv6 address.
pub(super) fn send_from_routed(socket: &UdpSocket) -> bool {
    SockRef::from(socket).set_freebind_v6(true).is_ok()
}

/// Asks the routing table, like `ip route get`. A program that may not ask is told no.
fn is_routed_here(ip: IpAddr) -> io::Result<bool> {
    let table = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    );
    let table = match table {
        Err(Errno::EACCES | Errno::EAFNOSUPPORT | Errno::EPERM | Errno::EPROTONOSUPPORT) => return Ok(false),
        table => table?,
    };
    sendto(
        table.as_raw_fd(),
        &request(ip),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut response = [0; 4096];
    // The kernel has answered before `sendto` returns.
    let length = recv(table.as_raw_fd(), &mut response, MsgFlags::MSG_DONTWAIT)?;
    read(&response[..length])
}

/// `RTM_GETROUTE` in [`rtnetlink(7)`](https://man7.org/linux/man-pages/man7/rtnetlink.7.html).
fn request(ip: IpAddr) -> Vec<u8> {
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "they are small"
    )]
    let [family, bits, size] = [family as u8, 8 * octets.len() as u8, 4 + octets.len() as u8];
    let mut request = Vec::new();
    // `nlmsghdr`: the length of all, the type, the flags; a sequence number and a port, which nobody reads.
    request.extend(u32::from(size + 28).to_ne_bytes());
    request.extend([libc::RTM_GETROUTE, NLM_F_REQUEST].map(u16::to_ne_bytes).concat());
    request.extend([0; 8]);
    // `rtmsg`: the family and the length of the prefix.
    request.extend([family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // `rtattr`: its length and type, and the address.
    request.extend([u16::from(size), libc::RTA_DST].map(u16::to_ne_bytes).concat());
    request.extend(octets);
    request
}

/// Whether the route is a local one.
fn read(response: &[u8]) -> io::Result<bool> {
    let invalid = || io::Error::from(ErrorKind::InvalidData);
    let (header, body) = response.split_at_checked(16).ok_or_else(invalid)?;
    match u16::from_ne_bytes([header[4], header[5]]) {
        libc::RTM_NEWROUTE => {
            let kind = *body.get(7).ok_or_else(invalid)?;
            Ok(matches!(kind, libc::RTN_LOCAL | libc::RTN_ANYCAST))
        }
        NLMSG_ERROR => {
            let error = body.first_chunk().ok_or_else(invalid)?;
            let error = io::Error::from_raw_os_error(-i32::from_ne_bytes(*error));
            // There is no route, or a forbidden one.
            if is_about_the_source(&error) || error.kind() == ErrorKind::PermissionDenied {
                Ok(false)
            } else {
                Err(error)
            }
        }
        _ => Err(invalid()),
    }
}

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
