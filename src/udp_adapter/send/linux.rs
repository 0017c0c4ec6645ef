//! With `nix`, because `quinn-udp` gives each datagram a traffic class that overrides the one of the socket.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendto},
};
use quinn_udp::UdpSocketState;
use tokio::net::UdpSocket;

use crate::udp_adapter::address::Route;

/// How many datagrams a call sends at most.
pub(in crate::udp_adapter) const AT_ONCE: usize = 32;

/// Sends one datagram.
pub(super) fn send_from(
    socket: &UdpSocket,
    _: &UdpSocketState,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    if route.from.is_some() {
        return send_many(socket, route, [(payload, route)].into_iter()).map(drop);
    }
    // Cheaper than `sendmmsg` with one message, and than `nix`'s `sendmsg`, which allocates.
    let to = SockaddrStorage::from(route.to);
    retry(|| sendto(socket.as_raw_fd(), payload, &to, MsgFlags::empty())).map(drop)
}

/// Sends several datagrams from the address of `source`, as `send_first` says. Sends none if there is only one.
pub(super) fn send_run<'a>(
    socket: &UdpSocket,
    source: &Route,
    run: impl Iterator<Item = (&'a [u8], &'a Route)> + Clone,
) -> io::Result<usize> {
    if run.clone().nth(1).is_none() {
        return Ok(0);
    }
    send_many(socket, source, run)
}

/// Headers that are used again, one set for each size of the control message.
struct Headers {
    plain: MultiHeaders<SockaddrStorage>,
    inet: MultiHeaders<SockaddrStorage>,
    inet6: MultiHeaders<SockaddrStorage>,
}

thread_local! {
    // Headers hold pointers, so they are not `Send`.
    static HEADERS: RefCell<Headers> = RefCell::new(Headers {
        plain: MultiHeaders::preallocate(AT_ONCE, None),
        inet: MultiHeaders::preallocate(AT_ONCE, Some(cmsg_space!(in_pktinfo))),
        inet6: MultiHeaders::preallocate(AT_ONCE, Some(cmsg_space!(in6_pktinfo))),
    });
}

/// Sends from the address of `source`. `nix` gives all messages of a call the same control messages.
fn send_many<'a>(
    socket: &UdpSocket,
    source: &Route,
    messages: impl Iterator<Item = (&'a [u8], &'a Route)>,
) -> io::Result<usize> {
    let mut payloads = [[IoSlice::new(&[])]; AT_ONCE];
    let mut to = [None; AT_ONCE];
    let mut count = 0;
    for (payload, route) in messages.take(AT_ONCE) {
        payloads[count] = [IoSlice::new(payload)];
        to[count] = Some(SockaddrStorage::from(route.to));
        count += 1;
    }
    HEADERS.with_borrow_mut(|headers| {
        let (inet, inet6);
        let (headers, from) = match source.from {
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
                    // Its type depends on the system.
                    ipi6_ifindex: source.interface as _,
                    ipi6_addr: in6_addr { s6_addr: ip.octets() },
                };
                (&mut headers.inet6, Some(ControlMessage::Ipv6PacketInfo(&inet6)))
            }
        };
        retry(|| {
            sendmmsg(
                socket.as_raw_fd(),
                headers,
                &payloads[..count],
                &to[..count],
                from.as_slice(),
                MsgFlags::empty(),
            )
            .map(Iterator::count)
        })
    })
}

fn retry<T>(mut send: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match send() {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}
