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
//! for a [`ClientLabels`], then (feature `axum`) for a `ConnectInfo<SocketAddr>`, a `MockConnectInfo<SocketAddr>` and a
//! `ConnectInfo<`[`ClientConnectInfo`]`>`. It does not remove them. If the address is in another type, name the type with
//! [`connect_info`](ClientLabelsLayer::connect_info). For everything else, [`source`](ClientLabelsLayer::source) takes a
//! closure or a fixed value. [`or`](ClientLabelsLayer::or) adds a source that is asked if there is no address yet.
//!
//! ```
//! use axum::{Router, extract::Request, routing::get};
//! use dualstack_metrics::{ClientLabels, ClientLabelsLayer, layer::FromRequest};
//! # use dualstack_metrics::{Protocol, ServerBinding};
//! # use std::net::{IpAddr, SocketAddr};
//! # #[derive(Clone)] struct TcpConnectInfo(SocketAddr);
//! # impl TcpConnectInfo { fn remote_addr(&self) -> Option<SocketAddr> { Some(self.0) } }
//! # fn real_ip<B>(_: &Request<B>) -> Option<IpAddr> { None }
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//! # let router = || Router::<()>::new().route("/", get(async || ()));
//!
//! // The connection info of tonic, or of another version of axum.
//! let grpc = ClientLabelsLayer::new(binding).connect_info(|info: &TcpConnectInfo| info.remote_addr());
//! let app = router().layer(grpc);
//!
//! // Your own function, and the peer's address if it finds none. The body type is `_`, because the layer takes that
//! // of the service.
//! let proxied = ClientLabelsLayer::new(binding).source(|request: &Request<_>| real_ip(request)).or(FromRequest);
//! let app = router().layer(proxied);
//!
//! // A Unix socket. It is right that no client has an address.
//! let unix = ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)).source(ClientLabels::UNKNOWN);
//! let app = router().layer(unix);
//! ```
//!
//! A closure for a certain body type, such as `&http::Request<()>`, does not compile in a service with another:
//!
//! ```compile_fail
//! # use axum::{Router, routing::get};
//! # use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding};
//! # use std::net::SocketAddr;
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//! let layer = ClientLabelsLayer::new(binding)
//!     .source(|request: &http::Request<()>| request.extensions().get::<SocketAddr>().copied());
//! let app: Router = Router::new().route("/", get(async || ())).layer(layer);
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
//! [`LabelsLayer`] adds your own labels, in any order with this layer. Each of the two adds its labels to the scope that is
//! in force, so all of them are in one scope inside both.
//!
//! # What is in the scope
//!
//! The inner `call`, each poll of its future, each poll of the response body, and the drop of both. `poll_ready` is not,
//! because no request is known yet. A task that the service spawns is not either, unless it is spawned
//! [`with_current_scope`](crate::WithScope::with_current_scope).

mod connection;
mod datagram;
mod labels;
mod response;
mod service;
mod source;

use tower_layer::Layer;

use self::service::impl_scoped_service;
pub use self::{
    connection::ClientConnectInfo,
    datagram::{DatagramClient, DatagramSource},
    labels::{LabelSource, LabelsLayer, LabelsService},
    response::{ResponseFuture, ScopeResponse},
    source::{ClientSource, FromExtension, FromRequest, HasClient, Or, connect_info},
};
pub use crate::labels::IntoClient;
use crate::{
    labels::{ClientLabels, ServerBinding},
    scope::{ClientScopes, Scope},
};

/// A [`Layer`] that puts the labels of the client in force while its request is served.
///
/// The [module](self) explains where the client's address comes from, and the order of layers. `BODY` is whether the
/// body of the response is in the scope as well, see [`without_body`](Self::without_body).
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsLayer<Src = FromRequest, const BODY: bool = true> {
    scopes: ClientScopes,
    source: Src,
}

impl ClientLabelsLayer {
    /// A layer for a server binding. The client's address comes from the request: see [`HasClient`].
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
        }
    }
}

impl<Src, const BODY: bool> ClientLabelsLayer<Src, BODY> {
    /// Takes the client's address from `source` instead of the request.
    ///
    /// A source is a closure `|request: &Request<_>|` that returns a `SocketAddr`, an `IpAddr`, a [`ClientLabels`], or an
    /// `Option` of one. One of these three as a fixed value is a source too, for a stack that is built for each
    /// connection.
    #[must_use]
    pub fn source<NewSrc>(self, source: NewSrc) -> ClientLabelsLayer<NewSrc, BODY> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source,
        }
    }

    /// Takes the client's address from a `T` in the extensions of the request, such as the `ConnectInfo` of another
    /// version of axum, the `TcpConnectInfo` of tonic, or a type that your own listener puts there.
    ///
    /// Short for [`source`](Self::source)`(`[`connect_info`]`(address))`.
    #[must_use]
    pub fn connect_info<T, A, F>(self, address: F) -> ClientLabelsLayer<FromExtension<T, F>, BODY>
    where
        T: Send + Sync + 'static,
        A: IntoClient,
        F: Fn(&T) -> A,
    {
        self.source(connect_info(address))
    }

    /// Asks another source if there is no address yet.
    ///
    /// `or(ClientLabels::UNKNOWN)` says that a missing address is no mistake, so that no warning is logged.
    #[must_use]
    pub fn or<Other>(self, other: Other) -> ClientLabelsLayer<Or<Src, Other>, BODY> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source: Or {
                first: self.source,
                second: other,
            },
        }
    }

    /// Does not change the response. Its body is polled outside the scope.
    ///
    /// For services whose bodies increment no counters, and for responses without a body. It keeps the response type,
    /// and saves the box that axum makes for a body of another type.
    #[must_use]
    pub fn without_body(self) -> ClientLabelsLayer<Src, false> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source: self.source,
        }
    }
}

impl<S, Src: Clone, const BODY: bool> Layer<S> for ClientLabelsLayer<Src, BODY> {
    type Service = ClientLabelsService<S, Src, BODY>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientLabelsService {
            inner,
            scopes: self.scopes,
            source: self.source.clone(),
        }
    }
}

/// The [`Service`](tower_service::Service) that [`ClientLabelsLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsService<S, Src = FromRequest, const BODY: bool = true> {
    inner: S,
    scopes: ClientScopes,
    source: Src,
}

impl<S, Src, const BODY: bool> ClientLabelsService<S, Src, BODY> {
    #[inline]
    fn scope<Request>(&self, request: &Request) -> Scope
    where
        Src: ClientSource<Request>,
    {
        let scope = match self.source.client(request) {
            Some(client) => self.scopes.for_client(client),
            None => self.unknown(request),
        };
        match Scope::current() {
            outer if outer == Scope::none() => scope,
            outer => with(outer, scope),
        }
    }

    #[cold]
    fn unknown<Request>(&self, request: &Request) -> Scope
    where
        Src: ClientSource<Request>,
    {
        let scope = self.scopes.for_client(ClientLabels::UNKNOWN);
        if scope.warn_once() {
            tracing::warn!(
                labels = ?scope,
                "a request has no client address, so its counters are labelled `unknown`: {}",
                self.source.help(request)
            );
        }
        scope
    }
}

/// Usually no scope is in force, so this stays out of the way.
#[inline(never)]
fn with(outer: Scope, inner: Scope) -> Scope {
    outer.with(&inner)
}

impl_scoped_service!(ClientLabelsService, ClientSource);
