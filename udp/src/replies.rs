use std::{fmt, io, task::Poll};

use bytes::Bytes;

use crate::{
    datagram::Datagram,
    queue::{Outgoing, Queue},
    ready::Writable,
    send::MAX_BATCH,
    socket::DatagramSocket,
};

/// Answers that leave together through one socket, see [`DatagramSocket::reply_all`]. Made once and used for every batch.
pub struct Replies {
    new: Vec<(Datagram, Bytes)>,
    waiting: Queue<Datagram>,
}

impl Replies {
    /// Without answers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            new: Vec::new(),
            waiting: Queue::new(MAX_BATCH),
        }
    }

    /// Adds the answer to `datagram`.
    pub fn push(&mut self, datagram: Datagram, answer: impl Into<Bytes>) {
        self.new.push((datagram, answer.into()));
    }

    /// How many answers have no outcome yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.new.len() + self.waiting.len()
    }

    /// Whether each answer has its outcome.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends as many answers as the socket takes now. Ready when each answer has its outcome.
    pub(crate) fn try_send(
        &mut self,
        socket: &DatagramSocket,
        mut outcome: impl FnMut(&Datagram, io::Result<()>),
    ) -> Poll<()> {
        for (datagram, payload) in self.new.drain(..) {
            match socket.route_of(&datagram) {
                Ok(route) => self.waiting.push(Outgoing {
                    payload,
                    route,
                    tag: datagram,
                }),
                Err(error) => outcome(&datagram, Err(error)),
            }
        }
        while self
            .waiting
            .try_send(socket, |answer, result| outcome(&answer.tag, result))
        {}
        if self.waiting.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl DatagramSocket {
    /// Answers several datagrams, with one system call for up to 32 of them. Hands each with its result to `outcome`: an
    /// error is about this answer only, and the others are sent. Waits while the socket takes none.
    ///
    /// Answers from one address to one client keep their order. On systems other than Linux and Android each takes a call of
    /// its own.
    ///
    /// ```
    /// use dualstack_udp::{Batch, DatagramSocket, Replies};
    /// use tokio::net::UdpSocket;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let socket = DatagramSocket::new(UdpSocket::bind("0.0.0.0:0").await?)?;
    /// # let client = UdpSocket::bind("127.0.0.1:0").await?;
    /// # client.connect(("127.0.0.1", socket.local_addr().port())).await?;
    /// # client.send(b"ping").await?;
    ///
    /// let (mut batch, mut replies) = (Batch::new(), Replies::new());
    /// loop {
    ///     let datagram = socket.recv(&mut batch).await?;
    ///     if *datagram.payload() == "ping" {
    ///         replies.push(datagram, &b"pong"[..]);
    ///     }
    ///     if batch.is_empty() {
    ///         let outcome = |datagram: &_, result| eprintln!("{datagram:?}: {result:?}");
    ///         socket.reply_all(&mut replies, outcome).await?;
    /// #       assert_eq!(client.recv(&mut [0; 8]).await?, 4);
    /// #       break;
    ///     }
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// Cancel safe: if the future is dropped before it is done, the answers that have no outcome stay in `replies`.
    ///
    /// # Errors
    ///
    /// If the socket can take nothing more, because its runtime is gone. The answers that have no outcome stay in
    /// `replies`.
    pub async fn reply_all(
        &self,
        replies: &mut Replies,
        mut outcome: impl FnMut(&Datagram, io::Result<()>),
    ) -> io::Result<()> {
        let mut writable = Writable::default();
        while replies.try_send(self, &mut outcome).is_pending() {
            self.wait_until_writable(&mut writable).await?;
        }
        Ok(())
    }
}

impl Default for Replies {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("len", &self.len()).finish()
    }
}
