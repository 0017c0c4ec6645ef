use std::{fmt, net::SocketAddr};

use bytes::Bytes;

/// Where `UdpServer` takes the client of a datagram from, if the client is not always the peer.
///
/// `TrustedProxies::proxy_protocol_datagrams` makes one.
pub trait DatagramSource: fmt::Debug + Send + Sync + 'static {
    /// Reads the client from the payload, and removes the bytes that name it. `peer` sent the datagram to the socket, and
    /// gets the answer. If this panics, the client is unknown, and the datagram has failed as if its handler had panicked.
    ///
    /// # Errors
    ///
    /// If the datagram must not be served. The server counts it as unanswered, with the labels of the error.
    fn read_client(&self, payload: &mut Bytes, peer: SocketAddr) -> Result<DatagramClient, DatagramClient>;
}

/// The client of a datagram, as a [`DatagramSource`] has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatagramClient {
    /// The peer itself, or a client that is counted as the peer.
    Peer,
    /// A client behind the peer.
    Behind(SocketAddr),
    /// A client without a known address. Its class is [`ClientLabels::UNKNOWN`](crate::ClientLabels::UNKNOWN).
    Unknown,
}
