use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project_lite::pin_project;

use crate::scope::{Scope, Scoped};

/// A response whose remaining work can be put into a scope: the body of an [`http::Response`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no response whose body can be put into a scope",
    note = "use `ClientLabelsLayer::without_body()` to leave the response as it is"
)]
pub trait ScopeResponse {
    /// The response with its body in a scope.
    type Scoped;

    /// Puts what is left to do into `scope`.
    fn scoped(self, scope: Scope) -> Self::Scoped;
}

impl<B> ScopeResponse for http::Response<B> {
    type Scoped = http::Response<Scoped<B>>;

    fn scoped(self, scope: Scope) -> Self::Scoped {
        self.map(|body| Scoped::new(body, scope))
    }
}

/// The answer to a datagram is complete.
impl ScopeResponse for Option<Bytes> {
    type Scoped = Self;

    fn scoped(self, _: Scope) -> Self {
        self
    }
}

/// The response's body is in the scope as well: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithBody;

/// The response is left as it is: [`ClientLabelsLayer::without_body`](super::ClientLabelsLayer::without_body).
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutBody;

/// What becomes of a response: [`WithBody`] or [`WithoutBody`]. Sealed.
pub trait ResponseMode<Response>: Copy + Sealed {
    /// What the response becomes.
    type Output;

    /// Makes it so.
    fn apply(response: Response, scope: Scope) -> Self::Output;
}

/// Keeps [`ResponseMode`] to the two that there are.
pub trait Sealed {}

impl Sealed for WithBody {}
impl Sealed for WithoutBody {}

impl<Response: ScopeResponse> ResponseMode<Response> for WithBody {
    type Output = Response::Scoped;

    fn apply(response: Response, scope: Scope) -> Self::Output {
        response.scoped(scope)
    }
}

impl<Response> ResponseMode<Response> for WithoutBody {
    type Output = Response;

    fn apply(response: Response, _: Scope) -> Self::Output {
        response
    }
}

pin_project! {
    /// The future of [`ClientLabelsService`](super::ClientLabelsService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, Mode> {
        #[pin]
        inner: Scoped<F>,
        mode: Mode,
    }
}

impl<F, Mode> ResponseFuture<F, Mode> {
    pub(super) fn new(inner: Scoped<F>, mode: Mode) -> Self {
        Self { inner, mode }
    }
}

impl<F, Mode, Response, Error> Future for ResponseFuture<F, Mode>
where
    F: Future<Output = Result<Response, Error>>,
    Mode: ResponseMode<Response>,
{
    type Output = Result<Mode::Output, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let scope = this.inner.scope();
        let response = ready!(this.inner.poll(cx));
        Poll::Ready(response.map(|response| Mode::apply(response, scope)))
    }
}
