use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use quinn_udp::UdpSocketState;
use socket2::SockRef;
use tokio::net::UdpSocket;

use crate::{
    address::Route,
    answer::{send, send_first},
    batch::Batch,
    datagram::Datagram,
    drops::Drops,
    platform::{ignore_path_mtu, set_up},
    ready::{Ready, Writable},
    send::Segmentation,
    sources::Sources,
};

/// A UDP socket that knows which address each datagram was sent to, and answers from there. [`Server`](crate::Server)
/// uses one. Use it directly to write your own loop.
///
/// ```
/// use dualstack_udp::{Batch, DatagramSocket};
/// use tokio::net::UdpSocket;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let socket = DatagramSocket::new(UdpSocket::bind("0.0.0.0:0").await?)?;
/// # let client = UdpSocket::bind("127.0.0.1:0").await?;
/// # client.connect(("127.0.0.1", socket.local_addr().port())).await?;
/// # client.send(b"ping").await?;
///
/// let mut batch = Batch::new();
/// loop {
///     let datagram = socket.recv(&mut batch).await?;
///     if *datagram.payload() == "ping" {
///         socket.reply(&datagram, b"pong").await?;
///     }
/// #   assert_eq!(datagram.local_addr().ip().to_string(), "127.0.0.1");
/// #   assert_eq!(client.recv(&mut [0; 8]).await?, 4);
/// #   break;
/// }
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Several tasks may receive at a time, each with its own batch, while others send.
pub struct DatagramSocket {
    socket: Arc<Ready>,
    /// How many of the kernel's drops have been counted.
    drops: Arc<Mutex<u32>>,
    state: UdpSocketState,
    segmentation: Segmentation,
    sources: Sources,
    bound: SocketAddr,
}

