use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project_lite::pin_project;

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
        self.map(|body| Scoped::new(body, scope))
    }
}

/// The answer to a datagram. It has no body that is polled later.
impl ScopeResponse for Option<Bytes> {
    type Scoped = Self;

    fn scoped(self, _: Scope) -> Self {
        self
    }
}

/// The body of the response is in the scope: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithBody;

/// The response does not change: [`ClientLabelsLayer::without_body`](super::ClientLabelsLayer::without_body).
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutBody;

/// What happens to a response: [`WithBody`] or [`WithoutBody`]. Sealed.
pub trait ResponseMode<Response>: Copy + Sealed {
    /// The response type of the service.
    type Output;

    /// Converts the response.
    fn apply(response: Response, scope: Scope) -> Self::Output;
}

/// Seals [`ResponseMode`].
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
