//! The tracker's clients, over UDP and HTTP.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use aquatic_udp_protocol::{
    AnnounceActionPlaceholder, AnnounceEvent, AnnounceRequest, AnnounceResponseFixedData, ConnectRequest,
    ConnectionId, InfoHash, Ipv4AddrBytes, NumberOfBytes, NumberOfPeers, PeerId, PeerKey, Port, Request,
    Response, ScrapeRequest, TransactionId,
};
use bendy::{
    decoding::{Decoder, FromBencode},
    value::Value,
};
use test_support::{
    PATIENCE,
    http::{Answer, get},
};

/// Info hashes with bytes that must be escaped in a URL.
pub(crate) const TORRENT: [u8; 20] = *b"\x00\xff%&=+ \n a torrent..";
pub(crate) const OTHER: [u8; 20] = *b"\x80 another torrent...";
const PEER: [u8; 20] = *b"-XX0000-\x01a peer's id";

/// The answer to an announce, over either protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    seeders: i64,
    leechers: i64,
    peers: Vec<SocketAddr>,
}

/// Expects peers at one address, with these ports.
pub(crate) fn announced(
    seeders: i64,
    leechers: i64,
    ip: IpAddr,
    ports: impl IntoIterator<Item = u16>,
) -> Announced {
    let ports = ports.into_iter();
    let mut peers: Vec<_> = ports.map(|port| SocketAddr::new(ip, port)).collect();
    peers.sort();
    Announced {
        seeders,
        leechers,
        peers,
    }
}

/// The numbers of a torrent in the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scraped {
    pub(crate) seeders: i32,
    pub(crate) downloads: i32,
    pub(crate) leechers: i32,
}

pub(crate) fn scraped(seeders: i32, downloads: i32, leechers: i32) -> Scraped {
    Scraped {
        seeders,
        downloads,
        leechers,
    }
}

/// A client of one of the tracker's UDP sockets.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    is_ipv4: bool,
    pub(crate) connection_id: ConnectionId,
    transactions: Cell<i32>,
}

impl UdpClient {
    /// Without a connection ID.
    pub(crate) fn new(server: SocketAddr) -> Self {
        // On the loopback address of the server's family.
        Self::at(server.ip(), server)
    }

