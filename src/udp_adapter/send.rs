//! Sends a datagram from an address of the host.

use std::io;

use quinn_udp::UdpSocketState;
use tokio::net::UdpSocket;

use super::address::Route;

/// `nix` sends here, because `quinn-udp` writes a traffic class of its own into each datagram, in the place of the one
/// that is set on the socket.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn send(socket: &UdpSocket, _: &UdpSocketState, payload: &[u8], route: &Route) -> io::Result<()> {
    use std::{cell::RefCell, io::IoSlice, net::IpAddr, os::fd::AsRawFd};

    use nix::{
        cmsg_space,
        errno::Errno,
        libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
        sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg},
    };

    /// Memory for the headers of a call, one for each size of the control message. `sendmsg` would allocate it each time.
    struct Headers {
        plain: MultiHeaders<SockaddrStorage>,
        inet: MultiHeaders<SockaddrStorage>,
        inet6: MultiHeaders<SockaddrStorage>,
    }

    thread_local! {
        // Of a thread, because the headers hold pointers, which no other thread may have.
        static HEADERS: RefCell<Headers> = RefCell::new(Headers {
            plain: MultiHeaders::preallocate(1, None),
            inet: MultiHeaders::preallocate(1, Some(cmsg_space!(in_pktinfo))),
            inet6: MultiHeaders::preallocate(1, Some(cmsg_space!(in6_pktinfo))),
        });
    }

    let payloads = [[IoSlice::new(payload)]];
    let to = [Some(SockaddrStorage::from(route.to))];
    HEADERS.with_borrow_mut(|headers| {
        let (inet, inet6);
        let (headers, from) = match route.from {
            None => (&mut headers.plain, None),
            Some(IpAddr::V4(ip)) => {
                inet = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(ip.octets()),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                (&mut headers.inet, Some(ControlMessage::Ipv4PacketInfo(&inet)))
            }
            Some(IpAddr::V6(ip)) => {
                inet6 = in6_pktinfo {
                    ipi6_ifindex: 0,
                    ipi6_addr: in6_addr { s6_addr: ip.octets() },
                };
                (&mut headers.inet6, Some(ControlMessage::Ipv6PacketInfo(&inet6)))
            }
        };
        let from = from.as_slice();
        loop {
            match sendmmsg(
                socket.as_raw_fd(),
                headers,
                &payloads,
                to,
                from,
                MsgFlags::empty(),
            ) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop).map_err(io::Error::from),
            }
        }
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    let transmit = quinn_udp::Transmit {
        destination: route.to,
        ecn: None,
        contents: payload,
        segment_size: None,
        src_ip: route.from,
    };
    state.try_send(socket.into(), &transmit)
}
