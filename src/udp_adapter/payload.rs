//! Memory for payloads.

use bytes::{Bytes, BytesMut};

/// Payloads up to this size share a chunk of it.
const CHUNK: usize = 4096;

/// Copies payloads out of a receive buffer, into a chunk that is used again once nobody holds a part of it. Takes no
/// allocation if handlers are done before the next chunk is full.
pub(super) struct PayloadPool(BytesMut);

impl PayloadPool {
    pub(super) fn new() -> Self {
        Self(BytesMut::with_capacity(CHUNK))
    }

    pub(super) fn copy(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > CHUNK {
            return Bytes::copy_from_slice(payload);
        }
        self.0.reserve(payload.len());
        self.0.extend_from_slice(payload);
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_is_used_again() {
        let mut pool = PayloadPool::new();
        drop(pool.copy(&[1; 100]));
        let start = pool.0.as_ptr() as usize;
        for _ in 0..1_000 {
            let payload = pool.copy(&[2; 100]);
            assert!((payload.as_ptr() as usize).abs_diff(start) <= CHUNK);
        }
        let large = vec![3; CHUNK + 1];
        assert_eq!(pool.copy(&large), large);
    }
}
