//! Serves a tower [`Service`] from a UDP socket, each datagram in the scope of its client.
//!
//! ```
//! use bytes::Bytes;
//! use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::service_fn;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
//! # let shutdown = async {};
//! UdpServer::new(socket)?
//!     .metrics_prefix("echo_server")
//!     .shutdown_timeout(Duration::from_secs(5))
//!     .serve(service_fn(|datagram: Datagram| async move {
//!         metrics::counter!("echo_bytes_total").increment(datagram.payload().len() as u64);
//!         Ok::<_, Infallible>(Some(datagram.into_payload()))
//!     }))
//!     .with_graceful_shutdown(shutdown)
//!     .await
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # One outcome for each datagram
//!
//! Counted in the scope of its client, under a [prefix](UdpServer::metrics_prefix) of one's own:
//!
//! | counter | counts |
//! |---|---|
//! | `…_requests_received_total` | datagrams taken from the socket |
//! | `…_responses_sent_total` | answers that the socket took |
//! | `…_requests_unanswered_total` | datagrams that the service wished to leave without an answer (`None`) |
//! | `…_requests_aborted_total` | handlers that were dropped before they were done, and datagrams refused past the limit |
//! | `…_requests_failed_total{reason}` | `handler_error`, `handler_panic`, or `send`: the socket did not take the answer |
//!
//! The first is the sum of the others and of what is in flight, for each class of client, always. What goes wrong with
//! the socket itself is counted in `…_socket_errors_total{operation="receive"}`, with the labels of the binding and no
//! client's. What the kernel dropped before that, because the receive buffer was full, it says when it is asked, for
//! `…_socket_drops_total`: see [`Serve::socket_drops`]. The other counters are registered with the
//! first datagram; a recorder must be installed by then.
//!
//! # Handlers
//!
//! All handlers run on the task that polls the server: nothing is spawned and nothing needs to be `Send`. A handler
//! that is ready when it is first polled costs no allocation. Others run concurrently, [1,024](UdpServer::max_in_flight)
//! at a time; past that the server [makes room](Overload). The payload of a waiting handler is a copy, so that it
//! holds no receive buffer: it shares a chunk of 4 KiB with its neighbours at the most. A handler that panics is
//! counted, and the loop goes on; so is a service that says it cannot be called any more, once for each datagram.
//!
//! # Addresses
//!
//! An answer leaves from the address that the datagram was sent to, which a plain `send_to` on a wildcard socket does
//! not do on a host with several addresses; only where that address is gone, or was a multicast group, the system
//! chooses. Answers above the path MTU are fragmented (not on Windows, where `quinn-udp` forbids it). See [`Datagram`]
//! for what a handler sees.
//!
//! [`DatagramSocket`] is that without the rest, for a loop of one's own.
//!
//! `quinn-udp` sends and receives. It sets a socket up for QUIC, which forbids fragments and receives several datagrams
//! as one; here it is shown a socket that is thrown away, and the one that is served gets the one option that is
//! needed, the destination address of each datagram.
//!
//! # Many cores
//!
//! A server is one task. For several, bind as many sockets on the port as there are workers: the system spreads the
//! clients over them, a client always to the same one. Their counters are the same series.
//!
//! ```
//! # use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
//! # use std::convert::Infallible;
//! # use tower::service_fn;
//! # tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
//! # let (stop, stopped) = tokio::sync::watch::channel(());
//! # drop(stop);
//! let mut workers = tokio::task::JoinSet::new();
//! for socket in SocketOptions::dual_stack().bind_udp_many("[::]:0".parse().unwrap(), 4)? {
//!     let mut stopped = stopped.clone();
//!     let server = UdpServer::new(socket)?
//!         .serve(service_fn(|datagram: Datagram| async { Ok::<_, Infallible>(Some(datagram.into_payload())) }))
//!         .with_graceful_shutdown(async move { _ = stopped.changed().await });
//!     workers.spawn(server);
//! }
//! while let Some(worker) = workers.join_next().await {
//!     worker??;
//! }
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod call;
mod counters;
mod datagram;
mod drops;
mod packet;
mod serve;

use std::{fmt::Display, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tower_service::Service;

pub use self::{
    datagram::Datagram,
    drops::SocketDrops,
    packet::{Batch, DatagramSocket},
    serve::Serve,
};
use crate::{
    labels::{Protocol, ServerBinding},
    scope::ClientScopes,
};

const MAX_IN_FLIGHT: usize = 1024;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What makes room when as many handlers wait as may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overload {
    /// A datagram that arrives is not handed to the service. It is counted as aborted.
    RefuseNewest,
    /// A datagram that arrives is handed to the service, and when it does not finish at once, the handler that has
    /// waited longest is dropped, in its scope, and counted as aborted.
    #[default]
    AbortOldest,
}

/// Serves datagrams from one socket. See the [module](self).
#[derive(Debug)]
#[must_use = "nothing is served before `serve` is called and awaited"]
pub struct UdpServer {
    socket: DatagramSocket,
    scopes: ClientScopes,
    prefix: String,
    max_in_flight: usize,
    overload: Overload,
    shutdown_timeout: Duration,
}

impl UdpServer {
    /// A server on a bound socket.
    ///
    /// # Errors
    ///
    /// When the socket cannot be told to report destination addresses, or there would be more label sets than
    /// [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS).
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let binding = ServerBinding::new(Protocol::Udp, socket.local_addr()?);
        Ok(Self {
            socket: DatagramSocket::new(socket)?,
            scopes: ClientScopes::try_new(binding).map_err(io::Error::other)?,
            prefix: "udp_server".to_owned(),
            max_in_flight: MAX_IN_FLIGHT,
            overload: Overload::default(),
            shutdown_timeout: SHUTDOWN_TIMEOUT,
        })
    }

    /// What the names of the server's own counters start with: `udp_server` unless set.
    pub fn metrics_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The scopes of the clients, in the place of those of the socket's own binding: with labels of one's own nested in,
    /// say.
    pub fn scopes(mut self, scopes: ClientScopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// How many handlers may wait at a time, at least 1: 1,024 unless set. Handlers that are ready when they are first
    /// polled do not count.
    pub fn max_in_flight(mut self, handlers: usize) -> Self {
        self.max_in_flight = handlers.max(1);
        self
    }

    /// What makes room when [`max_in_flight`](Self::max_in_flight) handlers wait: [`Overload::AbortOldest`] unless set.
    pub fn on_overload(mut self, overload: Overload) -> Self {
        self.overload = overload;
        self
    }

    /// How long a graceful shutdown waits for handlers and for the socket to take their answers: 10 s unless set.
    /// What is left then is aborted.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// A future that answers each datagram with what `service` makes of it, or not at all where that is `None`. It is
    /// done only after a [graceful shutdown](Serve::with_graceful_shutdown).
    pub fn serve<S>(self, service: S) -> Serve<S>
    where
        S: Service<Datagram, Response = Option<Bytes>>,
        S::Error: Display,
    {
        Serve::new(self, service)
    }
}
