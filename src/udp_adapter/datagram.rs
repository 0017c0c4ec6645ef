//! Who the client of a datagram is.

use dualstack_udp::Datagram;

use crate::{
    labels::{Client, ClientLabels, IntoClient},
    layer::{DatagramClient, DatagramSource, HasClient},
};

/// The client's address as the socket reported it.
impl IntoClient for &Datagram {
    fn into_client(self) -> Option<Client> {
        let unknown = || ClientLabels::UNKNOWN.into();
        Some(self.client().map_or_else(unknown, Client::from))
    }
}

impl HasClient for Datagram {
    fn client(&self) -> Option<Client> {
        self.into_client()
    }
}

/// Takes the client from the source. Returns false as well if the source refuses the datagram.
pub(super) fn read_client(source: &dyn DatagramSource, datagram: Datagram) -> (Datagram, bool) {
    let (peer, reported, local) = (datagram.peer(), datagram.client(), datagram.local_addr());
    let mut payload = datagram.into_payload();
    let client = source.client(&mut payload, peer);
    let datagram = |client| Datagram::new(payload, client, local);
    let read = match client.unwrap_or_else(|client| client) {
        DatagramClient::Peer => datagram(reported.unwrap_or(peer)),
        DatagramClient::Behind(client) => datagram(client),
        DatagramClient::Unknown => datagram(peer).without_client(),
    };
    (read, client.is_ok())
}
