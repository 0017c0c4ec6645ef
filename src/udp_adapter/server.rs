use std::{
    fmt::{self, Display},
    io,
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use dualstack_udp::{Datagram, Outcome, Server};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tower_service::Service;

use super::{report::Report, serve::Serve};
use crate::{
    client::DatagramSource,
    labels::{Protocol, ServerBinding},
    scope::ClientScopes,
};

/// Serves datagrams from one socket, each in the scope of its client. See the [module](super).
#[must_use = "nothing is served before `serve` is called and awaited"]
pub struct UdpServer {
    server: Server,
    report: Report,
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
        let address = socket.local_addr()?;
        let mut scopes = ClientScopes::builder().binding(ServerBinding::new(Protocol::Udp, address));
        if matches!(SockRef::from(&socket).only_v6(), Ok(true)) {
            scopes = scopes.expected_clients([address.ip()]);
        }
        let scopes = scopes.build().map_err(io::Error::other)?;
        Ok(Self {
            server: Server::new(socket)?,
            report: Report::new(address, scopes),
        })
    }

    /// The first part of the names of the server's own counters. Default: `udp_server`.
    pub fn metrics_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.report.prefix = prefix.into();
        self
    }

    /// Counts nothing. For a handler that counts on its own, so that no datagram is counted twice.
    ///
    /// [`on_outcome`](Self::on_outcome) tells the outcomes that a handler cannot know. Errors of the socket are still logged, and
    /// [`Serve::socket_drops`] still counts.
    pub fn without_counters(mut self) -> Self {
        self.report.has_counters = false;
        self
    }

    /// Calls `f` with the outcome of each datagram, in the scope of its client. Several
    /// [answered](Outcome::Answered) datagrams of one client can come in one call, which has their number.
    ///
    /// A panic in `f` ends the server.
    ///
    /// ```
    /// # use dualstack_metrics::{SocketOptions, UdpServer, udp_adapter::Outcome};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
    /// let server = UdpServer::new(socket)?.without_counters().on_outcome(|outcome, datagrams| match outcome {
    ///     Outcome::Answered => metrics::counter!("answers_total").increment(datagrams),
    ///     _ => metrics::counter!("no_answers_total").increment(datagrams),
    /// });
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_outcome(mut self, f: impl FnMut(Outcome<'_>, u64) + Send + 'static) -> Self {
        self.report.on_outcome = Some(Box::new(f));
        self
    }

    /// The scopes of the clients. Default: the scopes of the socket's own binding. Use it to add your own labels.
    pub fn scopes(mut self, scopes: ClientScopes) -> Self {
        self.report.scopes = scopes;
        self
    }

    /// Where the client of each datagram is read. Default: the client is the peer. Behind a proxy, see
    /// `TrustedProxies::proxy_protocol_datagrams` (feature `proxy`).
    pub fn source(mut self, source: impl DatagramSource) -> Self {
        self.report.source = Some(Box::new(source));
        self
    }

    /// How many handlers may wait at a time. Default: 1,024. See [`Server::max_in_flight`].
    pub fn max_in_flight(mut self, handlers: usize) -> Self {
        self.server = self.server.max_in_flight(handlers);
        self
    }

    /// How many answers leave together. Default: 32 on Linux and Android, 1 on other systems. See
    /// [`Server::max_send_batch`].
    pub fn max_send_batch(mut self, answers: usize) -> Self {
        self.server = self.server.max_send_batch(answers);
        self
    }

    /// Sends without regard to the path MTU. See [`DatagramSocket::ignore_path_mtu`](dualstack_udp::DatagramSocket::ignore_path_mtu).
    ///
    /// # Errors
    ///
    /// On systems other than Linux and Android.
    pub fn ignore_path_mtu(self) -> io::Result<Self> {
        self.server.socket().ignore_path_mtu()?;
        Ok(self)
    }

    /// How long a graceful shutdown waits for handlers. Default: 10 s. See [`Server::shutdown_timeout`].
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.server = self.server.shutdown_timeout(timeout);
        self
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.socket().local_addr()
    }

    /// Returns a future that answers each datagram with the response of `service`, or not at all if that is `None`. It is
    /// done only after a [graceful shutdown](Serve::with_graceful_shutdown).
    pub fn serve<S>(self, service: S) -> Serve<S>
    where
        S: Service<Datagram, Response = Option<Bytes>>,
        S::Error: Display,
    {
        Serve::new(self.server, service, self.report)
    }
}

impl fmt::Debug for UdpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpServer")
            .field("server", &self.server)
            .field("prefix", &self.report.prefix)
            .field("scopes", &self.report.scopes)
            .finish_non_exhaustive()
    }
}
