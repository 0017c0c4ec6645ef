use std::net::SocketAddr;

use crate::labels::{Client, ClientLabels, IntoClient};

/// The two ends of a connection that came through a proxy, for axum's `ConnectInfo`.
///
/// A listener knows them, such as that of `TrustedProxies::proxy_protocol`. Serve the router with
/// `into_make_service_with_connect_info::<ClientConnectInfo>()`, and [`ClientLabelsLayer`](super::ClientLabelsLayer)
/// finds the client. In a handler, `ConnectInfo<ClientConnectInfo>` extracts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConnectInfo {
    client: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    labelled: Client,
}

impl ClientConnectInfo {
    /// A connection of `client` that arrived from `peer`. The client is `None` if it is not known, the peer if it is on
    /// a Unix socket.
    #[must_use]
    pub fn new(client: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        let labelled = client.into_client().unwrap_or(ClientLabels::UNKNOWN.into());
        Self {
            client,
            peer,
            labelled,
        }
    }

    /// A connection without a proxy. The peer is `None` if it is on a Unix socket.
    #[must_use]
    pub fn direct(peer: Option<SocketAddr>) -> Self {
        Self {
            client: peer,
            peer,
            labelled: peer.into_client().unwrap_or(Client::UNIX),
        }
    }

    /// A connection of an unknown client that has the labels of the peer. It has no right of the peer: what it says about
    /// other clients is not believed.
    #[cfg(feature = "proxy")]
    pub(crate) fn labelled_as_peer(peer: Option<SocketAddr>) -> Self {
        let direct = Self::direct(peer);
        Self {
            labelled: direct.labelled.labels().into(),
            ..direct
        }
    }

    /// The address of the client as the proxy, or else the socket, reported it. `None` if it is not known.
    #[must_use]
    pub const fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// The address at the other end of the socket, which is the proxy's if there is one. `None` on a Unix socket.
    #[must_use]
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }
}

/// A client without an address is [`ClientLabels::UNKNOWN`]. It is not missing, so no warning is logged.
impl IntoClient for ClientConnectInfo {
    fn into_client(self) -> Option<Client> {
        Some(self.labelled)
    }
}
