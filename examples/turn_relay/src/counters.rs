//! The relay's counters, and the label for the peer's address family.

use std::net::SocketAddr;

use dualstack_metrics::{BoundedLabel, ClientLabels, ClientScopes, IpFamily, Protocol, ServerBinding};
use metrics::{Counter, counter, describe_counter};

const ALLOCATIONS: &str = "turn_relay_allocations_total";
const DATAGRAMS: &str = "turn_relay_datagrams_total";
const BYTES: &str = "turn_relay_bytes_total";

pub(crate) fn describe() {
    describe_counter!(ALLOCATIONS, "Relay sockets that were allocated to clients.");
    describe_counter!(
        DATAGRAMS,
        "Datagrams that were relayed between a client and a peer."
    );
    describe_counter!(
        BYTES,
        "Bytes in the payloads of relayed datagrams, without headers."
    );
}

/// The address family of the peer.
#[derive(Clone, Copy)]
enum PeerFamily {
    Inet,
    Inet6,
}

impl PeerFamily {
    fn of(peer: SocketAddr) -> Self {
        match ClientLabels::from(peer).family() {
            Some(IpFamily::Inet) => Self::Inet,
            _ => Self::Inet6,
        }
    }
}

impl BoundedLabel for PeerFamily {
    const NAME: &'static str = "peer_address_ip_family";
    const VALUES: &'static [&'static str] = &["inet", "inet6"];

    fn index(self) -> usize {
        self as usize
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    ToPeer,
    FromPeer,
}

/// The counters of one listener. All labels are made at start-up, so that a datagram costs no allocation.
pub(crate) struct Counters {
    scopes: ClientScopes,
    /// `scopes` with the label of each peer family.
    with_peer: [ClientScopes; 2],
    allocations: Counter,
    datagrams: [Counter; 2],
    bytes: [Counter; 2],
}

impl Counters {
    pub(crate) fn new(listener: SocketAddr) -> Self {
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, listener));
        let directions = ["to_peer", "from_peer"];
        Self {
            scopes,
            with_peer: [PeerFamily::Inet, PeerFamily::Inet6].map(|family| scopes.with(&family)),
            allocations: counter!(ALLOCATIONS),
            datagrams: directions.map(|direction| counter!(DATAGRAMS, "direction" => direction)),
            bytes: directions.map(|direction| counter!(BYTES, "direction" => direction)),
        }
    }

    pub(crate) fn allocation(&self, client: ClientLabels) {
        self.scopes
            .for_client(client)
            .run(|| self.allocations.increment(1));
    }

    pub(crate) fn relayed(&self, client: ClientLabels, peer: SocketAddr, direction: Direction, bytes: usize) {
        self.with_peer[PeerFamily::of(peer).index()]
            .for_client(client)
            .run(|| {
                self.datagrams[direction as usize].increment(1);
                self.bytes[direction as usize].increment(bytes as u64);
            });
    }
}
