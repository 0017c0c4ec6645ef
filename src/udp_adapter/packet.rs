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

use super::{Datagram, drops::SocketId};

/// More than the largest UDP payload (65,527 bytes), so that nothing is ever cut off.
const RECV_BUFFER: usize = 65_535;

/// What datagrams share a piece of memory, as long as one of them is held.
const PAYLOAD_CHUNK: usize = 4096;

/// A UDP socket that tells which address a datagram was sent to, and answers from there. For a loop of one's own;
/// [`UdpServer`](super::UdpServer) is made of it.
///
/// ```
/// use dualstack_metrics::{
///     ClientScopes, WithScope, Protocol, ServerBinding, SocketOptions,
///     udp_adapter::{Batch, DatagramSocket},
/// };
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
/// let socket = DatagramSocket::new(socket)?;
/// let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()));
/// # let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// # client.connect(("127.0.0.1", socket.local_addr().port())).await?;
/// # client.send(b"ping").await?;
///
/// let mut batch = Batch::new();
/// loop {
///     let datagram = socket.recv(&mut batch).await?;
///     socket
///         .reply(&datagram, b"pong")
///         .with_scope(scopes.for_client(datagram.client()))
///         .await?;
/// #   assert_eq!(datagram.local_addr().ip().to_string(), "127.0.0.1");
/// #   assert_eq!(client.recv(&mut [0; 8]).await?, 4);
/// #   break;
/// }
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Several tasks may receive, each with a batch of its own, while others send.
pub struct DatagramSocket {
    /// Before the socket, which closes after it.
    id: SocketId,
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl DatagramSocket {
    /// Of a bound socket.
    ///
    /// # Errors
    ///
    /// When the socket cannot be told to report destination addresses.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = set_up(&socket, local)?;
        Ok(Self {
            id: SocketId::of(&socket)?,
            socket,
            state,
            local,
        })
    }

    /// How others find the socket in what the kernel tells, without keeping it open.
    pub(super) fn id(&self) -> &SocketId {
        &self.id
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next datagram: of `batch`, or when there is none left, of what the system has by then.
    ///
    /// When the future is dropped before it is done, no datagram is lost.
    ///
    /// # Errors
    ///
    /// When the socket cannot receive. Most often the next call can.
    pub async fn recv(&self, batch: &mut Batch) -> io::Result<Datagram> {
        loop {
            if let Some((payload, meta)) = batch.next() {
                return Ok(Datagram::new(payload, meta.addr, self.destination(&meta)));
            }
            self.socket.readable().await?;
            match self.socket.try_io(Interest::READABLE, || self.try_recv(batch)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }

    /// Answers `datagram` from the address that it was sent to: [`send_from`](Self::send_from) its
    /// [`local_addr`](Datagram::local_addr) to its [`peer`](Datagram::peer).
    ///
    /// # Errors
    ///
    /// When the socket does not take the answer.
    pub async fn reply(&self, datagram: &Datagram, answer: &[u8]) -> io::Result<()> {
        self.send_from(datagram.local_addr().ip(), answer, datagram.peer())
            .await
    }

    /// Sends from one of the host's addresses, or from one that the system chooses: where `from` is the unspecified
    /// address, a multicast group, or not the host's any more. The port is the socket's.
    ///
    /// On an IPv6 socket, IPv4 addresses may be given as such or mapped.
    ///
    /// # Errors
    ///
    /// When the socket does not take the datagram.
    pub async fn send_from(&self, from: IpAddr, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let route = Route::new(self.local.is_ipv6(), from, to);
        loop {
            self.socket.writable().await?;
            match self.try_send(payload, &route) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Receives a batch. What was left of the last one is gone.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || self.try_recv(batch)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Receives a batch of what the system has now, which the runtime may not have heard of yet.
    pub(super) fn try_recv(&self, batch: &mut Batch) -> io::Result<()> {
        let room = batch.buffer.len() / RECV_BUFFER;
        let mut buffers = batch.buffer.chunks_exact_mut(RECV_BUFFER);
        let mut slices: [_; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let received = self.state.recv(
            (&self.socket).into(),
            &mut slices[..room],
            &mut batch.metas[..room],
        )?;
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

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
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
        Self {
            peer: meta.addr,
            local_ip: meta.dst_ip.filter(can_be_a_source),
        }
    }

    fn new(is_ipv6: bool, from: IpAddr, to: SocketAddr) -> Self {
        let fit = |ip: IpAddr| match ip {
            IpAddr::V4(ip) if is_ipv6 => ip.to_ipv6_mapped().into(),
            IpAddr::V6(_) if !is_ipv6 => ip.to_canonical(),
            ip => ip,
        };
        // A peer's scope id stays.
        let peer = match fit(to.ip()) {
            ip if ip == to.ip() => to,
            ip => SocketAddr::new(ip, to.port()),
        };
        Self {
            peer,
            local_ip: Some(fit(from)).filter(can_be_a_source),
        }
    }
}

fn can_be_a_source(ip: &IpAddr) -> bool {
    let ip = ip.to_canonical();
    !ip.is_unspecified() && !ip.is_multicast()
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

/// What was received at once, and how far it has been read. Used again and again: its receive buffers are large.
pub struct Batch {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    received: usize,
    /// The message to read next, and where in it: a system may coalesce datagrams of one size into one message.
    message: usize,
    offset: usize,
    chunk: BytesMut,
}

impl Batch {
    /// An empty batch, for as many datagrams at once as the platform can receive.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(BATCH_SIZE)
    }

    /// An empty batch for `datagrams` at once, at least 1: for a program with many sockets. Each takes 64 KiB of memory.
    #[must_use]
    pub fn with_room(datagrams: usize) -> Self {
        Self {
            buffer: vec![0; datagrams.clamp(1, BATCH_SIZE) * RECV_BUFFER],
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

    /// Whether the next datagram has to come from the system.
    #[must_use]
    pub fn is_empty(&self) -> bool {
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
        let payload = &self.buffer[self.message * RECV_BUFFER..][start..end];
        if end == meta.len {
            self.message += 1;
            self.offset = 0;
        } else {
            self.offset = end;
        }
        Some((share(&mut self.chunk, payload), meta))
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &(self.received - self.message))
            .finish_non_exhaustive()
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
