use std::{fmt, net::SocketAddr};

use bytes::Bytes;

/// Where `UdpServer` takes the client of a datagram from, if that is not always the peer.
///
/// `TrustedProxies::proxy_protocol_datagrams` makes one.
pub trait DatagramSource: fmt::Debug + Send + Sync + 'static {
    /// Reads who the client is, and removes what says so from the payload. `peer` sent the datagram to the socket, and
    /// gets the answer. A panic here ends the server.
    ///
    /// # Errors
    ///
    /// If the datagram must not be served. The server counts it as unanswered, with the labels of the error.
    fn client(&self, payload: &mut Bytes, peer: SocketAddr) -> Result<DatagramClient, DatagramClient>;
}

/// The client of a datagram, as a [`DatagramSource`] has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramClient {
    /// The peer itself, or one who has its labels.
    Peer,
    /// Another, behind the peer.
    Behind(SocketAddr),
    /// It is not known. The labels are [`ClientLabels::UNKNOWN`](crate::ClientLabels::UNKNOWN).
    Unknown,
}
