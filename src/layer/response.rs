use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project_lite::pin_project;

use super::watch::Watch;
use crate::scope::{Scope, Scoped};

/// A response whose body can be put into a scope, such as an [`http::Response`].
#[diagnostic::on_unimplemented(
    message = "the body of the response `{Self}` cannot be put into a scope",
    note = "`ClientLabelsLayer::without_body()` works with any response and does not change its type"
)]
pub trait ScopeResponse {
    /// The response with its body in a scope.
    type Scoped;

    /// Puts the body into `scope`.
    fn scoped(self, scope: Scope) -> Self::Scoped;
}

impl<B> ScopeResponse for http::Response<B> {
    type Scoped = http::Response<Scoped<B>>;

    fn scoped(self, scope: Scope) -> Self::Scoped {
        self.map(|body| scope.wrap(body))
    }
}

/// The answer to a datagram. It has no body that is polled later.
impl ScopeResponse for Option<Bytes> {
    type Scoped = Self;

    fn scoped(self, _: Scope) -> Self {
        self
    }
}

pin_project! {
    /// The future of a [`ScopedService`](super::ScopedService) without the body of the response.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ScopedFuture<F, W> {
        #[pin]
        inner: Scoped<F>,
        watch: W,
    }
}

impl<F, W> ScopedFuture<F, W> {
    #[inline]
    pub(super) fn new(inner: Scoped<F>, watch: W) -> Self {
        Self { inner, watch }
    }
}

impl<F: Future, W: Watch> Future for ScopedFuture<F, W> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.watch.polled();
        self.project().inner.poll(cx)
    }
}

pin_project! {
    /// The future of a [`ScopedService`](super::ScopedService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, W> {
        #[pin]
        inner: ScopedFuture<F, W>,
    }
}

impl<F, W> ResponseFuture<F, W> {
    pub(super) fn new(inner: ScopedFuture<F, W>) -> Self {
        Self { inner }
    }
}

impl<F, W, Response, Error> Future for ResponseFuture<F, W>
where
    F: Future<Output = Result<Response, Error>>,
    W: Watch,
    Response: ScopeResponse,
{
    type Output = Result<Response::Scoped, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().inner;
        let response = ready!(future.as_mut().poll(cx));
        // After the poll, because it can add labels.
        let scope = future.inner.scope();
        Poll::Ready(response.map(|response| response.scoped(scope)))
    }
}
