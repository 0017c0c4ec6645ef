use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::address::canonical;
use crate::{
    client::{Client, ClientSource, DatagramClient, DatagramSource, FromRequest, IntoClient},
    labels::ClientLabels,
};

/// A datagram as a handler sees it.
///
/// Addresses are canonical: a client that reached an IPv6 socket over IPv4 is `192.0.2.7`, never `::ffff:192.0.2.7`.
/// [`client_class`](Self::client_class) tells which of the two the socket reported. Link-local addresses keep their scope ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    payload: Bytes,
    peer: SocketAddr,
    client: ClientLabels,
    local: SocketAddr,
}

impl Datagram {
    /// A datagram from `peer` to `local`, both as a socket reports them.
    pub fn new(payload: impl Into<Bytes>, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            payload: payload.into(),
            peer: canonical(peer),
            client: peer.into(),
            local: canonical(local),
        }
    }

    /// Takes the client from the source. Returns false if the source refuses the datagram.
    pub(super) fn read_client(&mut self, source: &dyn DatagramSource) -> bool {
        let client = source.read_client(&mut self.payload, self.peer);
        match client.unwrap_or_else(|client| client) {
            DatagramClient::Peer => {}
            DatagramClient::Behind(client) => {
                self.peer = canonical(client);
                self.client = client.into();
            }
            DatagramClient::Unknown => self.client = ClientLabels::UNKNOWN,
        }
        client.is_ok()
    }

    /// The payload: 0 to 65,527 bytes.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload: 0 to 65,527 bytes.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The client's address, canonical. That of the proxy if a [source](crate::UdpServer::source) does not know the
    /// client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The class of the client's address as the socket, or the [source](crate::UdpServer::source), reported it.
    ///
    /// For scopes that know a [NAT64 prefix](crate::ClientScopesBuilder::nat64), pass the datagram itself to
    /// [`ClientScopes::for_client`](crate::ClientScopes::for_client).
    #[must_use]
    pub fn client_class(&self) -> ClientLabels {
        self.client
    }

    /// The address that the client sent this to, canonical: an address of the host, a broadcast address or a multicast
    /// group, with the socket's port. If the platform does not report it, the address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// The client's address as the socket reported it.
impl IntoClient for &Datagram {
    fn into_client(self) -> Option<Client> {
        Some(match self.peer.ip() {
            IpAddr::V6(_) if self.client != ClientLabels::UNKNOWN => self.peer.into(),
            // It may have been a mapped address.
            _ => self.client.into(),
        })
    }
}

impl ClientSource<Datagram> for FromRequest {
    fn client(&self, datagram: &Datagram) -> Option<Client> {
        datagram.into_client()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(peer: &str, local: &str) -> (String, String, &'static str) {
        let datagram = Datagram::new(&b"x"[..], peer.parse().unwrap(), local.parse().unwrap());
        (
            datagram.peer().to_string(),
            datagram.local_addr().to_string(),
            datagram.client_class().pairs()[1].1,
        )
    }

    #[test]
    fn addresses_are_canonical_and_the_class_remembers() {
        let of = |peer: &str, local: &str, ip_type| (peer.to_owned(), local.to_owned(), ip_type);
        assert_eq!(
            datagram("[::ffff:192.0.2.7]:5", "[::ffff:192.0.2.1]:6"),
            of("192.0.2.7:5", "192.0.2.1:6", "v4_mapped_v6")
        );
        assert_eq!(
            datagram("192.0.2.7:5", "0.0.0.0:6"),
            of("192.0.2.7:5", "0.0.0.0:6", "plain")
        );
        assert_eq!(
            datagram("[fe80::7%3]:5", "[fe80::1%3]:6"),
            of("[fe80::7%3]:5", "[fe80::1%3]:6", "plain")
        );
    }
}
