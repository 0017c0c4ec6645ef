//! The runtime watches both.

use std::{
    io::{self, ErrorKind},
    task::{Context, Poll, ready},
};

use tokio::io::Interest;
pub(crate) use tokio::net::UdpSocket;

/// A socket, and whether it is ready.
pub(crate) struct Ready {
    socket: UdpSocket,
}

impl Ready {
    #[expect(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self { socket })
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Waits while `receive` would block.
    pub(crate) async fn recv<T>(&self, mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_io(Interest::READABLE, &mut receive) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Like [`recv`](Self::recv), for one task.
    pub(crate) fn poll_recv<T>(
        &self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, &mut receive) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    pub(crate) fn try_send<T>(&self, send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.socket.try_io(Interest::WRITABLE, send)
    }
}

/// Waits until the socket takes datagrams again.
#[derive(Default)]
pub(crate) struct Writable {}

impl Writable {
    /// Ready when a send may be tried again. Fails if the runtime of the socket is gone.
    #[expect(clippy::unused_self, reason = "Linux needs it")]
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>, socket: &Ready) -> Poll<io::Result<()>> {
        socket.socket.poll_send_ready(cx)
    }
}
