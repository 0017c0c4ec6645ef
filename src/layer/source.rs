use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
};

#[cfg(feature = "axum")]
use super::ClientConnectInfo;
use crate::labels::{Client, ClientLabels, IntoClient};

/// A request that knows the address of its client.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know the address of its client",
    note = "call `ClientLabelsLayer::source` with a closure that returns the address, or with a fixed address"
)]
pub trait HasClient {
    /// The client, or `None` if the request has no address.
    fn client(&self) -> Option<Client>;

    /// What to do if [`client`](Self::client) returned `None`. It completes the warning that is logged then.
    fn help(&self) -> String {
        format!("`HasClient::client` of `{}` returned `None`", type_name::<Self>())
    }
}

/// From the extensions: the first of [`ClientLabels`] and, with the feature `axum`, `ConnectInfo<SocketAddr>`,
/// `MockConnectInfo<SocketAddr>` and `ConnectInfo<`[`ClientConnectInfo`](super::ClientConnectInfo)`>` of axum. That is the
/// version, 0.8 or 0.7, that Cargo chose for this crate.
impl<B> HasClient for http::Request<B> {
    fn client(&self) -> Option<Client> {
        let extensions = self.extensions();
        if let Some(client) = extensions.get::<ClientLabels>() {
            return Some((*client).into());
        }
        #[cfg(feature = "axum")]
        {
            use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

            let address = extensions
                .get::<ConnectInfo<SocketAddr>>()
                .map(|&ConnectInfo(address)| address)
                .or_else(|| extensions.get::<MockConnectInfo<SocketAddr>>().map(|mock| mock.0));
            if let Some(address) = address {
                return Some(address.into());
            }
            if let Some(ConnectInfo(info)) = extensions.get::<ConnectInfo<ClientConnectInfo>>() {
                return info.into_client();
            }
        }
        None
    }

    fn help(&self) -> String {
        let axum = if cfg!(feature = "axum") {
            "serve an axum router with `into_make_service_with_connect_info::<SocketAddr>()`"
        } else {
            "for axum, turn on the feature `axum` of `dualstack-metrics`"
        };
        format!(
            "{axum}; if the address is in another type, such as the `ConnectInfo` of another version of axum or the \
             `TcpConnectInfo` of tonic, name the type with `ClientLabelsLayer::connect_info`"
        )
    }
}

/// Where [`ClientLabelsLayer`](super::ClientLabelsLayer) takes the client of a request from.
///
/// Implemented for closures `Fn(&Request) -> T` whose result is [an address](IntoClient), and for a `SocketAddr`, an
/// `IpAddr`, a [`ClientLabels`] and a [`Client`] themselves.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of the client's address for `{Request}`",
    note = "`FromRequest`, the default, needs a request that implements `HasClient`; for others call \
            `ClientLabelsLayer::source`",
    note = "a source is an address, or a closure such as `|request: &Request<_>| request.extensions().get::<Peer>()?.0`"
)]
pub trait ClientSource<Request> {
    /// The client, or `None` if the address is missing, which the layer logs as a warning.
    fn client(&self, request: &Request) -> Option<Client>;

    /// What to do if [`client`](Self::client) returned `None`. It completes the warning that is logged then.
    fn help(&self, _: &Request) -> String {
        "the source that was given to `ClientLabelsLayer` returned `None`; add another with `or`, or \
         `or(ClientLabels::UNKNOWN)` if it is right that the client has no address"
            .to_owned()
    }
}

/// The default source: the request itself. See [`HasClient`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FromRequest;

impl<Request: HasClient> ClientSource<Request> for FromRequest {
    fn client(&self, request: &Request) -> Option<Client> {
        request.client()
    }

    fn help(&self, request: &Request) -> String {
        request.help()
    }
}

impl<Request, F, T> ClientSource<Request> for F
where
    F: Fn(&Request) -> T,
    T: IntoClient,
{
    fn client(&self, request: &Request) -> Option<Client> {
        self(request).into_client()
    }
}

impl<Request> ClientSource<Request> for Client {
    fn client(&self, _: &Request) -> Option<Client> {
        Some(*self)
    }
}

impl<Request> ClientSource<Request> for ClientLabels {
    fn client(&self, _: &Request) -> Option<Client> {
        Some((*self).into())
    }
}

impl<Request> ClientSource<Request> for SocketAddr {
    fn client(&self, _: &Request) -> Option<Client> {
        Some((*self).into())
    }
}

impl<Request> ClientSource<Request> for IpAddr {
    fn client(&self, _: &Request) -> Option<Client> {
        Some((*self).into())
    }
}

/// A source that reads a type from the extensions of a request. Made by [`connect_info`].
pub struct FromExtension<T, F> {
    address: F,
    extension: PhantomData<fn(&T)>,
}

/// A source that reads a `T` from the extensions of an [`http::Request`], for
/// [`source`](super::ClientLabelsLayer::source) and [`or`](super::ClientLabelsLayer::or).
///
/// `address` returns [an address](IntoClient) from the `T`.
#[must_use]
pub fn connect_info<T, A, F>(address: F) -> FromExtension<T, F>
where
    T: Send + Sync + 'static,
    A: IntoClient,
    F: Fn(&T) -> A,
{
    FromExtension {
        address,
        extension: PhantomData,
    }
}

impl<B, T, A, F> ClientSource<http::Request<B>> for FromExtension<T, F>
where
    T: Send + Sync + 'static,
    A: IntoClient,
    F: Fn(&T) -> A,
{
    fn client(&self, request: &http::Request<B>) -> Option<Client> {
        let info = request.extensions().get::<T>()?;
        (self.address)(info).into_client()
    }

    fn help(&self, request: &http::Request<B>) -> String {
        let what = if request.extensions().get::<T>().is_some() {
            "has no address in its"
        } else {
            "has no"
        };
        format!("the request {what} `{}`", type_name::<T>())
    }
}

impl<T, F: Clone> Clone for FromExtension<T, F> {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            extension: PhantomData,
        }
    }
}

impl<T, F: Copy> Copy for FromExtension<T, F> {}

impl<T, F> fmt::Debug for FromExtension<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FromExtension<{}>", type_name::<T>())
    }
}

/// Two sources: the second is asked if the first has no address. Made by
/// [`ClientLabelsLayer::or`](super::ClientLabelsLayer::or).
#[derive(Clone, Copy, Debug)]
pub struct Or<First, Second> {
    pub(super) first: First,
    pub(super) second: Second,
}

impl<Request, First, Second> ClientSource<Request> for Or<First, Second>
where
    First: ClientSource<Request>,
    Second: ClientSource<Request>,
{
    fn client(&self, request: &Request) -> Option<Client> {
        self.first.client(request).or_else(|| self.second.client(request))
    }

    fn help(&self, request: &Request) -> String {
        format!("{}; {}", self.first.help(request), self.second.help(request))
    }
}
