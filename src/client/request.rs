use std::{any::type_name, fmt, marker::PhantomData};

use http::Request;

#[cfg(feature = "axum")]
use super::connection::ClientConnectInfo;
use super::{
    identity::{Client, IntoClient},
    source::ClientSource,
};
use crate::labels::ClientLabels;

/// The default source: the request itself.
///
/// In the extensions of an [`http::Request`] it takes the first of [`ClientLabels`] and, with the feature `axum`,
/// `ConnectInfo<SocketAddr>`, `MockConnectInfo<SocketAddr>` and
/// `ConnectInfo<`[`ClientConnectInfo`](super::ClientConnectInfo)`>`. It does not remove them. Their axum is the version, 0.8
/// or 0.7, that Cargo chose for this crate. Of a `Datagram` it takes the client.
///
/// For a request type of your own, implement [`ClientSource`]:
///
/// ```
/// use dualstack_metrics::client::{Client, ClientSource, FromRequest};
///
/// struct Query {
///     peer: std::net::SocketAddr,
/// }
///
/// impl ClientSource<Query> for FromRequest {
///     fn client(&self, query: &Query) -> Option<Client> {
///         Some(query.peer.into())
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FromRequest;

impl<B> ClientSource<Request<B>> for FromRequest {
    fn client(&self, request: &Request<B>) -> Option<Client> {
        let extensions = request.extensions();
        if let Some(&client) = extensions.get::<ClientLabels>() {
            return Some(client.into());
        }
        #[cfg(feature = "axum")]
        {
            use std::net::SocketAddr;

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

    fn help(&self, _: &Request<B>) -> String {
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

/// A source that reads a type from the extensions of a request. Made by [`connect_info`].
pub struct FromExtension<T, F> {
    address: F,
    extension: PhantomData<fn(&T)>,
}

/// A source that reads a `T` from the extensions of an [`http::Request`], for
/// [`source`](crate::ClientLabelsLayer::source) and [`or`](crate::ClientLabelsLayer::or).
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

impl<B, T, A, F> ClientSource<Request<B>> for FromExtension<T, F>
where
    T: Send + Sync + 'static,
    A: IntoClient,
    F: Fn(&T) -> A,
{
    fn client(&self, request: &Request<B>) -> Option<Client> {
        let info = request.extensions().get::<T>()?;
        (self.address)(info).into_client()
    }

    fn help(&self, request: &Request<B>) -> String {
        let missing = if request.extensions().get::<T>().is_some() {
            "has no address in its"
        } else {
            "has no"
        };
        format!("the request {missing} `{}`", type_name::<T>())
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
