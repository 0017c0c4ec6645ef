//! The listeners of axum 0.8. Axum 0.7 has none.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener, TapIo},
};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::{UnixListener, unix};

use super::{
    listener::{Accept, ProxyProtocolListener},
    stream::ProxyStream,
};
use crate::client::ClientConnectInfo;

impl<L: Accept> Listener for ProxyProtocolListener<L> {
    type Io = ProxyStream<L::Io>;
    type Addr = ClientConnectInfo;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match Self::accept(self).await {
                Ok(connection) => return connection,
                // The connection was gone before it was accepted.
                Err(error) if is_of_connection(&error) => {}
                // Such as too many open files, which pass. Axum's own listeners wait as long.
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted, trying again in 1 s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr().map(ClientConnectInfo::direct)
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// The address of a peer, or `None` if it is on a Unix socket.
pub trait PeerAddr {
    fn peer(&self) -> Option<SocketAddr>;
}

impl PeerAddr for SocketAddr {
    fn peer(&self) -> Option<SocketAddr> {
        Some(*self)
    }
}

#[cfg(unix)]
impl PeerAddr for unix::SocketAddr {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// Its future only waits for the future of `L`, so that no connection is lost if it is dropped.
impl<L, F> Accept for TapIo<L, F>
where
    L: Accept + Listener<Addr: PeerAddr>,
    F: FnMut(&mut <L as Listener>::Io) + Send + 'static,
{
    type Io = <L as Listener>::Io;

    async fn accept(&mut self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        let (io, peer) = Listener::accept(self).await;
        Ok((io, peer.peer()))
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Listener::local_addr(self).map(|address| address.peer())
    }
}

impl<L: Accept> Connected<IncomingStream<'_, ProxyProtocolListener<L>>> for ClientConnectInfo {
    fn connect_info(stream: IncomingStream<'_, ProxyProtocolListener<L>>) -> Self {
        *stream.remote_addr()
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for ClientConnectInfo {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::direct(stream.remote_addr().peer())
    }
}

#[cfg(unix)]
impl Connected<IncomingStream<'_, UnixListener>> for ClientConnectInfo {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::direct(stream.remote_addr().peer())
    }
}