    /// At another address of this host, without a connection ID.
    pub(crate) fn at(ip: IpAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            is_ipv4: server.is_ipv4(),
            connection_id: ConnectionId::new(0),
            transactions: Cell::new(0x0102_0304),
        }
    }

    pub(crate) fn connected(server: SocketAddr) -> Self {
        let mut client = Self::new(server);
        client.connect();
        client
    }

    pub(crate) fn connect(&mut self) {
        let request = ConnectRequest {
            transaction_id: self.next_transaction(),
        };
        let Response::Connect(reply) = self.ask(request) else {
            panic!("a connect is answered with a connection ID");
        };
        self.connection_id = reply.connection_id;
    }

    /// A new ID for each request, so that no answer is mistaken for another.
    pub(crate) fn next_transaction(&self) -> TransactionId {
        self.transactions.set(self.transactions.get() + 1);
        TransactionId::new(self.transactions.get())
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        assert_eq!(self.socket.send(datagram).unwrap(), datagram.len());
    }

    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let len = self.socket.recv(&mut buffer).expect("an answer");
        buffer.truncate(len);
        buffer
    }

    /// The answer. It must have the transaction ID of the request.
    pub(crate) fn ask(&self, request: impl Into<Request>) -> Response {
        let request = request.into();
        self.send(&bytes(request.clone()));
        let reply = Response::parse_bytes(&self.receive(), self.is_ipv4).unwrap();
        let asked = match request {
            Request::Connect(request) => request.transaction_id,
            Request::Announce(request) => request.transaction_id,
            Request::Scrape(request) => request.transaction_id,
        };
        let answered = match &reply {
            Response::Connect(reply) => reply.transaction_id,
            Response::AnnounceIpv4(reply) => reply.fixed.transaction_id,
            Response::AnnounceIpv6(reply) => reply.fixed.transaction_id,
            Response::Scrape(reply) => reply.transaction_id,
            Response::Error(reply) => reply.transaction_id,
        };
        assert_eq!(answered, asked, "{reply:?}");
        reply
    }

    /// The message with which a request is refused.
    pub(crate) fn refusal(&self, request: impl Into<Request>) -> String {
        match self.ask(request) {
            Response::Error(error) => error.message.into_owned(),
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn announce(&self, torrent: [u8; 20], port: u16, event: AnnounceEvent) -> Announced {
        self.announce_as(self.announcement(torrent, port, event))
    }

    pub(crate) fn announce_as(&self, request: AnnounceRequest) -> Announced {
        let (fixed, mut peers): (AnnounceResponseFixedData, Vec<SocketAddr>) = match self.ask(request) {
            Response::AnnounceIpv4(reply) => {
                let peers = reply.peers.iter();
                let peers = peers.map(|peer| (peer.ip_address.0, peer.port.0.get()).into());
                (reply.fixed, peers.collect())
            }
            Response::AnnounceIpv6(reply) => {
                let peers = reply.peers.iter();
                let peers = peers.map(|peer| (peer.ip_address.0, peer.port.0.get()).into());
                (reply.fixed, peers.collect())
            }
            other => panic!("no answer to an announce: {other:?}"),
        };
        assert_eq!({ fixed.announce_interval }.0.get(), 1_800);
        peers.sort();
        Announced {
            seeders: { fixed.seeders }.0.get().into(),
            leechers: { fixed.leechers }.0.get().into(),
            peers,
        }
    }

    pub(crate) fn announcement(&self, torrent: [u8; 20], port: u16, event: AnnounceEvent) -> AnnounceRequest {
        let left = i64::from(event != AnnounceEvent::Completed);
        AnnounceRequest {
            connection_id: self.connection_id,
            action_placeholder: AnnounceActionPlaceholder::default(),
            transaction_id: self.next_transaction(),
            info_hash: InfoHash(torrent),
            peer_id: PeerId(PEER),
            bytes_downloaded: NumberOfBytes::new(0),
            bytes_left: NumberOfBytes::new(left),
            bytes_uploaded: NumberOfBytes::new(0),
            event: event.into(),
            // The tracker must ignore the address that a client gives.
            ip_address: Ipv4AddrBytes([192, 0, 2, 7]),
            key: PeerKey::new(0),
            peers_wanted: NumberOfPeers::new(-1),
            port: Port(port.into()),
        }
    }

    /// An announce whose connection ID was never issued.
    pub(crate) fn with_bad_id(&self) -> AnnounceRequest {
        let mut request = self.announcement(TORRENT, 1, AnnounceEvent::Started);
        request.connection_id = ConnectionId::new(!self.connection_id.0.get());
        request
    }

    pub(crate) fn scraping(&self, torrents: &[[u8; 20]]) -> ScrapeRequest {
        ScrapeRequest {
            connection_id: self.connection_id,
            transaction_id: self.next_transaction(),
            info_hashes: torrents.iter().copied().map(InfoHash).collect(),
        }
    }

    pub(crate) fn scrape(&self, torrents: &[[u8; 20]]) -> Vec<Scraped> {
        let Response::Scrape(reply) = self.ask(self.scraping(torrents)) else {
            panic!("no answer to a scrape");
        };
        let torrents = reply.torrent_stats.iter();
        let torrents = torrents.map(|torrent| Scraped {
            seeders: { torrent.seeders }.0.get(),
            downloads: { torrent.completed }.0.get(),
            leechers: { torrent.leechers }.0.get(),
        });
        torrents.collect()
    }
}

/// The bytes of a request.
pub(crate) fn bytes(request: impl Into<Request>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.into().write_bytes(&mut bytes).unwrap();
    bytes
}

/// An answer of the tracker over HTTP.
pub(crate) trait Bencoded {
    /// Decodes the body of a successful answer. The decoder refuses dictionaries with unsorted keys.
    fn bencoded(&self) -> Value<'static>;

    /// Why the tracker refused.
    fn failure(&self) -> String;

    /// The answer to an announce from `client`, in the compact format of its family.
    fn announced(&self, client: IpAddr) -> Announced;
}

impl Bencoded for Answer {
    fn bencoded(&self) -> Value<'static> {
        assert_eq!(self.status, 200, "{}", self.head);
        let mut decoder = Decoder::new(&self.body);
        let object = decoder.next_object().unwrap().expect("a value");
        let value = Value::decode_bencode_object(object).unwrap().into_owned();
        assert!(
            decoder.next_object().unwrap().is_none(),
            "one value: {}",
            self.text()
        );
        value
    }

    fn failure(&self) -> String {
        let mut answer = dict(self.bencoded());
        let reason = answer.remove("failure reason").expect("a reason");
        assert!(answer.is_empty(), "nothing but the reason: {}", self.text());
        String::from_utf8(byte_string(reason)).unwrap()
    }

    fn announced(&self, client: IpAddr) -> Announced {
        let mut answer = dict(self.bencoded());
        let mut next = |key: &str| answer.remove(key).expect(key);
        assert_eq!(next("interval"), Value::Integer(1_800));
        let (seeders, leechers) = (integer(&next("complete")), integer(&next("incomplete")));
        let peers = byte_string(next("peers"));
        let mut peers: Vec<SocketAddr> = if client.is_ipv4() {
            let peers = peers.chunks(6).map(|peer| {
                let (ip, port) = peer.split_first_chunk::<4>().unwrap();
                (*ip, u16::from_be_bytes(port.try_into().unwrap())).into()
            });
            peers.collect()
        } else {
            assert!(peers.is_empty(), "an IPv6 client has no use for an IPv4 peer");
            let peers = byte_string(next("peers6"));
            let peers = peers.chunks(18).map(|peer| {
                let (ip, port) = peer.split_first_chunk::<16>().unwrap();
                (*ip, u16::from_be_bytes(port.try_into().unwrap())).into()
            });
            peers.collect()
        };
        assert!(answer.is_empty(), "and nothing more: {}", self.text());
        peers.sort();
        Announced {
            seeders,
            leechers,
            peers,
        }
    }
}

