//! The tower middleware: every counter that a service increments while it serves a client gets that client's labels.
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
//!     // What a test has in the place of `into_make_service_with_connect_info::<SocketAddr>()`:
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
//! From the request itself, when nothing else is said ([`HasClient`]): an [`http::Request`] is asked for a
//! [`ClientLabels`] in its extensions, then (feature `axum`) for `ConnectInfo<SocketAddr>` and for
//! `MockConnectInfo<SocketAddr>`; they are left as they are. For anything else there is
//! [`ClientLabelsLayer::source`], which takes a fixed value or a closure:
//!
//! ```
//! # use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ServerBinding};
//! # use std::net::SocketAddr;
//! # #[derive(Clone)] struct TcpConnectInfo(SocketAddr);
//! # impl TcpConnectInfo { fn remote_addr(&self) -> Option<SocketAddr> { Some(self.0) } }
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//! // tonic's connection info, or another version's `ConnectInfo`
//! let grpc = ClientLabelsLayer::new(binding).source(|request: &http::Request<()>| {
//!     request.extensions().get::<TcpConnectInfo>()?.remote_addr()
//! });
//! // a Unix socket: unknown, on purpose
//! let unix = ClientLabelsLayer::new(binding).source(ClientLabels::UNKNOWN);
//! # let _ = (grpc, unix);
//! ```
//!
//! Where there is no address the labels are `unknown`, and the log says once for each binding how to mend it.
//!
//! # In which order layers stand
//!
//! What counts must be inside, what brings the address outside. In an axum `Router` the layer added *last* is
//! outermost, in a `tower::ServiceBuilder` the one added *first*:
//!
//! - inside ours: routes, `TraceLayer`, metrics middleware, anything with a counter;
//! - outside ours: `MockConnectInfo`, proxy header or PROXY protocol layers that put a [`ClientLabels`] into the
//!   extensions. A timeout may stand outside as well: the request that it cancels is dropped inside the scope.
//!
//! # What is inside the scope
//!
//! The inner `call`, each poll of its future, each poll of the response body, and the drop of both. `poll_ready` is
//! not: no request is known there. A task that the service spawns is outside, unless it is spawned
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
/// See the [module](self) for where the client's address comes from and in which order layers stand.
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsLayer<Src = FromRequest, Mode = WithBody> {
    scopes: ClientScopes,
    source: Src,
    mode: Mode,
}

impl ClientLabelsLayer {
    /// Labels of a client and of the binding it came to. The client is what the request says, see [`HasClient`].
    ///
    /// # Panics
    ///
    /// When there would be more label sets than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS), which takes more than 800
    /// bindings; [`ClientScopes::try_new`] and [`from_scopes`](Self::from_scopes) give an error instead.
    #[must_use]
    pub fn new(binding: ServerBinding) -> Self {
        Self::from_scopes(ClientScopes::new(binding))
    }

    /// Labels from scopes that are there already, such as those of a binding with labels of one's own nested in.
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
    /// Takes the client from `source`, instead of what the request says.
    ///
    /// A source is a closure `Fn(&Request) -> Option<T>` where `T` is a `SocketAddr`, an `IpAddr` or a
    /// [`ClientLabels`]; or one of these three as a fixed value, for a stack that is built for each connection.
    pub fn source<NewSrc>(self, source: NewSrc) -> ClientLabelsLayer<NewSrc, Mode> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source,
            mode: self.mode,
        }
    }

    /// Leaves the response as it is, so that its body is polled outside the scope.
    ///
    /// For services that count nothing there, and for responses that have no body to put into a scope. It saves the
    /// box that axum makes around a body whose type has changed.
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
                    "no client address in the request, so its counters are labelled `unknown`: serve an axum router \
                     with `into_make_service_with_connect_info::<SocketAddr>()`, or give `ClientLabelsLayer` a \
                     `source`"
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
