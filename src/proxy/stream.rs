use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::protocol;
use crate::client::ClientConnectInfo;

/// A connection after its PROXY protocol header.
#[derive(Debug)]
pub struct ProxyStream<S> {
    inner: S,
    /// Bytes that arrived together with the header and were not read yet.
    early: Bytes,
    info: ClientConnectInfo,
    watch: Option<Watch>,
}

/// Notices a header that is not read, because the peer is not trusted or has already sent one.
struct Watch {
    /// The first bytes, until they are known to be a header or not.
    start: Vec<u8>,
    found: Box<dyn FnOnce() + Send + Sync>,
}

impl<S> ProxyStream<S> {
    /// Calls `found` if `early` and the bytes that are read after it are the beginning of a header. They are passed on.
    pub(super) fn new(
        inner: S,
        early: Bytes,
        info: ClientConnectInfo,
        found: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        let watch = Watch {
            start: Vec::new(),
            found: Box::new(found),
        };
        Self {
            watch: watch.after(&early),
            inner,
            early,
            info,
        }
    }

    /// The client and the peer.
    pub const fn connect_info(&self) -> ClientConnectInfo {
        self.info
    }

    /// The socket. Do not read from it: the first bytes may have been read already.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The socket, and the bytes behind the header that were already read from it.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.early)
    }
}

/// Tonic puts the client and the peer into the extensions of each request.
#[cfg(feature = "tonic")]
impl<S> tonic::transport::server::Connected for ProxyStream<S> {
    type ConnectInfo = ClientConnectInfo;

    fn connect_info(&self) -> ClientConnectInfo {
        self.info
    }
}

impl Watch {
    /// Looks at the bytes `read`, and returns itself if it needs more.
    fn after(mut self, read: &[u8]) -> Option<Self> {
        self.start.extend(read.iter().take(protocol::START_MAX));
        match protocol::is_header(&self.start) {
            None => return Some(self),
            Some(true) => (self.found)(),
            Some(false) => {}
        }
        None
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ProxyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.early.is_empty() {
            let before = buffer.filled().len();
            let poll = Pin::new(&mut this.inner).poll_read(cx, buffer);
            if let Some(watch) = this.watch.take() {
                this.watch = watch.after(&buffer.filled()[before..]);
            }
            return poll;
        }
        let length = this.early.len().min(buffer.remaining());
        buffer.put_slice(&this.early.split_to(length));
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
