//! The runtime watches only whether the socket has received something. Linux reports that a socket is writable whenever a
//! datagram has left it, so `tokio`'s own socket wakes the runtime for each answer: with several threads that takes 30 %
//! more CPU time.

pub(crate) use std::net::UdpSocket;
use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

/// A socket, and whether it has received something.
pub(crate) struct Ready {
    socket: AsyncFd<UdpSocket>,
    runtime: Handle,
}

impl Ready {
    pub(crate) fn new(socket: tokio::net::UdpSocket) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let socket = register(socket.into_std()?, Interest::READABLE)?;
        Ok(Self { socket, runtime })
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        self.socket.get_ref()
    }

    /// Waits while `receive` would block.
    pub(crate) async fn recv<T>(&self, mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.socket.async_io(Interest::READABLE, |_| receive()).await
    }

    /// Like [`recv`](Self::recv), for one task.
    pub(crate) fn poll_recv<T>(
        &self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Ok(result) = ready!(self.socket.poll_read_ready(cx))?.try_io(|_| receive()) {
                return Poll::Ready(result);
            }
        }
    }

    #[expect(clippy::unused_self, reason = "other systems need it")]
    pub(crate) fn try_send<T>(&self, send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        send()
    }

    /// Watches whether the socket takes datagrams again. It is registered as a second descriptor until this is dropped.
    pub(crate) fn writable(&self) -> io::Result<Writable> {
        let _entered = self.runtime.enter();
        register(self.socket().try_clone()?, Interest::WRITABLE).map(Writable)
    }
}

#[allow(
    deprecated,
    reason = "its replacement needs a newer tokio; a socket of std keeps its descriptor open, as it must"
)]
fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

pub(crate) struct Writable(AsyncFd<UdpSocket>);

impl Writable {
    /// Ready when a send may be tried again. Each time it is ready once.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}
