//! A client of the relay: the protocol of `turn-client-proto` on a socket.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use test_support::PATIENCE;
use turn_client_proto::{
    api::{TransmitBuild, TurnConfig, TurnEvent, TurnRecvRet},
    prelude::{DelayedTransmitBuild, TurnClientApi},
    stun::{agent::Transmit, auth::Feature},
    types::{
        AddressFamily, Instant as ProtocolInstant, TransportType, TurnCredentials,
        attribute::XorPeerAddress,
        message::CREATE_PERMISSION,
        stun::{
            attribute::{ErrorCode, Nonce, Realm, Username},
            message::{
                IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageWrite, MessageWriteExt,
                MessageWriteVec,
            },
        },
    },
    udp::TurnClientUdp,
};

/// The families to ask for. For IPv4 alone the client names none, because IPv4 is the default.
pub(crate) const IPV4: &[AddressFamily] = &[AddressFamily::IPV4];
pub(crate) const IPV6: &[AddressFamily] = &[AddressFamily::IPV6];
pub(crate) const BOTH: &[AddressFamily] = &[AddressFamily::IPV4, AddressFamily::IPV6];

const USER: &str = "alice";
const PASSWORD: &str = "secret";

pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    password: &'static str,
    turn: Option<TurnClientUdp>,
    start: Instant,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<TurnEvent>,
    /// The families without a relayed address.
    pub(crate) failed: Vec<AddressFamily>,
    /// The error codes in the answers of the relay.
    errors: Vec<u16>,
    realm_and_nonce: Option<(String, String)>,
}

impl Client {
    pub(crate) fn new(relay: SocketAddr) -> Self {
        Self::with_password(relay, PASSWORD)
    }

    pub(crate) fn with_password(relay: SocketAddr, password: &'static str) -> Self {
        let own = if relay.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(own).unwrap();
        // The socket does not receive answers from other addresses.
        socket.connect(relay).unwrap();
        Self {
            socket,
            password,
            turn: None,
            start: Instant::now(),
            received: VecDeque::new(),
            events: VecDeque::new(),
            failed: Vec::new(),
            errors: Vec::new(),
            realm_and_nonce: None,
        }
    }

    fn now(&self) -> ProtocolInstant {
        ProtocolInstant::from_std(self.start)
    }

    fn turn(&mut self) -> &mut TurnClientUdp {
        self.turn.as_mut().expect("an allocation was asked for")
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let length = self.socket.recv(buffer).ok()?;
        if let Ok(message) = Message::from_bytes(&buffer[..length]) {
            if let Ok(error) = message.attribute::<ErrorCode>() {
                self.errors.push(error.code());
            }
            if let (Ok(realm), Ok(nonce)) = (message.attribute::<Realm>(), message.attribute::<Nonce>()) {
                self.realm_and_nonce = Some((realm.realm().to_owned(), nonce.nonce().to_owned()));
            }
        }
        Some(length)
    }

    /// One step of the protocol.
    fn step(&mut self) {
        let now = self.now();
        let (own, relay) = (
            self.socket.local_addr().unwrap(),
            self.socket.peer_addr().unwrap(),
        );
        self.turn().poll(now);
        while let Some(transmit) = self.turn().poll_transmit(now) {
            self.socket.send(&transmit.data).unwrap();
        }
        while let Some(event) = self.turn().poll_event() {
            self.events.push_back(event);
        }
        let mut buffer = [0; 2_000];
        let Some(length) = self.read(&mut buffer) else {
            return;
        };
        let transmit = Transmit::new(&buffer[..length], TransportType::Udp, relay, own);
        if let TurnRecvRet::PeerData(data) = self.turn().recv(transmit, now) {
            let received = (data.peer, data.data().to_vec());
            self.received.push_back(received);
        }
        while let Some(event) = self.turn().poll_event() {
            self.events.push_back(event);
        }
    }

