use std::{
    fmt::{self, Display},
    future::Pending,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use dualstack_udp::{Datagram, Server};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{drops::SocketDrops, report::Report};
use crate::scope::{ClientScopes, Scoped, WithScope as _};

pin_project! {
    /// The future of [`UdpServer::serve`](super::UdpServer::serve): serves until it is dropped or shut down gracefully.
    ///
    /// When it is dropped, it drops the handlers that wait, in their scopes, and counts them as aborted.
    #[must_use = "nothing is served unless it is polled"]
    pub struct Serve<S, Signal = Pending<()>>
    where
        S: Service<Datagram>,
    {
        #[pin]
        serve: dualstack_udp::Serve<InScope<S>, Report, Signal>,
        drops: SocketDrops,
    }
}

impl<S> Serve<S>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
{
    pub(super) fn new(server: Server, service: S, report: Report) -> Self {
        report.start_at_zero();
        Self {
            drops: SocketDrops::new(server.socket(), &report.prefix, report.scopes.server()),
            serve: server.serve(
                InScope {
                    service,
                    scopes: report.scopes,
                },
                report,
            ),
        }
    }
}

impl<S: Service<Datagram>> Serve<S> {
    /// Shuts down when `signal` is done. The server answers the datagrams that the system has received by then, and none
    /// after that. It is done when all handlers are, or after
    /// [`UdpServer::shutdown_timeout`](super::UdpServer::shutdown_timeout): then it aborts those that still wait.
    pub fn with_graceful_shutdown<Signal: Future<Output = ()>>(self, signal: Signal) -> Serve<S, Signal> {
        Serve {
            serve: self.serve.with_graceful_shutdown(signal),
            drops: self.drops,
        }
    }
}

impl<S: Service<Datagram>, Signal> Serve<S, Signal> {
    /// Counts the datagrams that the kernel drops at the socket. Call it before the server is spawned.
    #[must_use]
    pub fn socket_drops(&self) -> SocketDrops {
        self.drops.clone()
    }
}

impl<S, Signal> Future for Serve<S, Signal>
where
    S: Service<Datagram, Response = Option<Bytes>>,
    S::Error: Display,
    Signal: Future<Output = ()>,
{
    /// `Ok` after a graceful shutdown. No error is returned today: errors of the socket are counted, logged, and tried
    /// again.
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().serve.poll(cx)
    }
}

impl<S: Service<Datagram>, Signal> fmt::Debug for Serve<S, Signal> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serve.fmt(f)
    }
}

/// Calls a service in the scope of the client. The future gets the labels that the call adds to the scope.
struct InScope<S> {
    service: S,
    scopes: ClientScopes,
}

impl<S: Service<Datagram>> Service<Datagram> for InScope<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Scoped<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, datagram: Datagram) -> Self::Future {
        let scope = self.scopes.for_client(&datagram);
        scope.run(|| self.service.call(datagram).with_current_scope())
    }
}
