use std::net::{IpAddr, SocketAddr};

use super::{
    connection::ClientConnectInfo,
    identity::{Client, IntoClient},
};
use crate::labels::ClientLabels;

/// Where [`ClientLabelsLayer`](crate::ClientLabelsLayer) takes the client of a request from.
///
/// Implemented for closures `Fn(&Request) -> T` whose result is [an address](IntoClient), and for a `SocketAddr`, an
/// `IpAddr`, a [`ClientLabels`], a [`ClientConnectInfo`], a [`Client`], and an `Option` of one, which are the same for each
/// request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of the client's address for `{Request}`",
    note = "`FromRequest`, the default, reads an `http::Request` or a `Datagram`; for other requests call \
            `ClientLabelsLayer::source`",
    note = "a source is an address, or a closure such as `|request: &Request<_>| request.extensions().get::<Peer>()?.0`, \
            which returns a `SocketAddr`, an `IpAddr`, a `ClientLabels`, a `ClientConnectInfo`, or an `Option` of one"
)]
pub trait ClientSource<Request> {
    /// The client, or `None` if the address is missing, which the layer logs as a warning.
    fn client(&self, request: &Request) -> Option<Client>;

    /// The fix if [`client`](Self::client) returned `None`. It completes the warning.
    fn help(&self, _: &Request) -> String {
        "the source that was given to `ClientLabelsLayer` returned `None`; add another with `or`, or \
         `or(ClientLabels::UNKNOWN)` if clients have no address here"
            .to_owned()
    }
}

// So that an error is about the source, and not about `Fn`.
#[diagnostic::do_not_recommend]
impl<Request, F, T> ClientSource<Request> for F
where
    F: Fn(&Request) -> T,
    T: IntoClient,
{
    fn client(&self, request: &Request) -> Option<Client> {
        self(request).into_client()
    }
}

macro_rules! fixed_source {
    ($($type:ty)+) => {
        $(impl<Request> ClientSource<Request> for $type {
            fn client(&self, _: &Request) -> Option<Client> {
                (*self).into_client()
            }
        })+
    };
}

fixed_source!(Client ClientConnectInfo ClientLabels IpAddr SocketAddr);

impl<Request, T: IntoClient + Copy> ClientSource<Request> for Option<T> {
    fn client(&self, _: &Request) -> Option<Client> {
        self.into_client()
    }
}

/// Two sources: the second is asked if the first has no address. Made by
/// [`ClientLabelsLayer::or`](crate::ClientLabelsLayer::or).
#[derive(Clone, Copy, Debug)]
pub struct Or<First, Second> {
    pub(crate) first: First,
    pub(crate) second: Second,
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
