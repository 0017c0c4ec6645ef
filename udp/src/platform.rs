//! Makes a socket report the destination address of each datagram.

use std::{io, net::SocketAddr};

use quinn_udp::UdpSocketState;
use tokio::net::UdpSocket;

/// `quinn-udp`'s set-up runs on a throw-away socket, because it turns on QUIC options: no fragments, coalesced receives.
/// It needs to know the family only. The socket that is served gets one option: it reports destination addresses. If it
/// is bound to one address, that is the destination, and it gets none, unless that address may be on several links.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) fn set_up(socket: &UdpSocket, bound: SocketAddr) -> io::Result<UdpSocketState> {
    use nix::sys::socket::{setsockopt, sockopt};
    use socket2::{Domain, Protocol, Socket, Type};

    use crate::address::is_link_local_v4;

    let throw_away = Socket::new(Domain::for_address(bound), Type::DGRAM, Some(Protocol::UDP))?;
    let state = UdpSocketState::new((&throw_away).into())?;
    if !bound.ip().to_canonical().is_unspecified() && !is_link_local_v4(bound.ip()) {
        // Nothing to ask for.
    } else if bound.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        setsockopt(socket, sockopt::Ipv4RecvDstAddr, &true)?;
    }
    // On Apple systems `sendmsg` fails for ever if a datagram is about as large as `SO_SNDBUF`. `quinn-udp` raises a
    // size that is too small, and rejects datagrams above the size that it remembers.
    #[cfg(target_vendor = "apple")]
    state.set_send_buffer_size(socket.into(), state.send_buffer_size(socket.into())?)?;
    Ok(state)
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
pub(crate) fn set_up(socket: &UdpSocket, _: SocketAddr) -> io::Result<UdpSocketState> {
    UdpSocketState::new(socket.into())
}
