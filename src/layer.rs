//! Tower middleware that gives the labels of the client to every counter that is incremented while it is served.
//!
//! ```
//! use axum::{Router, body::Body, extract::connect_info::MockConnectInfo, http::Request, routing::get};
//! use dualstack_metrics::{ClientLabelsLayer, Protocol, Scope, ServerBinding};
//! use std::net::SocketAddr;
//! use tower::ServiceExt as _;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse()?);
//! let app = Router::new()
//!     .route("/", get(|| async { Scope::current().value_of("client_address_ip_family").unwrap_or("none") }))
//!     .layer(ClientLabelsLayer::new(binding))
//!     // A test uses this instead of `into_make_service_with_connect_info::<SocketAddr>()`.
//!     .layer(MockConnectInfo(SocketAddr::from(([192, 0, 2, 7], 50_000))));
//!
//! let response = app.oneshot(Request::new(Body::empty())).await?;
//! let body = axum::body::to_bytes(response.into_body(), 16).await?;
//! assert_eq!(body, "inet");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Where the address comes from
//!
//! By default it comes from the request ([`HasClient`]). The layer looks into the extensions of an [`http::Request`]
//! for a [`ClientLabels`], then (feature `axum`) for a `ConnectInfo<SocketAddr>` and a `MockConnectInfo<SocketAddr>`. It
//! does not remove them. [`ClientLabelsLayer::source`] takes a closure or a fixed value instead. Write the closure with
//! `&Request<_>`, because the layer must fit the body type of the service:
//!
//! ```
//! use axum::{Router, extract::Request, routing::get};
//! use dualstack_metrics::{ClientLabels, ClientLabelsLayer};
//! # use dualstack_metrics::{Protocol, ServerBinding};
//! # use std::net::SocketAddr;
//! # #[derive(Clone)] struct TcpConnectInfo(SocketAddr);
//! # impl TcpConnectInfo { fn remote_addr(&self) -> Option<SocketAddr> { Some(self.0) } }
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//!
//! // tonic's connection info
//! let grpc = ClientLabelsLayer::new(binding)
//!     .source(|request: &Request<_>| request.extensions().get::<TcpConnectInfo>()?.remote_addr());
//! let app: Router = Router::new().route("/", get(async || ())).layer(grpc);
//!
//! // a Unix socket: no client has an address
//! let unix = ClientLabelsLayer::new(binding).source(ClientLabels::UNKNOWN);
//! let app: Router = Router::new().route("/", get(async || ())).layer(unix);
//! ```
//!
//! If there is no address, the labels are `unknown`. The layer logs one warning for each binding, which says how to fix
//! it.
//!
//! # Order of layers
//!
//! In an axum `Router` the layer that is added *last* is outermost. In a `tower::ServiceBuilder` it is the layer that is
//! added *first*.
//!
//! - Inside this layer belongs what increments counters: routes, `TraceLayer`, metrics middleware.
//! - Outside belongs what brings the address: `MockConnectInfo`, or middleware that puts a [`ClientLabels`] into the
//!   extensions. A timeout can also stand outside. It drops the request that it cancels, and the drop is in the scope.
//!
//! # What is in the scope
//!
//! The inner `call`, each poll of its future, each poll of the response body, and the drop of both. `poll_ready` is not,
//! because no request is known yet. A task that the service spawns is not either, unless it is spawned
//! [`with_current_scope`](crate::WithScope::with_current_scope).

mod response;
mod source;

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    response::{ResponseFuture, ResponseMode, ScopeResponse, WithBody, WithoutBody},
    source::{ClientSource, FromRequest, HasClient},
};
use crate::{
    labels::{ClientLabels, ServerBinding},
    scope::{ClientScopes, Scope, WithScope},
};

/// A [`Layer`] that puts the labels of the client in force while its request is served.
///
/// The [module](self) explains where the client's address comes from, and the order of layers.
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsLayer<Src = FromRequest, Mode = WithBody> {
    scopes: ClientScopes,
    source: Src,
    mode: Mode,
}

impl ClientLabelsLayer {
    /// A layer for a server binding. The client's address comes from the request: see [`HasClient`].
    ///
    /// # Panics
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets, which takes more than
    /// 800 bindings. To get an error instead, use [`ClientScopes::try_new`] and [`from_scopes`](Self::from_scopes).
    #[must_use]
    pub fn new(binding: ServerBinding) -> Self {
        Self::from_scopes(ClientScopes::new(binding))
    }

    /// A layer with the given scopes, for example with your own labels nested in.
    #[must_use]
    pub fn from_scopes(scopes: ClientScopes) -> Self {
        Self {
            scopes,
            source: FromRequest,
            mode: WithBody,
        }
    }
}

impl<Src, Mode> ClientLabelsLayer<Src, Mode> {
    /// Takes the client's address from `source` instead of the request.
    ///
    /// A source is a closure `Fn(&Request) -> Option<T>` where `T` is a `SocketAddr`, an `IpAddr` or a
    /// [`ClientLabels`]. One of these three as a fixed value is a source too, for a stack that is built for each
    /// connection.
    pub fn source<NewSrc>(self, source: NewSrc) -> ClientLabelsLayer<NewSrc, Mode> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source,
            mode: self.mode,
        }
    }

    /// Does not change the response. Its body is polled outside the scope.
    ///
    /// For services whose bodies increment no counters, and for responses without a body. It keeps the response type,
    /// and saves the box that axum makes for a body of another type.
    pub fn without_body(self) -> ClientLabelsLayer<Src, WithoutBody> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source: self.source,
            mode: WithoutBody,
        }
    }
}

impl<S, Src: Clone, Mode: Copy> Layer<S> for ClientLabelsLayer<Src, Mode> {
    type Service = ClientLabelsService<S, Src, Mode>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientLabelsService {
            inner,
            scopes: self.scopes,
            source: self.source.clone(),
            mode: self.mode,
        }
    }
}

/// The [`Service`] that [`ClientLabelsLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsService<S, Src = FromRequest, Mode = WithBody> {
    inner: S,
    scopes: ClientScopes,
    source: Src,
    mode: Mode,
}

impl<S, Src, Mode> ClientLabelsService<S, Src, Mode> {
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

    fn scope_of<Request>(&self, request: &Request) -> Scope
    where
        Src: ClientSource<Request>,
    {
        if let Some(client) = self.source.client(request) {
            self.scopes.for_client(client)
        } else {
            let scope = self.scopes.for_client(ClientLabels::UNKNOWN);
            if scope.warn_once() {
                tracing::warn!(
                    labels = ?scope,
                    "a request has no client address, so its counters are labelled `unknown`: serve an axum router \
                     with `into_make_service_with_connect_info::<SocketAddr>()`, or call `ClientLabelsLayer::source`"
                );
            }
            scope
        }
    }
}

impl<S, Request, Src, Mode> Service<Request> for ClientLabelsService<S, Src, Mode>
where
    S: Service<Request>,
    Src: ClientSource<Request>,
    Mode: ResponseMode<S::Response>,
{
    type Response = Mode::Output;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Mode>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let scope = self.scope_of(&request);
        let _entered = scope.enter();
        ResponseFuture::new(self.inner.call(request).with_scope(scope), self.mode)
    }
}
