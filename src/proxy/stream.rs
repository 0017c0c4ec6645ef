use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection after its PROXY protocol header.
#[derive(Debug)]
pub struct ProxyStream<S> {
    inner: S,
    /// What arrived together with the header, and how much of it was read.
    early: Vec<u8>,
    at: usize,
}

impl<S> ProxyStream<S> {
    pub(super) fn new(inner: S, early: Vec<u8>) -> Self {
        Self { inner, early, at: 0 }
    }

    /// The socket. Do not read from it: the first bytes may have been read already.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The socket. Do not read from it: the first bytes may have been read already.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The socket, and the bytes behind the header that were already read from it.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        let mut early = self.early;
        early.drain(..self.at);
        (self.inner, early)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ProxyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let early = &this.early[this.at..];
        if early.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let length = early.len().min(buffer.remaining());
        buffer.put_slice(&early[..length]);
        this.at += length;
        if this.at == this.early.len() {
            (this.early, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ProxyStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
