use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::scope::{Scope, Scoped, WithScope as _, replace_current};

/// A [`Layer`] around another layer that calls its service in another task, such as tower's `BufferLayer`. The service is
/// called in the scope of the request, as if the other layer were not there.
///
/// It works with requests of any type, and allocates nothing. Wrap only the layer that has the other task; the layers
/// below it need nothing:
///
/// ```
/// use axum::{BoxError, Router, error_handling::HandleErrorLayer, http::StatusCode, routing::get};
/// use dualstack_metrics::{ClientLabelsLayer, PropagateScopeLayer, Protocol, ServerBinding};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, buffer::BufferLayer, limit::RateLimitLayer};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let binding = ServerBinding::unix(Protocol::Http);
/// let limit = ServiceBuilder::new()
///     .layer(ClientLabelsLayer::new(binding))
///     .layer(HandleErrorLayer::new(async |_: BoxError| StatusCode::SERVICE_UNAVAILABLE))
///     .layer(PropagateScopeLayer::new(BufferLayer::new(1024)))
///     .layer(RateLimitLayer::new(100, Duration::from_secs(1)));
/// let app: Router = Router::new().route("/", get(async || "hello")).layer(limit);
/// # });
/// ```
///
/// Without it, the service is called outside the scope. A [`LabelsLayer`](super::LabelsLayer) there has none of the labels
/// of the layers above. The first time, this is logged as a warning.
#[derive(Clone, Copy, Debug)]
pub struct PropagateScopeLayer<L> {
    layer: L,
}

impl<L> PropagateScopeLayer<L> {
    /// Propagates the scope through the services that `layer` makes.
    pub const fn new(layer: L) -> Self {
        Self { layer }
    }
}

impl<S, L: Layer<CallInScope<S>>> Layer<S> for PropagateScopeLayer<L> {
    type Service = PropagateScope<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        PropagateScope {
            inner: self.layer.layer(CallInScope { inner }),
        }
    }
}

/// The [`Service`] that [`PropagateScopeLayer`] makes. It puts each request into the current scope.
#[derive(Clone, Copy, Debug)]
pub struct PropagateScope<S> {
    inner: S,
}

impl<S, Request> Service<Request> for PropagateScope<S>
where
    S: Service<Scoped<Request>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.inner.call(request.with_current_scope())
    }
}

/// Calls a service in the scope of the request. [`PropagateScopeLayer`] hands it to the layer that it wraps.
#[derive(Clone, Copy, Debug)]
pub struct CallInScope<S> {
    inner: S,
}

impl<S, Request> Service<Scoped<Request>> for CallInScope<S>
where
    S: Service<Request>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = PropagatedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Scoped<Request>) -> Self::Future {
        let entered = request.scope().enter();
        PropagatedFuture {
            inner: entered.wrap(self.inner.call(request.into_inner())),
        }
    }
}

pin_project! {
    /// The future of [`CallInScope`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct PropagatedFuture<F> {
        #[pin]
        inner: Scoped<F>,
    }
}

impl<F: Future> Future for PropagatedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let is_in_force = Scope::current() == inner.scope();
        let output = inner.as_mut().poll(cx);
        if is_in_force {
            // Labels that it adds hold for the rest of the request.
            replace_current(inner.scope());
        }
        output
    }
}
