use tower_layer::Layer;

use super::service::{RequestScope, ScopedService};
use crate::{
    client::{ClientSource, FromExtension, FromRequest, IntoClient, Or, connect_info},
    labels::{ClientLabels, ServerBinding},
    scope::{ClientScopes, Scope},
};

/// A [`Layer`] that puts the labels of the client in force while its request is served.
///
/// The [module](super) explains the order of layers, and [`client`](crate::client) where the client's address comes from.
/// `BODY` is whether the body of the response is in the scope as well, see [`without_body`](Self::without_body).
#[derive(Clone, Copy, Debug)]
pub struct ClientLabelsLayer<Src = FromRequest, const BODY: bool = true> {
    scopes: ClientScopes,
    source: Src,
}

impl ClientLabelsLayer {
    /// A layer for a server binding. The client's address comes [from the request](FromRequest).
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
    /// A source is a closure `|request: &Request<_>|` that returns [an address](IntoClient): a `SocketAddr`, an `IpAddr`, a
    /// [`ClientLabels`], a [`ClientConnectInfo`](crate::client::ClientConnectInfo), or an `Option` of one. One of these as a
    /// fixed value is a source too, for a stack that is built for each connection.
    #[must_use]
    pub fn source<NewSrc>(self, source: NewSrc) -> ClientLabelsLayer<NewSrc, BODY> {
        ClientLabelsLayer {
            scopes: self.scopes,
            source,
        }
    }

    /// Takes the client's address from a `T` in the extensions of the request, such as the `TcpConnectInfo` of tonic,
    /// or a type that your own listener puts there.
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
    /// `or(ClientLabels::UNKNOWN)` turns the warning about a missing address off.
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

impl<S, Src: Clone, const BODY: bool> Layer<S> for ClientLabelsLayer<Src, BODY> {
    type Service = ScopedService<S, Self, BODY>;

    fn layer(&self, inner: S) -> Self::Service {
        ScopedService::new(inner, self.clone())
    }
}

impl<Request, Src: ClientSource<Request>, const BODY: bool> RequestScope<Request>
    for ClientLabelsLayer<Src, BODY>
{
    type Watch = ();

    #[inline]
    fn scope(&self, request: &Request) -> Scope {
        let scope = match self.source.client(request) {
            Some(client) => self.scopes.for_client(client),
            None => self.unknown(request),
        };
        match Scope::current() {
            outer if outer == Scope::none() => scope,
            outer => with(outer, scope),
        }
    }
}

/// Usually no scope is in force, so this stays out of the way.
#[inline(never)]
fn with(outer: Scope, inner: Scope) -> Scope {
    outer.with(&inner)
}
