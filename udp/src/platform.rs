//! Options of the socket that is served.

use std::{io, net::SocketAddr};

use quinn_udp::UdpSocketState;
use tokio::net;

use crate::ready::UdpSocket;

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
pub(crate) fn set_up(socket: &net::UdpSocket, bound: SocketAddr) -> io::Result<UdpSocketState> {
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
pub(crate) fn set_up(socket: &net::UdpSocket, _: SocketAddr) -> io::Result<UdpSocketState> {
    UdpSocketState::new(socket.into())
}

/// Over IPv6, sends in fragments that every link takes. Over IPv4, lets routers fragment.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn ignore_path_mtu(socket: &UdpSocket, bound: SocketAddr) -> io::Result<()> {
    use nix::{
        libc::{self, c_int},
        sys::socket::{setsockopt, sockopt::SetStruct},
    };

    /// Every IPv6 link takes packets of this size ([RFC 8200 §5]).
    ///
    /// [RFC 8200 §5]: https://www.rfc-editor.org/rfc/rfc8200#section-5
    const MIN_MTU: c_int = 1_280;

    #[derive(Clone, Copy)]
    struct Ipv6Mtu;
    nix::setsockopt_impl!(
        Ipv6Mtu,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU,
        c_int,
        SetStruct<'_, c_int>
    );

    #[derive(Clone, Copy)]
    struct IpMtuDiscover;
    nix::setsockopt_impl!(
        IpMtuDiscover,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        c_int,
        SetStruct<'_, c_int>
    );

    if bound.is_ipv6() {
        setsockopt(socket, Ipv6Mtu, &MIN_MTU)?;
    }
    Ok(setsockopt(socket, IpMtuDiscover, &libc::IP_PMTUDISC_OMIT)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn ignore_path_mtu(_: &UdpSocket, _: SocketAddr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
