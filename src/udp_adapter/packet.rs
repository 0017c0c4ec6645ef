//! The socket as `quinn-udp` drives it: batches in, and answers out from the address that was asked.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

/// More than the largest UDP payload (65,527 bytes), so that nothing is ever cut off.
const RECV_BUFFER: usize = 65_535;

/// What datagrams share a piece of memory, as long as one of them is held.
const PAYLOAD_CHUNK: usize = 4096;

pub(super) struct PacketSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl PacketSocket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = set_up(&socket, local)?;
        Ok(Self { socket, state, local })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Receives a batch. What was left of the last one is gone.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || self.recv(batch)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Receives a batch of what the system has now, which the runtime may not have heard of yet.
    pub(super) fn recv(&self, batch: &mut Batch) -> io::Result<()> {
        let mut buffers = batch.buffer.chunks_exact_mut(RECV_BUFFER);
        let mut slices: [_; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let received = self
            .state
            .recv((&self.socket).into(), &mut slices, &mut batch.metas)?;
        batch.refill(received);
        Ok(())
    }

    /// Ready when a send may be tried again.
    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }

    /// Sends from the address that was asked, or from one that the system chooses where that is gone.
    pub(super) fn try_send(&self, payload: &[u8], route: &Route) -> io::Result<()> {
        let send = |src_ip| {
            let transmit = Transmit {
                destination: route.peer,
                ecn: None,
                contents: payload,
                segment_size: None,
                src_ip,
            };
            self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send((&self.socket).into(), &transmit)
            })
        };
        match send(route.local_ip) {
            Err(error) if route.local_ip.is_some() && is_about_the_source(&error) => send(None),
            result => result,
        }
    }

    /// The address a datagram was sent to, as far as the platform tells.
    pub(super) fn destination(&self, meta: &RecvMeta) -> SocketAddr {
        match meta.dst_ip {
            Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, self.local.port(), 0, meta.interface_index.unwrap_or(0)).into()
            }
            Some(ip) => SocketAddr::new(ip, self.local.port()),
            None => self.local,
        }
    }
}

impl fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketSocket")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

fn is_about_the_source(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable};

    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable
    )
}

/// Where an answer goes, and where from: addresses as the socket reported them, so that they fit its family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    peer: SocketAddr,
    local_ip: Option<IpAddr>,
}

impl Route {
    pub(super) fn back(meta: &RecvMeta) -> Self {
        let is_own = |ip: &IpAddr| !ip.to_canonical().is_multicast();
        Self {
            peer: meta.addr,
            local_ip: meta.dst_ip.filter(is_own),
        }
    }
}

/// `quinn-udp` sets the options of a QUIC socket: no fragments, coalesced receives. All it needs to know of the socket
/// is the family, so it is shown another one, and the one that is served only reports destination addresses.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
fn set_up(socket: &UdpSocket, local: SocketAddr) -> io::Result<UdpSocketState> {
    use nix::sys::socket::{setsockopt, sockopt};
    use socket2::{Domain, Protocol, Socket, Type};

    let thrown_away = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    let state = UdpSocketState::new((&thrown_away).into())?;
    if local.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        setsockopt(socket, sockopt::Ipv4RecvDstAddr, &true)?;
    }
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
fn set_up(socket: &UdpSocket, _: SocketAddr) -> io::Result<UdpSocketState> {
    UdpSocketState::new(socket.into())
}

/// What was received at once, and how far it has been read.
pub(super) struct Batch {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    received: usize,
    /// The message to read next, and where in it: a system may coalesce datagrams of one size into one message.
    message: usize,
    offset: usize,
    chunk: BytesMut,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BATCH_SIZE * RECV_BUFFER],
            metas: [RecvMeta::default(); BATCH_SIZE],
            received: 0,
            message: 0,
            offset: 0,
            chunk: BytesMut::with_capacity(PAYLOAD_CHUNK),
        }
    }

    fn refill(&mut self, received: usize) {
        self.received = received;
        self.message = 0;
        self.offset = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.message == self.received
    }

    /// The next datagram, copied out of the receive buffer.
    pub(super) fn next(&mut self) -> Option<(Bytes, RecvMeta)> {
        if self.is_empty() {
            return None;
        }
        let meta = self.metas[self.message];
        let start = self.offset;
        // An empty datagram has a stride of 0.
        let end = meta.len.min(start + meta.stride.max(1));
        if end == meta.len {
            self.message += 1;
            self.offset = 0;
        } else {
            self.offset = end;
        }
        let message = if self.offset == 0 {
            self.message - 1
        } else {
            self.message
        };
        let payload = &self.buffer[message * RECV_BUFFER..][start..end];
        Some((share(&mut self.chunk, payload), meta))
    }
}

/// Copies into a chunk that is used again as soon as nobody holds a piece of it, which takes no allocation where
/// handlers are done before the next chunk is full.
fn share(chunk: &mut BytesMut, payload: &[u8]) -> Bytes {
    if payload.len() > PAYLOAD_CHUNK {
        return Bytes::copy_from_slice(payload);
    }
    chunk.reserve(payload.len());
    chunk.extend_from_slice(payload);
    chunk.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(messages: &[(&[u8], usize)]) -> Batch {
        let mut batch = Batch::new();
        for (at, (bytes, stride)) in messages.iter().enumerate() {
            batch.buffer[at * RECV_BUFFER..][..bytes.len()].copy_from_slice(bytes);
            batch.metas[at].len = bytes.len();
            batch.metas[at].stride = *stride;
        }
        batch.refill(messages.len());
        batch
    }

    fn drain(batch: &mut Batch) -> Vec<Bytes> {
        std::iter::from_fn(|| batch.next().map(|(payload, _)| payload)).collect()
    }

    #[test]
    fn coalesced_datagrams_are_split() {
        let mut batch = batch(&[(b"aabbc", 2), (b"dd", 2), (b"", 0), (b"ee", 10), (b"ff", 0)]);
        let drained = drain(&mut batch);
        assert_eq!(drained[..6], ["aa", "bb", "c", "dd", "", "ee"].map(Bytes::from));
        assert!(batch.is_empty());
    }

    #[test]
    fn the_chunk_is_used_again() {
        let mut chunk = BytesMut::with_capacity(PAYLOAD_CHUNK);
        drop(share(&mut chunk, &[1; 100]));
        let start = chunk.as_ptr() as usize;
        for _ in 0..1_000 {
            let payload = share(&mut chunk, &[2; 100]);
            assert!((payload.as_ptr() as usize).abs_diff(start) <= PAYLOAD_CHUNK);
        }
        let large = vec![3; PAYLOAD_CHUNK + 1];
        assert_eq!(share(&mut chunk, &large), large);
    }
}
