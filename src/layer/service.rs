use std::task::{Context, Poll};

use tower_service::Service;

use super::{
    response::{ResponseFuture, ScopeResponse, ScopedFuture},
    watch::Watch,
};
use crate::scope::{Scope, warn_without_recorder};

/// A layer that makes the scope of a request.
pub trait RequestScope<Request> {
    /// Watches the future of the request.
    type Watch: Watch;

    fn scope(&self, request: &Request) -> Scope;
}

/// The [`Service`] that the layers of this module make. `L` is the layer, and `BODY` is whether the body of the response
/// is in the scope as well.
#[derive(Clone, Copy, Debug)]
pub struct ScopedService<S, L, const BODY: bool = true> {
    inner: S,
    layer: L,
}

impl<S, L, const BODY: bool> ScopedService<S, L, BODY> {
    pub(super) const fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }

    #[inline]
    fn call_in_scope<Request>(&mut self, request: Request) -> ScopedFuture<S::Future, L::Watch>
    where
        S: Service<Request>,
        L: RequestScope<Request>,
    {
        warn_without_recorder();
        let watch = L::Watch::of_call();
        let entered = self.layer.scope(&request).enter();
        ScopedFuture::new(entered.wrap(self.inner.call(request)), watch)
    }
}

impl<S, L, Request> Service<Request> for ScopedService<S, L, true>
where
    S: Service<Request>,
    S::Response: ScopeResponse,
    L: RequestScope<Request>,
{
    type Response = <S::Response as ScopeResponse>::Scoped;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, L::Watch>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ResponseFuture::new(self.call_in_scope(request))
    }
}

impl<S, L, Request> Service<Request> for ScopedService<S, L, false>
where
    S: Service<Request>,
    L: RequestScope<Request>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ScopedFuture<S::Future, L::Watch>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.call_in_scope(request)
    }
}
