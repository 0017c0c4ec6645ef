//! The runtime watches only whether the socket has received something. Linux reports that a socket is writable whenever a
//! datagram has left it, so `tokio`'s own socket wakes the runtime for each answer: with several threads that takes 30 %
//! more CPU time.

pub(crate) use std::net::UdpSocket;
use std::{
    io::{self, ErrorKind},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_timer::Delay;
use futures_util::FutureExt;
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    runtime::Handle,
};

/// How long a task waits if the runtime cannot tell whether a socket takes datagrams again.
const PAUSE: Duration = Duration::from_millis(10);

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

    /// Waits while `receive` would block. If the socket was shut down, waits a moment and fails.
    pub(crate) async fn recv<T>(&self, mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            if let Some(result) = try_recv(self.socket.readable().await?, &mut receive) {
                if is_shut_down(&result) {
                    Delay::new(PAUSE).await;
                }
                return result;
            }
        }
    }

    /// Like [`recv`](Self::recv), for one task, and without the wait after which it fails.
    pub(crate) fn poll_recv<T>(
        &self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Some(result) = try_recv(ready!(self.socket.poll_read_ready(cx))?, &mut receive) {
                return Poll::Ready(result);
            }
        }
    }

    #[expect(clippy::unused_self, reason = "other systems need it")]
    pub(crate) fn try_send<T>(&self, send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        send()
    }

    /// Registers the socket as a second descriptor.
    fn register_writable(&self) -> io::Result<AsyncFd<UdpSocket>> {
        let _entered = self.runtime.enter();
        register(self.socket().try_clone()?, Interest::WRITABLE)
    }
}

/// Receives, unless that would block. A socket that was [shut down] is ready for ever, although it would block: that is an
/// error, so that nobody tries without end.
///
/// [shut down]: https://man7.org/linux/man-pages/man2/shutdown.2.html
fn try_recv<T>(
    mut ready: AsyncFdReadyGuard<'_, UdpSocket>,
    receive: impl FnOnce() -> io::Result<T>,
) -> Option<io::Result<T>> {
    let is_shut_down = ready.ready().is_read_closed();
    match ready.try_io(|_| receive()) {
        Ok(result) => Some(result),
        Err(_) => is_shut_down.then(|| {
            Err(io::Error::new(
                ErrorKind::NotConnected,
                "the socket was shut down",
            ))
        }),
    }
}

fn is_shut_down<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::NotConnected)
}

#[allow(
    deprecated,
    reason = "its replacement needs a newer tokio; a socket of std keeps its descriptor open, as it must"
)]
fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

/// Waits until the socket takes datagrams again. While it does, the socket has a second descriptor.
#[derive(Default)]
pub(crate) struct Writable {
    registered: Option<AsyncFd<UdpSocket>>,
    /// Set while the runtime cannot tell.
    pause: Option<Delay>,
}

impl Writable {
    /// Ready when a send may be tried again. Fails if the runtime of the socket is gone.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>, socket: &Ready) -> Poll<io::Result<()>> {
        if self.pause.is_none() && self.registered.is_none() {
            match socket.register_writable() {
                Ok(registered) => self.registered = Some(registered),
                Err(error) if error.raw_os_error().is_none() => return Poll::Ready(Err(error)),
                // The system has no descriptor or no memory left.
                Err(_) => self.pause = Some(Delay::new(PAUSE)),
            }
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll_unpin(cx));
            self.pause = None;
        } else if let Some(registered) = &self.registered {
            let mut guard = ready!(registered.poll_write_ready(cx))?;
            // The runtime cannot clear that. An error waits for the program, which has set `IP_RECVERR`.
            let stays_ready = guard.ready().is_write_closed();
            guard.clear_ready();
            if stays_ready {
                self.registered = None;
                self.pause = Some(Delay::new(PAUSE));
            }
        }
        Poll::Ready(Ok(()))
    }
}