    /// Steps until `is_done` has something to return.
    fn until<T>(&mut self, what: &str, mut is_done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = is_done(self) {
                return done;
            }
            assert!(Instant::now() < deadline, "not: {what}");
            self.step();
        }
    }

    /// The relayed addresses, IPv4 first, or the code of the error.
    pub(crate) fn allocate(&mut self, families: &[AddressFamily]) -> Result<Vec<SocketAddr>, Option<u16>> {
        let mut config = TurnConfig::new(TurnCredentials::new(USER, self.password));
        // For `permission_error`.
        config.set_anonymous_username(Feature::Disabled);
        config.set_address_family(families[0]);
        for family in families {
            config.add_address_family(*family);
        }
        self.turn = Some(TurnClientUdp::allocate(
            self.socket.local_addr().unwrap(),
            self.socket.peer_addr().unwrap(),
            config,
        ));
        let mut relayed = Vec::new();
        let expected = families.len();
        let mut failed = Vec::new();
        self.until("an allocation, or none", |client| {
            while let Some(event) = client.events.pop_front() {
                match event {
                    TurnEvent::AllocationCreated(_, address) => relayed.push(address),
                    TurnEvent::AllocationCreateFailed(family) => failed.push(family),
                    other => panic!("{other:?}"),
                }
            }
            // The first request is always refused, with the nonce.
            let is_refused = client.errors.iter().filter(|code| **code == 401).count() > 1;
            (is_refused || relayed.len() + failed.len() >= expected).then_some(())
        });
        self.failed = failed;
        relayed.sort();
        if relayed.is_empty() {
            Err(self.errors.last().copied())
        } else {
            Ok(relayed)
        }
    }

    /// Permits a peer, or returns the code of the error.
    pub(crate) fn permit(&mut self, peer: IpAddr) -> Result<(), Option<u16>> {
        let now = self.now();
        self.turn()
            .create_permission(TransportType::Udp, peer, now)
            .unwrap();
        self.until("a permission, or none", |client| {
            match client.events.pop_front()? {
                TurnEvent::PermissionCreated(_, ip) => {
                    assert_eq!(ip, peer);
                    Some(Ok(()))
                }
                TurnEvent::PermissionCreateFailed(..) => Some(Err(client.errors.last().copied())),
                other => panic!("{other:?}"),
            }
        })
    }

    /// The code with which the relay refuses a permission. `turn-client-proto` does not ask for a peer in a family without
    /// a relayed address.
    pub(crate) fn permission_error(&mut self, peer: IpAddr) -> Option<u16> {
        let (realm, nonce) = self.realm_and_nonce.clone().expect("the relay has named them");
        let mut request = Message::builder_request(CREATE_PERMISSION, MessageWriteVec::new());
        let transaction = request.transaction_id();
        let peer = XorPeerAddress::new(SocketAddr::new(peer, 1), transaction);
        request.add_attribute(&peer).unwrap();
        request.add_attribute(&Nonce::new(&nonce).unwrap()).unwrap();
        request.add_attribute(&Realm::new(&realm).unwrap()).unwrap();
        request.add_attribute(&Username::new(USER).unwrap()).unwrap();
        let credentials = LongTermKeyCredentials::new(USER.into(), self.password.into(), realm);
        request
            .add_message_integrity(&credentials.into(), IntegrityAlgorithm::Sha1)
            .unwrap();
        self.socket.send(&request.finish()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "an answer");
            let mut buffer = [0; 2_000];
            let Some(length) = self.read(&mut buffer) else {
                continue;
            };
            let answer = Message::from_bytes(&buffer[..length]).unwrap();
            assert_eq!(answer.transaction_id(), transaction);
            return answer.attribute::<ErrorCode>().ok().map(|error| error.code());
        }
    }

    pub(crate) fn bind_channel(&mut self, peer: SocketAddr) -> Result<(), Option<u16>> {
        let now = self.now();
        self.turn().bind_channel(TransportType::Udp, peer, now).unwrap();
        self.until("a channel, or none", |client| {
            match client.events.pop_front()? {
                TurnEvent::ChannelCreated(_, address) => {
                    assert_eq!(address, peer);
                    Some(Ok(()))
                }
                TurnEvent::ChannelCreateFailed(..) => Some(Err(client.errors.last().copied())),
                // Binding a channel renews the permission.
                TurnEvent::PermissionCreated(..) => None,
                other => panic!("{other:?}"),
            }
        })
    }

    pub(crate) fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let now = self.now();
        let transmit: Option<TransmitBuild<_>> = self
            .turn()
            .send_to(TransportType::Udp, peer, payload, now)
            .unwrap();
        let datagram = transmit.expect("something to send").data.build();
        self.socket.send(&datagram).unwrap();
    }

    pub(crate) fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        self.until("data from a peer", |client| client.received.pop_front())
    }

    /// Deletes the allocation.
    pub(crate) fn delete(&mut self) {
        let now = self.now();
        self.turn().delete(now).unwrap();
        self.step();
    }
}
