use std::{future::poll_fn, io, net::SocketAddr, ops::ControlFlow, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{error::Elapsed, timeout},
};

use super::{
    fallback::Fallback,
    policy::Policy,
    protocol::{self, Header},
    reason::Rejection,
    stream::ProxyStream,
    trust::TrustedProxies,
};
use crate::client::{Client, ClientConnectInfo};

/// A listener for [`TrustedProxies::proxy_protocol`]: a `TcpListener` or `UnixListener` of tokio, one of them with axum's
/// `tap_io`, or your own.
pub trait Accept: Send + 'static {
    /// The connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts a connection, with the address of the peer, or `None` if it is on a Unix socket.
    ///
    /// The future may be dropped at any time. Then no connection must be lost.
    ///
    /// # Errors
    ///
    /// If the system cannot accept a connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;

    /// The address of the listener, or `None` if it is a Unix socket.
    ///
    /// # Errors
    ///
    /// If the system does not know the address.
    fn local_addr(&self) -> io::Result<Option<SocketAddr>>;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((stream, Some(peer)))
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Self::local_addr(self).map(Some)
    }
}

#[cfg(unix)]
impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, None))
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }
}

/// A listener that reads the header of the PROXY protocol, versions 1 and 2, from the connections of trusted proxies.
///
/// Made by [`TrustedProxies::proxy_protocol`]. With the feature `axum08` it is an `axum::serve::Listener`. With the feature
/// `tonic`, a stream of its connections is for `serve_with_incoming`. For everything else there is
/// [`accept`](Self::accept).
///
/// Connections of untrusted peers are returned as they are, with all bytes. If they begin with a header, it is
/// [counted](super::REJECTED) as `untrusted`. The headers of trusted peers are read at the same time, so that a slow one
/// delays no other.
#[derive(Debug)]
pub struct ProxyProtocolListener<L: Accept> {
    pub(super) listener: L,
    policy: Policy,
    timeout: Duration,
    max_pending: usize,
    pending: JoinSet<Handshake<L::Io>>,
}

type Connection<Io> = (ProxyStream<Io>, ClientConnectInfo);

/// The peer; the connection with its header and the bytes that were read behind it, unless the header took too long.
type Handshake<Io> = (
    Option<SocketAddr>,
    Result<(Io, Result<Header, Rejection>, Vec<u8>), Elapsed>,
);

impl TrustedProxies {
    /// Wraps a listener so that it reads the PROXY protocol from trusted peers.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use dualstack_metrics::{
    ///     ClientLabelsLayer, Protocol, ServerBinding, SocketOptions, TrustedProxies, client::ClientConnectInfo,
    /// };
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse()?)?;
    /// let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    /// let listener = TrustedProxies::new(["10.0.0.0/8", "::1"])?.proxy_protocol(listener);
    ///
    /// let app = Router::new()
    ///     .route("/", get(async || "hello"))
    ///     .layer(ClientLabelsLayer::new(binding));
    /// let server = axum::serve(listener, app.into_make_service_with_connect_info::<ClientConnectInfo>());
    /// # server.with_graceful_shutdown(async {}).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn proxy_protocol<L: Accept>(&self, listener: L) -> ProxyProtocolListener<L> {
        ProxyProtocolListener {
            listener,
            policy: Policy::new(self.clone()),
            timeout: Duration::from_secs(5),
            max_pending: 1024,
            pending: JoinSet::new(),
        }
    }
}