impl DatagramSocket {
    /// Takes a bound socket, and makes it non-blocking: one from a service manager may not be. It belongs to the runtime in which this is called (on systems other than Linux and Android,
    /// to the one in which the socket was made).
    ///
    /// # Errors
    ///
    /// If the socket cannot be told to report destination addresses, or this is not called in a runtime of tokio.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        SockRef::from(&socket).set_nonblocking(true)?;
        let state = set_up(&socket, bound)?;
        Ok(Self {
            socket: Arc::new(Ready::new(socket)?),
            drops: Arc::default(),
            segmentation: Segmentation::new(&state),
            sources: Sources::default(),
            state,
            bound,
        })
    }

    /// From now on, sends without regard to the path MTU, as DNS servers do: over IPv4 so that routers may fragment, and over
    /// IPv6 in fragments of at most 1,280 bytes, which every link takes. See the [crate](crate#large-answers).
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) on systems other than Linux and Android.
    pub fn ignore_path_mtu(&self) -> io::Result<()> {
        ignore_path_mtu(self.socket.socket(), self.bound)
    }

    /// Reads how many datagrams the kernel drops at the socket.
    #[must_use]
    pub fn drops(&self) -> Drops {
        Drops::new(&self.socket, &self.drops)
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.bound
    }

    /// Returns the next datagram of `batch`. If there is none left, fills `batch`, and waits until the system has received
    /// a datagram.
    ///
    /// Cancel safe: if the future is dropped before it is done, no datagram is lost.
    ///
    /// # Errors
    ///
    /// If the socket cannot receive. The next call usually can, except if the socket was shut down.
    pub async fn recv(&self, batch: &mut Batch) -> io::Result<Datagram> {
        loop {
            if let Some(datagram) = batch.next(self.bound) {
                return Ok(datagram);
            }
            self.socket.recv(|| self.try_recv(batch)).await?;
        }
    }

    /// Answers `datagram` from the address that it was sent to, like [`send_from`](Self::send_from) its
    /// [`local_addr`](Datagram::local_addr) to its [`peer`](Datagram::peer). Link-local addresses keep their interface.
    ///
    /// # Errors
    ///
    /// If the socket does not take the answer, or the datagram has no address to answer to, see
    /// [`send_from`](Self::send_from).
    pub async fn reply(&self, datagram: &Datagram, answer: &[u8]) -> io::Result<()> {
        let route = self.route_of(datagram)?;
        self.send(answer, &route).await
    }

    /// Like [`reply`](Self::reply), but does not wait. For programs that would rather lose an answer than be late with the
    /// others.
    ///
    /// # Errors
    ///
    /// Those of [`reply`](Self::reply), and [`WouldBlock`](ErrorKind::WouldBlock) while the send buffer is full.
    pub fn try_reply(&self, datagram: &Datagram, answer: &[u8]) -> io::Result<()> {
        let route = self.route_of(datagram)?;
        self.try_send(answer, &route)
    }

    /// Sends from one of the host's addresses. Waits while the send buffer is full. The port is the socket's.
    ///
    /// The system chooses the address if `from` is the unspecified address, a broadcast address, a multicast group, or no
    /// longer an address of the host.
    ///
    /// On an IPv6 socket, IPv4 addresses may be given as they are or mapped. The system also chooses if `from` is a
    /// link-local address and `to` is not, because `from` does not name the interface; [`reply`](Self::reply) knows it.
    ///
    /// # Errors
    ///
    /// If the socket does not take the datagram, or may not send it from there. [`InvalidInput`](ErrorKind::InvalidInput) if `to` has port 0 or the
    /// unspecified address. A datagram from there asks for no answer ([RFC 768]).
    ///
    /// [RFC 768]: https://www.rfc-editor.org/rfc/rfc768
    pub async fn send_from(&self, from: IpAddr, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let route = self.route(from, to)?;
        self.send(payload, &route).await
    }

    /// Like [`send_from`](Self::send_from), but does not wait.
    ///
    /// # Errors
    ///
    /// Those of [`send_from`](Self::send_from), and [`WouldBlock`](ErrorKind::WouldBlock) while the send buffer is full.
    pub fn try_send_from(&self, from: IpAddr, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let route = self.route(from, to)?;
        self.try_send(payload, &route)
    }

    fn route(&self, from: IpAddr, to: SocketAddr) -> io::Result<Route> {
        Route::new(self.bound, SocketAddr::new(from, 0), to).ok_or_else(|| cannot_reach(to))
    }

    /// The route of an answer.
    pub(crate) fn route_of(&self, datagram: &Datagram) -> io::Result<Route> {
        datagram
            .route(self.bound)
            .ok_or_else(|| cannot_reach(datagram.peer()))
    }

    /// Sends along `route`, once the socket takes it.
    async fn send(&self, payload: &[u8], route: &Route) -> io::Result<()> {
        let mut writable = Writable::default();
        loop {
            match self.try_send(payload, route) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_until_writable(&mut writable).await?;
                }
                result => return result,
            }
        }
    }

    /// Waits until the socket takes datagrams again.
    pub(crate) async fn wait_until_writable(&self, writable: &mut Writable) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx, writable)).await
    }

    /// Ready when a send may be tried again.
    pub(crate) fn poll_writable(
        &self,
        cx: &mut Context<'_>,
        writable: &mut Writable,
    ) -> Poll<io::Result<()>> {
        writable.poll_ready(cx, &self.socket)
    }

    /// Fills `batch`. Datagrams that it still held are lost.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.socket.poll_recv(cx, || self.try_recv(batch))
    }

    /// Fills `batch` with the datagrams that the system has received, even if the runtime does not know of them yet.
    pub(crate) fn try_recv(&self, batch: &mut Batch) -> io::Result<()> {
        batch.refill(|buffers, metas| self.state.recv(self.socket.socket().into(), buffers, metas))
    }

    /// Sends the first of `messages`, and those behind it that the same call can send. Returns how many. An error is
    /// about the first.
    pub(crate) fn try_send_first<'a>(
        &self,
        messages: impl Iterator<Item = (&'a [u8], &'a Route)> + Clone,
    ) -> io::Result<usize> {
        let (socket, sources) = (self.socket.socket(), &self.sources);
        self.socket
            .try_send(|| send_first(socket, &self.state, &self.segmentation, sources, messages))
    }

    /// Sends along `route`.
    fn try_send(&self, payload: &[u8], route: &Route) -> io::Result<()> {
        let (socket, sources) = (self.socket.socket(), &self.sources);
        self.socket
            .try_send(|| send(socket, &self.state, sources, payload, route))
    }
}

fn cannot_reach(to: SocketAddr) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("nothing can be sent to {to}: it has no port, or no address"),
    )
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
            .field("local", &self.bound)
            .finish_non_exhaustive()
    }
}
