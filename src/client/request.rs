#[cfg(any(feature = "axum07", feature = "axum08"))]
use std::net::SocketAddr;
use std::{any::type_name, fmt, marker::PhantomData};

#[cfg(any(feature = "axum07", feature = "axum08"))]
use http::Extensions;
use http::Request;

use super::{
    connection::ClientConnectInfo,
    identity::{Client, IntoClient},
    source::ClientSource,
};
use crate::labels::ClientLabels;

/// The default source: the request itself.
///
/// In the extensions of an [`http::Request`] it takes the first of [`ClientLabels`], axum's `ConnectInfo` and
/// `MockConnectInfo` of a `SocketAddr` or a [`ClientConnectInfo`], and a `ClientConnectInfo` itself. It does not remove
/// them. The features `axum08` and `axum07` decide which versions of axum it knows. Of a `Datagram` it takes the client.
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
        #[cfg(feature = "axum08")]
        if let Some(client) = axum08(extensions) {
            return Some(client);
        }
        #[cfg(feature = "axum07")]
        if let Some(client) = axum07(extensions) {
            return Some(client);
        }
        extensions.get::<ClientConnectInfo>()?.into_client()
    }

    fn help(&self, _: &Request<B>) -> String {
        let axum = if cfg!(any(feature = "axum07", feature = "axum08")) {
            "serve an axum router with `into_make_service_with_connect_info::<SocketAddr>()`"
        } else {
            "for axum, turn on the feature `axum` of `dualstack-metrics`"
        };
        format!(
            "{axum}; for axum 0.7, turn on the feature `axum07`; if the address is in another type, such as the \
             `TcpConnectInfo` of tonic, name the type with `ClientLabelsLayer::connect_info`"
        )
    }
}

/// Each version of axum has its own types.
#[cfg(any(feature = "axum07", feature = "axum08"))]
macro_rules! read_connect_info {
    ($version:ident, $axum:ident) => {
        fn $version(extensions: &Extensions) -> Option<Client> {
            use $axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

            macro_rules! read {
                ($info:ident<$address:ty>) => {
                    if let Some($info(address)) = extensions.get::<$info<$address>>() {
                        return address.into_client();
                    }
                };
            }

            read!(ConnectInfo<SocketAddr>);
            read!(MockConnectInfo<SocketAddr>);
            read!(ConnectInfo<ClientConnectInfo>);
            read!(MockConnectInfo<ClientConnectInfo>);
            None
        }
    };
}

#[cfg(feature = "axum07")]
read_connect_info!(axum07, axum07);
#[cfg(feature = "axum08")]
read_connect_info!(axum08, axum);

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
