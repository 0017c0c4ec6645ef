use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
};

use quinn_udp::{BATCH_SIZE, RecvMeta};

use crate::{address::destination, datagram::Datagram, payload::PayloadPool};

/// More than the largest UDP payload (65,527 bytes), so that no datagram is cut off.
const RECV_BUFFER: usize = 65_535;

/// The datagrams of one receive, and how far they have been read. Made once and used for every receive: its buffers are
/// large.
pub struct Batch {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    received: usize,
    /// How many messages are asked for: twice as many as came last. To ask for 32 takes time, even if one comes.
    asked: usize,
    /// The message to read next, and where in it: a system may coalesce datagrams of one size into one message.
    message: usize,
    offset: usize,
    payloads: PayloadPool,
}

impl Batch {
    /// An empty batch for as many datagrams at once as the platform can receive, 32 at most.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(BATCH_SIZE)
    }

    /// An empty batch for `datagrams` at once, at least 1, for a program with many sockets. Each takes 64 KiB of memory.
    #[must_use]
    pub fn with_room(datagrams: usize) -> Self {
        Self {
            buffer: vec![0; datagrams.clamp(1, BATCH_SIZE) * RECV_BUFFER],
            metas: [RecvMeta::default(); BATCH_SIZE],
            received: 0,
            asked: BATCH_SIZE,
            message: 0,
            offset: 0,
            payloads: PayloadPool::new(),
        }
    }

    /// Whether every datagram has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.message == self.received
    }

    /// Replaces the datagrams by those that `receive` writes into the buffers. `receive` returns the number of messages.
    pub(crate) fn refill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let room = self.asked.min(self.buffer.len() / RECV_BUFFER);
        let mut buffers = self.buffer.chunks_exact_mut(RECV_BUFFER).take(room);
        let mut slices: [_; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        self.received = receive(&mut slices[..room], &mut self.metas[..room])?;
        self.asked = (2 * self.received).clamp(1, BATCH_SIZE);
        self.message = 0;
        self.offset = 0;
        self.payloads.start_batch();
        Ok(())
    }

    /// Reads the next datagram. `bound` is the address that the socket is bound to.
    pub(crate) fn next(&mut self, bound: SocketAddr) -> Option<Datagram> {
        if self.is_empty() {
            return None;
        }
        let meta = &self.metas[self.message];
        let start = self.offset;
        // An empty datagram has a stride of 0.
        let end = meta.len.min(start + meta.stride.max(1));
        let payload = &self.buffer[self.message * RECV_BUFFER..][start..end];
        let datagram = Datagram::new(self.payloads.copy(payload), meta.addr, destination(meta, bound));
        if end == meta.len {
            self.message += 1;
            self.offset = 0;
        } else {
            self.offset = end;
        }
        Some(datagram)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &(self.received - self.message))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coalesced_datagrams_are_split() {
        let messages: [(&[u8], usize); 5] = [(b"aabbc", 2), (b"dd", 2), (b"", 0), (b"ee", 10), (b"ff", 0)];
        let mut batch = Batch::new();
        batch
            .refill(|buffers, metas| {
                for ((bytes, stride), (buffer, meta)) in messages.iter().zip(buffers.iter_mut().zip(metas)) {
                    buffer[..bytes.len()].copy_from_slice(bytes);
                    (meta.len, meta.stride) = (bytes.len(), *stride);
                }
                Ok(messages.len())
            })
            .unwrap();
        let bound = "[::]:1".parse().unwrap();
        let payloads: Vec<_> = std::iter::from_fn(|| batch.next(bound).map(Datagram::into_payload)).collect();
        assert_eq!(payloads, ["aa", "bb", "c", "dd", "", "ee", "f", "f"]);
        assert!(batch.is_empty());
    }
}
