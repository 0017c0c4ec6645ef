use std::{io, time::Duration};

use tokio::net::UdpSocket;

use crate::{send::MAX_BATCH, socket::DatagramSocket};

/// Serves datagrams from one socket. See the [crate](crate).
#[derive(Debug)]
#[must_use = "nothing is served before `serve` is called and awaited"]
pub struct Server {
    pub(crate) socket: DatagramSocket,
    pub(crate) max_in_flight: usize,
    pub(crate) max_send_batch: usize,
    pub(crate) shutdown_timeout: Duration,
}

impl Server {
    /// A server on a bound socket. It belongs to the runtime in which this is called (on systems other than Linux and
    /// Android, to the one in which the socket was made), and may be polled on any thread.
    ///
    /// # Errors
    ///
    /// If the socket cannot be told to report destination addresses, or this is not called in a runtime of tokio.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            socket: DatagramSocket::new(socket)?,
            max_in_flight: 1024,
            max_send_batch: MAX_BATCH,
            shutdown_timeout: Duration::from_secs(10),
        })
    }

    /// How many handlers may wait at a time, at least 1. Default: 1,024. Handlers that are ready when they are first
    /// polled do not count. If one more has to wait, the server aborts the one that has waited longest.
    pub fn max_in_flight(mut self, handlers: usize) -> Self {
        self.max_in_flight = handlers.max(1);
        self
    }

    /// How many answers are collected before they leave, 1 to 32. Default: 32 on Linux and Android, 1 on other systems,
    /// which have no call for several.
    ///
    /// An answer waits while the next datagrams of its batch are handled, until there are this many, or none is left. So
    /// a handler that holds the thread delays at most this number less one. With 1, each answer leaves before the next
    /// handler runs, and is a packet of its own for this system too.
    pub fn max_send_batch(mut self, answers: usize) -> Self {
        self.max_send_batch = answers.clamp(1, MAX_BATCH);
        self
    }

    /// How long a graceful shutdown waits for handlers, and for the socket to take their answers. Default: 10 s.
    /// Handlers that still wait then are aborted.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &DatagramSocket {
        &self.socket
    }
}
