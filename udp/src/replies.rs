use std::{fmt, io, task::Poll};

use bytes::Bytes;

use crate::{
    Datagram, DatagramSocket,
    queue::{Outgoing, Queue},
};

/// Answers that leave together through one socket, see [`DatagramSocket::reply_all`]. Made once and used for every batch.
#[derive(Default)]
pub struct Replies {
    new: Vec<(Datagram, Bytes)>,
    waiting: Queue<Datagram>,
}

impl Replies {
    /// Without answers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
            match socket.route(datagram.local_addr(), datagram.peer()) {
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

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("len", &self.len()).finish()
    }
}
