use std::net::{IpAddr, SocketAddr};

use crate::labels::ClientLabels;

/// A request that knows the address of its client.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know the address of its client",
    note = "call `ClientLabelsLayer::source` with a closure that returns the address, or with a fixed address"
)]
pub trait HasClient {
    /// The class of the client, or `None` if the request has no address.
    fn client(&self) -> Option<ClientLabels>;
}

/// From the extensions: the first of [`ClientLabels`] and, with the feature `axum`, `ConnectInfo<SocketAddr>` and
/// `MockConnectInfo<SocketAddr>`.
impl<B> HasClient for http::Request<B> {
    fn client(&self) -> Option<ClientLabels> {
        let extensions = self.extensions();
        if let Some(client) = extensions.get::<ClientLabels>() {
            return Some(*client);
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
        }
        None
    }
}

/// Where [`ClientLabelsLayer`](super::ClientLabelsLayer) takes the client of a request from.
///
/// Implemented for closures `Fn(&Request) -> Option<T>`, where `T` is a `SocketAddr`, an `IpAddr` or a
/// [`ClientLabels`], and for these three themselves.
pub trait ClientSource<Request> {
    /// The class of the client, or `None` if the address is missing, which the layer logs as a warning.
    fn client(&self, request: &Request) -> Option<ClientLabels>;
}

/// The default source: the request itself. See [`HasClient`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FromRequest;

impl<Request: HasClient> ClientSource<Request> for FromRequest {
    fn client(&self, request: &Request) -> Option<ClientLabels> {
        request.client()
    }
}

impl<Request, F, T> ClientSource<Request> for F
where
    F: Fn(&Request) -> Option<T>,
    T: Into<ClientLabels>,
{
    fn client(&self, request: &Request) -> Option<ClientLabels> {
        self(request).map(Into::into)
    }
}

impl<Request> ClientSource<Request> for ClientLabels {
    fn client(&self, _: &Request) -> Option<ClientLabels> {
        Some(*self)
    }
}

impl<Request> ClientSource<Request> for SocketAddr {
    fn client(&self, _: &Request) -> Option<ClientLabels> {
        Some((*self).into())
    }
}

impl<Request> ClientSource<Request> for IpAddr {
    fn client(&self, _: &Request) -> Option<ClientLabels> {
        Some((*self).into())
    }
}
