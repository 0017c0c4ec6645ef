use std::net::SocketAddr;

use super::identity::{Client, IntoClient};
use crate::labels::ClientLabels;

/// The client and the peer of a connection that came through a proxy, for axum's `ConnectInfo`.
///
/// A listener makes it, such as the one that `TrustedProxies::proxy_protocol` returns. Serve the router with
/// `into_make_service_with_connect_info::<ClientConnectInfo>()`, and [`ClientLabelsLayer`](crate::ClientLabelsLayer)
/// finds the client. In a handler, `ConnectInfo<ClientConnectInfo>` extracts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConnectInfo {
    client: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    counted_as: Client,
}

impl ClientConnectInfo {
    /// A connection of `client` that arrived from `peer`. The client is `None` if its address is not known. The peer is
    /// `None` if it is on a Unix socket.
    #[must_use]
    pub fn new(client: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        Self {
            client,
            peer,
            counted_as: client.into_client().unwrap_or(ClientLabels::UNKNOWN.into()),
        }
    }

    /// A connection without a proxy. The peer is `None` if it is on a Unix socket.
    #[must_use]
    pub fn direct(peer: Option<SocketAddr>) -> Self {
        Self {
            client: peer,
            peer,
            counted_as: peer.into_client().unwrap_or(Client::UNIX),
        }
    }

    /// A connection of an unknown client that has the class of the peer. Only the class, because the client is not a
    /// trusted proxy even if the peer is.
    #[cfg(feature = "proxy")]
    pub(crate) fn counted_as_peer(peer: Option<SocketAddr>) -> Self {
        let direct = Self::direct(peer);
        Self {
            counted_as: direct.counted_as.class().into(),
            ..direct
        }
    }

    /// The address of the client as the proxy, or else the socket, reported it. `None` if it is not known.
    #[must_use]
    pub const fn client_addr(&self) -> Option<SocketAddr> {
        self.client
    }

    /// The address at the other end of the socket: the proxy's, if there is one. `None` on a Unix socket.
    #[must_use]
    pub const fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }
}

/// A client without an address is [`ClientLabels::UNKNOWN`], without a warning.
impl IntoClient for ClientConnectInfo {
    fn into_client(self) -> Option<Client> {
        Some(self.counted_as)
    }
}
