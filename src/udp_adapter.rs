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
//! These counters have the labels of the client, and a [prefix](UdpServer::metrics_prefix) that you choose:
//!
//! | counter | counts |
//! |---|---|
//! | `…_requests_received_total` | datagrams taken from the socket |
//! | `…_responses_sent_total` | answers that the socket took |
//! | `…_requests_unanswered_total` | datagrams that the service chose not to answer (`None`), that cannot be answered, or that a [source](UdpServer::source) refused |
//! | `…_requests_aborted_total` | handlers that were dropped before they were done, and datagrams refused past the limit |
//! | `…_requests_failed_total{reason}` | `handler_error`, `handler_panic`, `send` (an error of the socket), or `send_blocked` ([no room](#a-socket-that-takes-no-answers)) |
//!
//! For each class of client, at any time, the first is the sum of the others and of the datagrams in flight.
//!
//! A datagram from port 0 or from the unspecified address cannot be answered: its sender asks for no answer ([RFC 768]),
//! and an answer to `[::]` would reach this host. The service sees it, and its answer is dropped.
//!
//! `…_responses_sent_total` includes answers that are lost after the socket took them, for example by a full queueing
//! discipline (`tc -s qdisc`) or by a neighbour that cannot be resolved.
//!
//! Two counters have the labels of the binding, and none of a client. `…_socket_errors_total{operation}` counts errors
//! of the socket itself: `receive`, or `send` for each second in which it took no answer. `…_socket_drops_total` counts
//! what the kernel dropped because the receive buffer was full; it is read on demand, see [`Serve::socket_drops`].
//!
//! All counters but the last are registered with the first datagram. Install a recorder before that.
//!
//! # Handlers
//!
//! All handlers run on the task that polls the server: nothing is spawned, and nothing needs to be `Send`. A handler
//! that is ready when it is first polled takes no allocation. Handlers that wait run concurrently, at most
//! [1,024](UdpServer::max_in_flight) at a time; past that the server [makes room](Overload). The payload of a waiting
//! handler is a copy, so it holds no receive buffer. It keeps at most 4 KiB alive, which it shares with its neighbours.
//!
//! A handler that panics is counted, and the server goes on. The standard panic hook writes a line for each; set your own
//! with [`std::panic::set_hook`] if clients could cause many. If the service itself fails (`poll_ready` returns an
//! error), that is counted for each datagram, and the server goes on as well.
//!
//! The server uses its own timers, for the shutdown and for a socket that fails. They need no time driver, and ignore
//! `tokio::time::pause`.
//!
//! # Answers leave together
//!
//! The server receives up to 32 datagrams with one system call. On Linux and Android, it also answers up to 32 with one
//! call: when the received batch has been handled, or when there are
//! [as many answers as may wait](UdpServer::max_send_batch). Each still has its own outcome: if the socket does not take
//! one, the others are sent.
//!
//! So a handler that holds the thread delays the answers before it in its batch: at most 31, or less with
//! [`UdpServer::max_send_batch`]. A handler that takes 1 ms for each of 32 datagrams delays the first answer by 31 ms,
//! where sending them one by one would delay only the last. Handlers should wait instead, or use
//! `tokio::task::spawn_blocking`.
//!
//! A call sends from one address. The answers of a batch are therefore sorted by the address that they leave from, and
//! then by client. Those that leave from one address to one client keep their order.
//!
//! Answers of one size to one client go through the system's stack as one packet, which is cut apart in front of the
//! network card or by it (segmentation offload, `UDP_SEGMENT` in [`udp(7)`]). With 64 requests of one client under way,
//! the server then takes 0.57 to 0.70 of the CPU time of a loop with `recv_from` and `send_to`. The client sees no
//! difference. What counts packets inside of this host does: the kernel's counters (`Udp6OutDatagrams`), firewalls and
//! queueing disciplines see one. Answers above 1,232 bytes are never sent like that, because they may have to be
//! fragmented. Where the system refuses it, each answer is a packet.
//!
//! [`udp(7)`]: https://man7.org/linux/man-pages/man7/udp.7.html
//!
//! # A socket that takes no answers
//!
//! While the socket's send buffer is full, answers wait, in their order. Handlers go on, and so does receiving:
//!
//! - While 1,024 answers wait, nothing is received. Handlers that are in flight go on, and their answers wait as well.
//! - If the socket takes no answer for a second, it is stalled. This is logged as a warning and counted as
//!   `…_socket_errors_total{operation="send"}`, once for each second. Receiving goes on until the socket takes an answer
//!   again: each new answer that finds 1,024 waiting replaces the oldest, which is counted as failed, `send_blocked`. So
//!   are the answers that still wait when the server ends.
//!
//! A link that is too slow is one cause. On Linux there is another: an answer stays in the send buffer while the address
//! of a neighbour is resolved. Datagrams with forged addresses of neighbours that do not exist, in an IPv4 subnet or the
//! /64 of the server, can fill it, and then nobody gets an answer until the resolution fails, after 3 s. Two settings
//! help:
//!
//! - [`SocketOptions::send_buffer_size`](crate::SocketOptions::send_buffer_size) (`SO_SNDBUF`, up to
//!   `net.core.wmem_max`). The default of 212,992 bytes is filled by 256 answers of 180 bytes. With 1 MiB, of which
//!   Linux makes 2, it takes 2,521.
//! - `net.ipv4.neigh.*.unres_qlen_bytes` and `net.ipv6.neigh.*.unres_qlen_bytes`, 212,992 by default: how much waits
//!   for one neighbour before the oldest is dropped. With 1, one answer waits for each neighbour, and the kernel limits
//!   the number of neighbours (`net.ipv6.neigh.default.gc_thresh3`, 1,024 by default).
//!
//! With both, 20,000 answers to 2,000 neighbours that do not exist did not block the socket.
//!
//! # Addresses
//!
//! An answer leaves from the address that the datagram was sent to. A plain `send_to` on a wildcard socket does not do
//! that on a host with several addresses. The system chooses the address only if the one that was asked is gone, or is a
//! broadcast address or a multicast group. A socket that is bound to one address needs nothing of this, and saves its
//! price: a few percent of a datagram. Answers above the path MTU are fragmented (not on Windows, where `quinn-udp`
//! forbids it). See [`Datagram`] for what a handler sees.
//!
//! [`DatagramSocket`] does the same for your own loop.
//!
//! Answers have the traffic class (DSCP) that is set on the socket: `IP_TOS` for IPv4 clients, also for those of a
//! dual-stack socket, and `IPV6_TCLASS` for IPv6 clients. On systems other than Linux and Android it is always 0.
//!
//! `quinn-udp` receives, and sends on systems other than Linux and Android. Its set-up is for QUIC: it forbids
//! fragments, and receives several datagrams as one. So it runs on a throw-away socket, and the socket that is served
//! gets the one option that is needed, which reports the destination address of each datagram. A socket that is bound to
//! one address needs none.
//!
//! [RFC 768]: https://www.rfc-editor.org/rfc/rfc768
//!
//! # Many cores
//!
//! A server is one task. To use several cores, bind one socket for each worker on the same port. The system spreads the
//! clients over them, a client always to the same worker. The counters of all workers are the same series.
//!
//! A worker takes the least CPU time in a runtime of its own with one thread
//! (`tokio::runtime::Builder::new_current_thread`). In a runtime of several threads, those that have nothing to do are
//! woken for the datagrams that arrive while one is handled: the `tracker` example took 1.4 times the CPU time that way.
//! See [`UdpServer::new`] for which runtime a server belongs to.
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

