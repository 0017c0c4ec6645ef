use std::net::SocketAddr;

use bytes::Bytes;

use crate::address::{Route, canonical};

/// A datagram that was received.
///
/// Addresses are canonical: a client that reached an IPv6 socket over IPv4 is `192.0.2.7`, never `::ffff:192.0.2.7`.
/// Only [`client`](Self::client) tells which of the two the socket reported. Link-local addresses keep their scope ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    payload: Bytes,
    // Both as the socket reported them.
    peer: SocketAddr,
    local: SocketAddr,
    is_client_known: bool,
}

impl Datagram {
    /// A datagram from `peer` to `local`, both as a socket reports them.
    pub fn new(payload: impl Into<Bytes>, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            payload: payload.into(),
            peer,
            local,
            is_client_known: true,
        }
    }

    /// The same datagram without a [`client`](Self::client), because the peer is a proxy that does not tell.
    #[must_use]
    pub fn without_client(self) -> Self {
        Self {
            is_client_known: false,
            ..self
        }
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

    /// The client's address, canonical. If the client behind a proxy is not known, the proxy's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        canonical(self.peer)
    }

    /// The client's address as it was reported: an IPv4 client of a dual-stack socket has a mapped address. `None` if the
    /// client behind a proxy is not known.
    #[inline]
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        self.is_client_known.then_some(self.peer)
    }

    /// The address that the client sent this to, canonical: an address of the host, a broadcast address or a multicast
    /// group, with the socket's port. If the platform does not report it, the address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        canonical(self.local)
    }

    /// The route of an answer through a socket that is bound to `bound`, if there can be one.
    #[inline]
    pub(crate) fn route(&self, bound: SocketAddr) -> Option<Route> {
        Route::new(bound, self.local, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_canonical_and_the_client_is_as_reported() {
        for (peer, local, canonical_peer, canonical_local) in [
            (
                "[::ffff:192.0.2.7]:5",
                "[::ffff:192.0.2.1]:6",
                "192.0.2.7:5",
                "192.0.2.1:6",
            ),
            ("192.0.2.7:5", "0.0.0.0:6", "192.0.2.7:5", "0.0.0.0:6"),
            ("[fe80::7%3]:5", "[fe80::1%3]:6", "[fe80::7%3]:5", "[fe80::1%3]:6"),
        ] {
            let datagram = Datagram::new(&b"x"[..], peer.parse().unwrap(), local.parse().unwrap());
            assert_eq!(datagram.peer().to_string(), canonical_peer);
            assert_eq!(datagram.local_addr().to_string(), canonical_local);
            assert_eq!(datagram.client(), Some(peer.parse().unwrap()));
            let datagram = datagram.without_client();
            assert_eq!(datagram.client(), None);
            assert_eq!(datagram.peer().to_string(), canonical_peer);
        }
    }
}
