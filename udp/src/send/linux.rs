//! With `nix`, because `quinn-udp` gives each datagram a traffic class that overrides the one of the socket.

mod messages;

use std::{
    array,
    cell::RefCell,
    io::{self, ErrorKind, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{MSG_CONFIRM, c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendto},
};
use quinn_udp::UdpSocketState;

pub(crate) use self::messages::MAX_BATCH;
use self::messages::Messages;
use crate::{address::Route, ready::UdpSocket};

/// Whether a message may be several datagrams. A link without checksum offload refuses that, and it is not tried again
/// within the same second.
pub(crate) struct Segmentation {
    is_supported: bool,
    start: Instant,
    /// The second since `start` after the one in which it was refused. 0 if it never was.
    refused: AtomicU64,
}

impl Segmentation {
    pub(crate) fn new(state: &UdpSocketState) -> Self {
        Self {
            is_supported: state.max_gso_segments() >= MAX_BATCH,
            start: Instant::now(),
            refused: AtomicU64::new(0),
        }
    }

    fn is_allowed(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        self.is_supported && (refused == 0 || refused != self.second() + 1)
    }

    fn refuse(&self) {
        self.refused.store(self.second() + 1, Ordering::Relaxed);
    }

    fn second(&self) -> u64 {
        self.start.elapsed().as_secs()
    }
}

/// Sends one datagram.
pub(crate) fn send_from(
    socket: &UdpSocket,
    _: &UdpSocketState,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    if route.from.is_some() || route.interface != 0 {
        let mut messages = Messages::new(false);
        messages.add(payload.len(), route.to);
        let payloads = [IoSlice::new(payload)];
        return send_messages(socket, route, &payloads, &messages, MsgFlags::empty()).map(drop);
    }
    // Cheaper than `sendmmsg` with one message, and than `nix`'s `sendmsg`, which allocates.
    let to = SockaddrStorage::from(route.to);
    retry(|| sendto(socket.as_raw_fd(), payload, &to, MsgFlags::empty())).map(drop)
}

/// Fails if the socket cannot send from the address of `route`. Sends nothing: with both flags, the system only looks for the
/// route of an empty datagram from the address to itself.
pub(crate) fn probe(socket: &UdpSocket, route: &Route) -> io::Result<()> {
    const MSG_PROBE: c_int = 0x10;

    let Some(to) = route.source_as_destination() else {
        return Ok(());
    };
    let mut messages = Messages::new(false);
    messages.add(0, to);
    let flags = MsgFlags::from_bits_retain(MSG_CONFIRM | MSG_PROBE);
    send_messages(socket, route, &[IoSlice::new(&[])], &messages, flags).map(drop)
}

/// Sends several datagrams from the address of `source`, and returns how many. Sends none if there is only one.
pub(crate) fn send_run<'a>(
    socket: &UdpSocket,
    segmentation: &Segmentation,
    source: &Route,
    run: &(impl Iterator<Item = (&'a [u8], &'a Route)> + Clone),
) -> io::Result<usize> {
    if run.clone().nth(1).is_none() {
        return Ok(0);
    }
    let mut payloads = [IoSlice::new(&[]); MAX_BATCH];
    let mut send = |may_segment| {
        let mut messages = Messages::new(may_segment);
        for ((payload, route), slice) in run.clone().zip(&mut payloads) {
            if !messages.add(payload.len(), route.to) {
                break;
            }
            *slice = IoSlice::new(payload);
        }
        let result = send_messages(socket, source, &payloads, &messages, MsgFlags::empty());
        (result, messages.segment().is_some())
    };
    match send(segmentation.is_allowed()) {
        (Err(error), true) if error.kind() != ErrorKind::WouldBlock => {
            // Any other error may be about a peer: its path may have a small MTU.
            if error.raw_os_error() == Some(Errno::EIO as i32) {
                segmentation.refuse();
            }
            send(false).0
        }
        (result, _) => result,
    }
}

/// Sends from the address of `source`, and returns the number of datagrams. `nix` gives all messages of a call the same
/// control messages.
fn send_messages(
    socket: &UdpSocket,
    source: &Route,
    payloads: &[IoSlice<'_>],
    messages: &Messages,
    flags: MsgFlags,
) -> io::Result<usize> {
    let slices: [_; MAX_BATCH] = array::from_fn(|at| &payloads[messages.datagrams_of(at)]);
    let (inet, inet6, segment);
    let mut control = [ControlMessage::UdpGsoSegments(&0); 2];
    let mut used = 0;
    let mut add = |message| {
        control[used] = message;
        used += 1;
    };
    // The unspecified address lets the system choose one of the interface.
    let any = || match source.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
    };
    let from = source.from.or_else(|| (source.interface != 0).then(any));
    match from {
        None => {}
        Some(IpAddr::V4(ip)) => {
            inet = in_pktinfo {
                #[expect(clippy::cast_possible_wrap, reason = "it is the number of an interface")]
                ipi_ifindex: source.interface as _,
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                ipi_addr: in_addr { s_addr: 0 },
            };
            add(ControlMessage::Ipv4PacketInfo(&inet));
        }
        Some(IpAddr::V6(ip)) => {
            inet6 = in6_pktinfo {
                #[allow(clippy::cast_possible_wrap, reason = "it is signed on Android")]
                ipi6_ifindex: source.interface as _,
                ipi6_addr: in6_addr { s6_addr: ip.octets() },
            };
            add(ControlMessage::Ipv6PacketInfo(&inet6));
        }
    }
    if let Some(size) = messages.segment() {
        segment = size;
        add(ControlMessage::UdpGsoSegments(&segment));
    }
    with_headers(from, messages.segment().is_some(), |headers| {
        retry(|| {
            sendmmsg(
                socket.as_raw_fd(),
                headers,
                &slices[..messages.len()],
                messages.to(),
                &control[..used],
                flags,
            )
            .map(Iterator::count)
        })
    })
    .map(|sent| messages.datagrams_before(sent))
}

/// Hands out headers for these control messages, which are used again.
fn with_headers<T>(
    from: Option<IpAddr>,
    is_segmented: bool,
    send: impl FnOnce(&mut MultiHeaders<SockaddrStorage>) -> T,
) -> T {
    thread_local! {
        // They hold pointers, so they are not `Send`.
        static HEADERS: RefCell<[Option<MultiHeaders<SockaddrStorage>>; 6]> = RefCell::default();
    }

    let at = match from {
        None => 0,
        Some(IpAddr::V4(_)) => 1,
        Some(IpAddr::V6(_)) => 2,
    };
    let new = || {
        let space = match (at, is_segmented) {
            (0, false) => return MultiHeaders::preallocate(MAX_BATCH, None),
            (0, true) => cmsg_space!(u16),
            (1, false) => cmsg_space!(in_pktinfo),
            (1, true) => cmsg_space!(in_pktinfo, u16),
            (_, false) => cmsg_space!(in6_pktinfo),
            (_, true) => cmsg_space!(in6_pktinfo, u16),
        };
        MultiHeaders::preallocate(MAX_BATCH, Some(space))
    };
    HEADERS
        .with_borrow_mut(|headers| send(headers[at + 3 * usize::from(is_segmented)].get_or_insert_with(new)))
}

fn retry<T>(mut send: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match send() {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}