fn dict(value: Value<'static>) -> BTreeMap<String, Value<'static>> {
    let Value::Dict(dict) = value else {
        panic!("no dictionary: {value:?}");
    };
    dict.into_iter()
        .map(|(key, value)| (String::from_utf8(key.into_owned()).unwrap(), value))
        .collect()
}

fn byte_string(value: Value<'static>) -> Vec<u8> {
    let Value::Bytes(bytes) = value else {
        panic!("no byte string: {value:?}");
    };
    bytes.into_owned()
}

fn integer(value: &Value<'_>) -> i64 {
    let &Value::Integer(integer) = value else {
        panic!("no integer: {value:?}");
    };
    integer
}

/// The answer to a scrape over HTTP: BEP 48's numbers of each torrent.
pub(crate) fn files(torrents: &[([u8; 20], Scraped)]) -> Value<'static> {
    let key = |key: &[u8]| Cow::Owned(key.to_vec());
    let files = torrents.iter().map(|(torrent, numbers)| {
        let numbers = BTreeMap::from([
            (key(b"complete"), Value::Integer(numbers.seeders.into())),
            (key(b"downloaded"), Value::Integer(numbers.downloads.into())),
            (key(b"incomplete"), Value::Integer(numbers.leechers.into())),
        ]);
        (key(torrent), Value::Dict(numbers))
    });
    Value::Dict(BTreeMap::from([(key(b"files"), Value::Dict(files.collect()))]))
}

/// The path of an announce, with `more` parameters.
pub(crate) fn announce_path(torrent: [u8; 20], port: u16, more: &str) -> String {
    format!(
        "/announce?info_hash={}&peer_id={}&port={port}&uploaded=0&downloaded=0&left=1{more}",
        escaped(&torrent),
        escaped(&PEER)
    )
}

pub(crate) fn announce(server: SocketAddr, torrent: [u8; 20], port: u16) -> Announced {
    get(server, &announce_path(torrent, port, "")).announced(server.ip())
}

/// Each byte percent-encoded.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| ['%', hex(byte >> 4), hex(byte & 15)])
        .collect()
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap()
}
