use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::labels::ClientLabels;

/// A client: its address, a Unix socket, or only its class.
///
/// [`ClientScopes::for_client`](crate::ClientScopes::for_client) compares the address with a
/// [NAT64 prefix](crate::ClientScopesBuilder::nat64). Nothing else exposes the address, not even `Debug`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(Known);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Known {
    Ip(IpAddr),
    Unix,
    Class(ClientLabels),
}

impl Client {
    /// A client on a Unix socket. It has no address, so its class is [`ClientLabels::UNKNOWN`].
    pub const UNIX: Self = Self(Known::Unix);

    /// The class of the client. It does not depend on NAT64 prefixes, which only scopes know.
    #[must_use]
    #[inline]
    pub const fn class(self) -> ClientLabels {
        match self.0 {
            Known::Ip(ip) => ClientLabels::from_ip(ip),
            Known::Unix => ClientLabels::UNKNOWN,
            Known::Class(class) => class,
        }
    }

    /// The address, or `None` on a Unix socket, or if only the class is known.
    #[inline]
    pub(crate) const fn ip(self) -> Option<IpAddr> {
        match self.0 {
            Known::Ip(ip) => Some(ip),
            Known::Unix | Known::Class(_) => None,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.class()).finish()
    }
}

impl From<IpAddr> for Client {
    #[inline]
    fn from(ip: IpAddr) -> Self {
        Self(Known::Ip(ip))
    }
}

impl From<SocketAddr> for Client {
    #[inline]
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

impl From<ClientLabels> for Client {
    #[inline]
    fn from(class: ClientLabels) -> Self {
        Self(Known::Class(class))
    }
}

/// An address of a client: a [`SocketAddr`], an [`IpAddr`], a [`ClientLabels`], a
/// [`ClientConnectInfo`](super::ClientConnectInfo), a [`Client`], a `&Datagram`, or an `Option` of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the address of a client",
    note = "return a `SocketAddr`, an `IpAddr`, a `ClientLabels`, a `ClientConnectInfo`, or an `Option` of one"
)]
pub trait IntoClient {
    /// The client, or `None` if there is no address.
    fn into_client(self) -> Option<Client>;
}

macro_rules! into_client {
    ($($type:ty)+) => {
        $(impl IntoClient for $type {
            #[inline]
            fn into_client(self) -> Option<Client> {
                Some(self.into())
            }
        })+
    };
}

into_client!(Client ClientLabels IpAddr SocketAddr);

/// For [`ClientLabels::ALL`], which is a slice.
impl IntoClient for &ClientLabels {
    #[inline]
    fn into_client(self) -> Option<Client> {
        (*self).into_client()
    }
}

impl<T: IntoClient> IntoClient for Option<T> {
    #[inline]
    fn into_client(self) -> Option<Client> {
        self.and_then(T::into_client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_address() {
        let client = Client::from("::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(
            format!("{client:?}"),
            "Client(ClientLabels { family: inet, ip_type: v4_mapped_v6 })"
        );
    }
}