impl<L: Accept> ProxyProtocolListener<L> {
    /// Whose labels a connection has if a trusted proxy did not give the address of its client;
    /// [`Fallback::Unknown`] by default.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.policy.fallback = fallback;
        self
    }

    /// Also serves connections of trusted peers that begin with something else than a header. They have the labels of
    /// the [fallback](Self::fallback), and are [counted](super::REJECTED) as `missing`.
    ///
    /// By default they are closed, as the protocol demands: a proxy that does not add a header passes on a header that its
    /// client has made up.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.policy.is_optional = true;
        self
    }

    /// How long a trusted proxy may take to send the header; 5 s by default. Then the connection is closed.
    #[must_use]
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many connections of trusted proxies may wait for their header; 1,024 by default, and at least 1. Then no
    /// connection is accepted.
    #[must_use]
    pub fn max_pending(mut self, connections: usize) -> Self {
        self.max_pending = connections.max(1);
        self
    }

    /// Accepts the next connection, and returns it without its header.
    ///
    /// If the future is dropped, no connection is lost. The addresses are for your own loop; give them to
    /// [`ClientScopes::for_client`](crate::ClientScopes::for_client) or, as a source for each connection, to
    /// [`ClientLabelsLayer::source`](crate::ClientLabelsLayer::source):
    ///
    /// ```
    /// # use dualstack_metrics::{ClientScopes, Protocol, ServerBinding, TrustedProxies, WithScope};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # tokio::net::TcpStream::connect(listener.local_addr()?).await?;
    /// # async fn serve<S>(_: S) {}
    /// let scopes = ClientScopes::new(ServerBinding::new(Protocol::Tcp, listener.local_addr()?));
    /// let mut listener = TrustedProxies::new(["10.0.0.0/8"])?.proxy_protocol(listener);
    /// loop {
    ///     let (stream, info) = listener.accept().await?;
    ///     tokio::spawn(serve(stream).with_scope(scopes.for_client(info)));
    ///     # break;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If the system cannot accept a connection. A later call may succeed: the process may have too many open files now.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its time driver is not enabled.
    pub async fn accept(&mut self) -> io::Result<(ProxyStream<L::Io>, ClientConnectInfo)> {
        loop {
            let (mut io, peer) = match self.next().await? {
                ControlFlow::Break(connection) => return Ok(connection),
                ControlFlow::Continue(accepted) => accepted,
            };
            let client = peer.map_or(Client::UNIX, Client::from);
            if !self.policy.proxies.trusts(client) {
                let policy = self.policy.clone();
                let info = ClientConnectInfo::direct(peer);
                let stream = ProxyStream::new(io, Bytes::new(), info, move || policy.untrusted(client));
                return Ok((stream, info));
            }
            // Made outside of the task, because it panics without a time driver.
            let read = timeout(self.timeout, async move {
                let mut bytes = Vec::new();
                let header = protocol::read(&mut io, &mut bytes).await;
                (io, header, bytes)
            });
            self.pending.spawn(async move { (peer, read.await) });
        }
    }

    /// A connection whose header was read, or else one that was accepted.
    async fn next(&mut self) -> io::Result<ControlFlow<Connection<L::Io>, (L::Io, Option<SocketAddr>)>> {
        let mut accepted = pin!(self.listener.accept());
        poll_fn(|cx| {
            while let Poll::Ready(Some(handshake)) = self.pending.poll_join_next(cx) {
                // A task does not panic, and is only cancelled when this is dropped.
                if let Ok(handshake) = handshake
                    && let Some(connection) = finish(&self.policy, handshake)
                {
                    return Poll::Ready(Ok(ControlFlow::Break(connection)));
                }
            }
            if self.pending.len() >= self.max_pending {
                return Poll::Pending;
            }
            accepted.as_mut().poll(cx).map_ok(ControlFlow::Continue)
        })
        .await
    }
}

fn finish<Io>(policy: &Policy, (peer, read): Handshake<Io>) -> Option<Connection<Io>> {
    let fallback_for = |reason| policy.fallback_for(reason, peer).ok();
    let Ok((io, header, early)) = read else {
        fallback_for(Rejection::TimedOut);
        return None;
    };
    let unknown = |reason| {
        Some(match fallback_for(reason)? {
            Fallback::Peer => ClientConnectInfo::counted_as_peer(peer),
            Fallback::Unknown => ClientConnectInfo::new(None, peer),
        })
    };
    let info = match header {
        Ok(Header::Client(client)) => ClientConnectInfo::new(Some(client), peer),
        Ok(Header::Local) => ClientConnectInfo::direct(peer),
        Ok(Header::Unknown) => unknown(Rejection::Unknown)?,
        // A probe that only connects.
        Err(Rejection::Closed) if early.is_empty() => return None,
        Err(reason) => unknown(reason)?,
    };
    let policy = policy.clone();
    let stream = ProxyStream::new(io, early.into(), info, move || policy.second_header(peer));
    Some((stream, info))
}
