//! Sends datagrams from addresses of the host.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod one_by_one;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use quinn_udp::UdpSocketState;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use self::linux::AT_ONCE;
#[cfg(any(target_os = "linux", target_os = "android"))]
use self::linux::{send_from, send_run};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use self::one_by_one::AT_ONCE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use self::one_by_one::{send_from, send_run};
use super::{address::Route, ready::UdpSocket};

/// Sends the first of `messages`, and those behind it that leave from the same address, [`AT_ONCE`] at most. Returns how
/// many were sent. An error is about the first: none was sent.
pub(super) fn send_first<'a>(
    socket: &UdpSocket,
    state: &UdpSocketState,
    refused: &Refused,
    messages: impl Iterator<Item = (&'a [u8], &'a Route)> + Clone,
) -> io::Result<usize> {
    let Some((payload, first)) = messages.clone().next() else {
        return Ok(0);
    };
    let run = messages.take_while(|(_, route)| route.has_source_of(first));
    if !first.from.is_some_and(|from| refused.is(from)) {
        match send_run(socket, state, refused, first, run) {
            // The first may be the only one that fails, or another source may help it.
            Err(error) if error.kind() != ErrorKind::WouldBlock => {}
            Ok(0) => {}
            result => return result,
        }
    }
    send(socket, state, refused, payload, first).map(|()| 1)
}

/// Sends along `route`, or from an address that the system chooses if that of the route is refused.
pub(super) fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    refused: &Refused,
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

/// What the system refused last. It is not tried again within the same second.
#[derive(Debug)]
pub(super) struct Refused {
    start: Instant,
    /// An IPv4 address as a source, and the second since `start`. 0 if there is none. Usually it is the broadcast address
    /// of a subnet, which looks like any other address.
    source: AtomicU64,
    /// The second after the one in which a message with several datagrams was refused. 0 if there is none. A link without
    /// checksum offload does that, and one whose MTU is too small.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    segments: AtomicU64,
}

impl Refused {
    pub(super) fn none() -> Self {
        Self {
            start: Instant::now(),
            source: AtomicU64::new(0),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            segments: AtomicU64::new(0),
        }
    }

    fn is(&self, ip: IpAddr) -> bool {
        match (self.source.load(Ordering::Relaxed), ip.to_canonical()) {
            (0, _) | (_, IpAddr::V6(_)) => false,
            (last, IpAddr::V4(ip)) => last >> 32 == u64::from(ip.to_bits()) && last == self.now(ip),
        }
    }

    fn set(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip.to_canonical() {
            self.source.store(self.now(ip), Ordering::Relaxed);
        }
    }

    fn now(&self, ip: Ipv4Addr) -> u64 {
        u64::from(ip.to_bits()) << 32 | self.second() & u64::from(u32::MAX)
    }

    fn second(&self) -> u64 {
        self.start.elapsed().as_secs()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Refused {
    fn segments(&self) -> bool {
        let last = self.segments.load(Ordering::Relaxed);
        last != 0 && last == self.second() + 1
    }

    fn set_segments(&self) {
        self.segments.store(self.second() + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_was_refused_is_not_tried_again_at_once() {
        let refused = Refused::none();
        let broadcast = IpAddr::from([192, 0, 2, 255]);
        assert!(!refused.is(broadcast));
        refused.set(broadcast);
        assert!(refused.is(broadcast));
        assert!(refused.is("::ffff:192.0.2.255".parse().unwrap()));
        assert!(!refused.is([192, 0, 2, 254].into()));
        assert!(!refused.is("2001:db8::1".parse().unwrap()));
        // A second later.
        refused.source.fetch_sub(1, Ordering::Relaxed);
        assert!(!refused.is(broadcast));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_broadcast_address_of_a_subnet_is_refused_once() {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let bound = socket.local_addr().unwrap();
        let state = crate::udp_adapter::platform::set_up(&socket, bound).unwrap();
        let socket = socket.into_std().unwrap();
        let refused = Refused::none();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for from in ["127.0.0.1", "127.255.255.255"] {
            let from: IpAddr = from.parse().unwrap();
            let route = Route::new(bound, (from, 0).into(), client.local_addr().unwrap()).unwrap();
            assert_eq!(route.from, Some(from));
            send(&socket, &state, &refused, b"x", &route).unwrap();
            assert_eq!(client.recv(&mut [0; 8]).unwrap(), 1);
        }
        assert_eq!(refused.source.load(Ordering::Relaxed) >> 32, 0x7fff_ffff);
    }
}