mod address;
mod batch;
mod budget;
mod call;
mod datagram;
mod drops;
mod handlers;
mod inbox;
mod outbox;
mod payload;
mod platform;
mod queue;
mod ready;
mod replies;
mod report;
mod send;
mod serve;
mod socket;

use std::{fmt::Display, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tower_service::Service;

pub use self::{
    batch::Batch, datagram::Datagram, drops::SocketDrops, replies::Replies, serve::Serve,
    socket::DatagramSocket,
};
use crate::{
    client::DatagramSource,
    labels::{Protocol, ServerBinding},
    scope::ClientScopes,
};

const MAX_IN_FLIGHT: usize = 1024;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server does with a datagram when as many handlers wait as [may](UdpServer::max_in_flight).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overload {
    /// Counts the new datagram as aborted. The service does not see it.
    RefuseNewest,
    /// Hands the new datagram to the service. If its handler has to wait, drops the handler that has waited longest, in
    /// its scope, and counts that one as aborted.
    #[default]
    AbortOldest,
}

/// Serves datagrams from one socket. See the [module](self).
#[derive(Debug)]
#[must_use = "nothing is served before `serve` is called and awaited"]
pub struct UdpServer {
    socket: DatagramSocket,
    scopes: ClientScopes,
    source: Option<Box<dyn DatagramSource>>,
    prefix: String,
    max_in_flight: usize,
    overload: Overload,
    max_send_batch: usize,
    shutdown_timeout: Duration,
}

impl UdpServer {
    /// A server on a bound socket. It belongs to the runtime in which this is called (on systems other than Linux and
    /// Android, to the one in which the socket was made), and may be polled on any thread.
    ///
    /// # Errors
    ///
    /// If the socket cannot be told to report destination addresses, this is not called in a runtime of tokio, or there
    /// would be more label sets than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS).
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let binding = ServerBinding::new(Protocol::Udp, socket.local_addr()?);
        Ok(Self {
            socket: DatagramSocket::new(socket)?,
            scopes: ClientScopes::builder()
                .binding(binding)
                .build()
                .map_err(io::Error::other)?,
            source: None,
            prefix: "udp_server".to_owned(),
            max_in_flight: MAX_IN_FLIGHT,
            overload: Overload::default(),
            max_send_batch: send::AT_ONCE,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
        })
    }

    /// The first part of the names of the server's own counters. Default: `udp_server`.
    pub fn metrics_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The scopes of the clients. Default: those of the socket's own binding. Use it to nest in your own labels.
    pub fn scopes(mut self, scopes: ClientScopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// Where the client of each datagram is read. Default: the client is the peer. Behind a proxy, see
    /// `TrustedProxies::proxy_protocol_datagrams` (feature `proxy`).
    pub fn source(mut self, source: impl DatagramSource) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// How many handlers may wait at a time, at least 1. Default: 1,024. Handlers that are ready when they are first
    /// polled do not count.
    pub fn max_in_flight(mut self, handlers: usize) -> Self {
        self.max_in_flight = handlers.max(1);
        self
    }

    /// What to do when [`max_in_flight`](Self::max_in_flight) handlers wait. Default: [`Overload::AbortOldest`].
    pub fn on_overload(mut self, overload: Overload) -> Self {
        self.overload = overload;
        self
    }

    /// How many answers are collected before they leave, 1 to 32. Default: 32 on Linux and Android, 1 on other systems,
    /// which have no call for several.
    ///
    /// An answer waits while the next datagrams of its batch are handled, until there are this many, or none is left. So
    /// a handler that holds the thread delays at most this number less one. With 1, each answer leaves before the next
    /// handler runs, and is a packet of its own for this system too.
    pub fn max_send_batch(mut self, answers: usize) -> Self {
        self.max_send_batch = answers.clamp(1, send::AT_ONCE);
        self
    }

    /// How long a graceful shutdown waits for handlers, and for the socket to take their answers. Default: 10 s.
    /// Handlers that still wait then are aborted.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Returns a future that answers each datagram with the response of `service`, or not at all if that is `None`. It is
    /// done only after a [graceful shutdown](Serve::with_graceful_shutdown).
    pub fn serve<S>(self, service: S) -> Serve<S>
    where
        S: Service<Datagram, Response = Option<Bytes>>,
        S::Error: Display,
    {
        Serve::new(self, service)
    }
}
