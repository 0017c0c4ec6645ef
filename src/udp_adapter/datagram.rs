//! Who the client of a datagram is.

use dualstack_udp::Datagram;

use crate::{
    client::{Client, ClientSource, DatagramClient, DatagramSource, FromRequest, IntoClient},
    labels::ClientLabels,
};

/// The client's address as the socket reported it.
impl IntoClient for &Datagram {
    #[inline]
    fn into_client(self) -> Option<Client> {
        let unknown = || ClientLabels::UNKNOWN.into();
        Some(self.client().map_or_else(unknown, Client::from))
    }
}

impl ClientSource<Datagram> for FromRequest {
    fn client(&self, datagram: &Datagram) -> Option<Client> {
        datagram.into_client()
    }
}

/// Takes the client from the source. Returns false if the source refuses the datagram.
pub(super) fn read_client(source: &dyn DatagramSource, datagram: &mut Datagram) -> bool {
    let (peer, local) = (datagram.peer(), datagram.local_addr());
    let mut payload = datagram.payload().clone();
    let client = source.read_client(&mut payload, peer);
    *datagram = match client.unwrap_or_else(|client| client) {
        DatagramClient::Peer => Datagram::new(payload, datagram.client().unwrap_or(peer), local),
        DatagramClient::Behind(client) => Datagram::new(payload, client, local),
        DatagramClient::Unknown => Datagram::new(payload, peer, local).without_client(),
    };
    client.is_ok()
}
