//! Sends a datagram from an address of the host.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use quinn_udp::UdpSocketState;
use tokio::net::UdpSocket;

use super::address::Route;

/// Sends along `route`, or from an address that the system chooses if that of the route is refused.
pub(super) fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    refused: &RefusedSource,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    let system_chooses = Route {
        from: None,
        interface: 0,
        ..*route
    };
    let Some(from) = route.from.filter(|&from| !refused.is(from)) else {
        return send_from(socket, state, payload, &system_chooses);
    };
    match send_from(socket, state, payload, route) {
        Err(error) if is_about_the_source(&error) => {
            let result = send_from(socket, state, payload, &system_chooses);
            if result.is_ok() {
                refused.set(from);
            }
            result
        }
        result => result,
    }
}

fn is_about_the_source(error: &io::Error) -> bool {
    use ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable};

    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable
    )
}

/// The IPv4 address that was last refused as a source. It is not tried again within the same second. Usually it is the
/// broadcast address of a subnet, which looks like any other address.
#[derive(Debug)]
pub(super) struct RefusedSource {
    start: Instant,
    /// The address, and the second since `start`. 0 if there is none.
    last: AtomicU64,
}

impl RefusedSource {
    pub(super) fn none() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn is(&self, ip: IpAddr) -> bool {
        match (self.last.load(Ordering::Relaxed), ip.to_canonical()) {
            (0, _) | (_, IpAddr::V6(_)) => false,
            (last, IpAddr::V4(ip)) => last >> 32 == u64::from(ip.to_bits()) && last == self.now(ip),
        }
    }

    fn set(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip.to_canonical() {
            self.last.store(self.now(ip), Ordering::Relaxed);
        }
    }

    fn now(&self, ip: Ipv4Addr) -> u64 {
        u64::from(ip.to_bits()) << 32 | self.start.elapsed().as_secs() & u64::from(u32::MAX)
    }
}

/// Sends with `nix`, because `quinn-udp` gives each datagram a traffic class that overrides the one of the socket.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn send_from(socket: &UdpSocket, _: &UdpSocketState, payload: &[u8], route: &Route) -> io::Result<()> {
    use std::{cell::RefCell, io::IoSlice, os::fd::AsRawFd};

    use nix::{
        cmsg_space,
        errno::Errno,
        libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
        sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg},
    };

    /// Reusable headers, one for each size of the control message. (`nix`'s `sendmsg` allocates in each call.)
    struct Headers {
        plain: MultiHeaders<SockaddrStorage>,
        inet: MultiHeaders<SockaddrStorage>,
        inet6: MultiHeaders<SockaddrStorage>,
    }

    thread_local! {
        // Headers hold pointers, so they are not `Send`.
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
                    // Its type depends on the system.
                    ipi6_ifindex: route.interface as _,
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
fn send_from(socket: &UdpSocket, state: &UdpSocketState, payload: &[u8], route: &Route) -> io::Result<()> {
    let transmit = quinn_udp::Transmit {
        destination: route.to,
        ecn: None,
        contents: payload,
        segment_size: None,
        src_ip: route.from,
    };
    state.try_send(socket.into(), &transmit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_was_refused_is_not_tried_again_at_once() {
        let refused = RefusedSource::none();
        let broadcast = IpAddr::from([192, 0, 2, 255]);
        assert!(!refused.is(broadcast));
        refused.set(broadcast);
        assert!(refused.is(broadcast));
        assert!(refused.is("::ffff:192.0.2.255".parse().unwrap()));
        assert!(!refused.is([192, 0, 2, 254].into()));
        assert!(!refused.is("2001:db8::1".parse().unwrap()));
        // A second later.
        refused.last.fetch_sub(1, Ordering::Relaxed);
        assert!(!refused.is(broadcast));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_broadcast_address_of_a_subnet_is_refused_once() {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let bound = socket.local_addr().unwrap();
        let state = crate::udp_adapter::platform::set_up(&socket, bound).unwrap();
        let refused = RefusedSource::none();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for from in ["127.0.0.1", "127.255.255.255"] {
            let from: IpAddr = from.parse().unwrap();
            let route = Route::new(bound, (from, 0).into(), client.local_addr().unwrap()).unwrap();
            assert_eq!(route.from, Some(from));
            socket.writable().await.unwrap();
            send(&socket, &state, &refused, b"x", &route).unwrap();
            assert_eq!(client.recv(&mut [0; 8]).await.unwrap(), 1);
        }
        assert_eq!(refused.last.load(Ordering::Relaxed) >> 32, 0x7fff_ffff);
    }
}
