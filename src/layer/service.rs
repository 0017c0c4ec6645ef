/// Implements the [`Service`](tower_service::Service) of a layer whose `scope` method tells the scope of a request. The
/// response is in the scope as well if `BODY` is true.
macro_rules! impl_scoped_service {
    ($service:ident, $source:ident) => {
        impl<S, Src, const BODY: bool> $service<S, Src, BODY> {
            /// The wrapped service.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// The wrapped service.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            /// Unwraps the service.
            pub fn into_inner(self) -> S {
                self.inner
            }

            #[inline]
            fn call_in_scope<Request>(&mut self, request: Request) -> $crate::scope::Scoped<S::Future>
            where
                S: tower_service::Service<Request>,
                Src: $source<Request>,
            {
                $crate::scope::warn_without_recorder();
                let entered = self.scope(&request).enter();
                entered.wrap(self.inner.call(request))
            }
        }

        impl<S, Request, Src> tower_service::Service<Request> for $service<S, Src, true>
        where
            S: tower_service::Service<Request>,
            S::Response: $crate::layer::ScopeResponse,
            Src: $source<Request>,
        {
            type Response = <S::Response as $crate::layer::ScopeResponse>::Scoped;
            type Error = S::Error;
            type Future = $crate::layer::ResponseFuture<S::Future>;

            fn poll_ready(
                &mut self,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), Self::Error>> {
                self.inner.poll_ready(cx)
            }

            fn call(&mut self, request: Request) -> Self::Future {
                $crate::layer::ResponseFuture::new(self.call_in_scope(request))
            }
        }

        impl<S, Request, Src> tower_service::Service<Request> for $service<S, Src, false>
        where
            S: tower_service::Service<Request>,
            Src: $source<Request>,
        {
            type Response = S::Response;
            type Error = S::Error;
            type Future = $crate::scope::Scoped<S::Future>;

            fn poll_ready(
                &mut self,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), Self::Error>> {
                self.inner.poll_ready(cx)
            }

            fn call(&mut self, request: Request) -> Self::Future {
                self.call_in_scope(request)
            }
        }
    };
}

pub(super) use impl_scoped_service;
