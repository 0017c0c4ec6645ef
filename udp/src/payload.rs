//! Memory for payloads.

use bytes::{Bytes, BytesMut};

/// Payloads up to this size share a chunk of it.
const CHUNK: usize = 4096;

/// Copies payloads out of a receive buffer, into chunks that are used again once nobody holds a part of them. Takes no
/// allocation if the handlers of a batch are done, and their answers sent, before the next batch.
pub(crate) struct PayloadPool {
    /// There is always one.
    chunks: Vec<BytesMut>,
    /// The chunk that payloads are copied into, and whether this batch has done so.
    at: usize,
    is_used: bool,
}

impl PayloadPool {
    pub(crate) fn new() -> Self {
        Self {
            chunks: vec![BytesMut::with_capacity(CHUNK)],
            at: 0,
            is_used: false,
        }
    }

    /// Begins with the first chunk again.
    pub(crate) fn start_batch(&mut self) {
        self.at = 0;
        self.is_used = false;
    }

    pub(crate) fn copy(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > CHUNK {
            return Bytes::copy_from_slice(payload);
        }
        if self.chunks[self.at].capacity() < payload.len() && self.is_used {
            // The answers of this batch may still hold the rest of this chunk.
            self.at += 1;
            if self.at == self.chunks.len() {
                self.chunks.push(BytesMut::with_capacity(CHUNK));
            }
            self.chunks[self.at].reserve(CHUNK);
        }
        self.is_used = true;
        let chunk = &mut self.chunks[self.at];
        chunk.reserve(payload.len());
        chunk.extend_from_slice(payload);
        chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again() {
        let mut pool = PayloadPool::new();
        for size in [100, 1_000, CHUNK] {
            for _ in 0..100 {
                pool.start_batch();
                let batch: Vec<_> = (0..32_u8).map(|at| pool.copy(&vec![at; size])).collect();
                for (at, payload) in (0..32).zip(batch) {
                    assert_eq!(payload, vec![at; size]);
                }
            }
            let at_most = 1 + 32_usize.div_ceil(CHUNK / size);
            assert!(pool.chunks.len() <= at_most, "{size}: {}", pool.chunks.len());
        }
        let large = vec![3; CHUNK + 1];
        assert_eq!(pool.copy(&large), large);
    }
}
