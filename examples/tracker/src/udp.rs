//! The tracker over UDP (BEP 15).

use std::{
    cell::RefCell,
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use aquatic_udp_protocol::{
    AnnounceEvent, AnnounceInterval, AnnounceRequest, AnnounceResponse, AnnounceResponseFixedData,
    ConnectResponse, ConnectionId, ErrorResponse, InfoHash, Ipv4AddrBytes, Ipv6AddrBytes, NumberOfDownloads,
    NumberOfPeers, Port, Request, RequestParseError, Response, ResponsePeer, ScrapeRequest, ScrapeResponse,
    TorrentScrapeStatistics, TransactionId,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use metrics::{Counter, counter};

use crate::{
    bans::Bans,
    connection_id::ConnectionIds,
    counters::{UDP_ACCEPTED, UDP_BANNED, UDP_ERRORS},
    swarm::{Announce, Event, Full, INTERVAL, Swarm},
};

/// BEP 15: this is how many torrents fit into one response. Further info hashes are ignored.
const MAX_SCRAPED: u8 = 74;
const CONNECT: i32 = 0;
const ANNOUNCE: i32 = 1;
const SCRAPE: i32 = 2;
/// Room for an answer with 200 IPv6 peers, the longest.
const MAX_ANSWER: usize = 20 + 200 * 18;
/// Answers share chunks of memory of this size.
const CHUNK: usize = 64 * 1_024;
/// The length of an error response without its message.
const ERROR_HEADER: usize = 8;
const BAD_CONNECTION_ID: &str = "connection ID mismatch";
const MALFORMED: &str = "malformed request";

/// The tracker behind one UDP listener, or one of several workers that share its connection IDs.
///
/// Source addresses can be forged. So an answer to a datagram without a valid connection ID is never longer than the
/// datagram, and takes no memory. A ban refuses only such datagrams.
pub(crate) struct UdpTracker {
    swarm: Arc<Swarm>,
    bans: Arc<Bans>,
    ids: Arc<ConnectionIds>,
    counters: Counters,
    memory: RefCell<Memory>,
}

#[derive(Clone)]
struct Counters {
    connect: Counter,
    announce: Counter,
    scrape: Counter,
    errors: Counter,
    banned: Counter,
}

/// Buffers that each answer uses again.
struct Memory {
    answers: BytesMut,
    inet: Vec<ResponsePeer<Ipv4AddrBytes>>,
    inet6: Vec<ResponsePeer<Ipv6AddrBytes>>,
}

/// The first 16 bytes of every request.
struct Header {
    connection_id: i64,
    action: i32,
    transaction_id: TransactionId,
}

/// Why a datagram is not served.
enum Refusal {
    Error(ErrorResponse),
    /// An error that is not answered.
    Unanswered,
    Banned,
}

impl UdpTracker {
    pub(crate) fn new(swarm: Arc<Swarm>, bans: Arc<Bans>) -> Self {
        let accepted = |kind| counter!(UDP_ACCEPTED, "request_kind" => kind);
        Self {
            swarm,
            bans,
            ids: Arc::new(ConnectionIds::new(Instant::now())),
            counters: Counters {
                connect: accepted("connect"),
                announce: accepted("announce"),
                scrape: accepted("scrape"),
                errors: counter!(UDP_ERRORS),
                banned: counter!(UDP_BANNED),
            },
            memory: RefCell::new(Memory::new()),
        }
    }

    /// The same tracker, for another task.
    pub(crate) fn another_worker(&self) -> Self {
        Self {
            swarm: Arc::clone(&self.swarm),
            bans: Arc::clone(&self.bans),
            ids: Arc::clone(&self.ids),
            counters: self.counters.clone(),
            memory: RefCell::new(Memory::new()),
        }
    }

    /// `rate` misses the first increment of a series that does not start at zero.
    pub(crate) fn start_at_zero(&self) {
        let Counters {
            connect,
            announce,
            scrape,
            errors,
            banned,
        } = &self.counters;
        for counter in [connect, announce, scrape, errors, banned] {
            counter.increment(0);
        }
    }

    /// Answers a datagram from the canonical address `client`. Counts it once: as accepted, as an error or as banned.
    pub(crate) fn answer(&self, datagram: &[u8], client: IpAddr, now: Instant) -> Option<Bytes> {
        let memory = &mut *self.memory.borrow_mut();
        let (counter, response) = match self.respond(datagram, client, now, memory) {
            Ok((counter, response)) => (counter, Some(response)),
            Err(Refusal::Error(error)) => (&self.counters.errors, Some(Response::Error(error))),
            Err(Refusal::Unanswered) => (&self.counters.errors, None),
            Err(Refusal::Banned) => (&self.counters.banned, None),
        };
        counter.increment(1);
        memory.write(response?)
    }

    fn respond(
        &self,
        datagram: &[u8],
        client: IpAddr,
        now: Instant,
        memory: &mut Memory,
    ) -> Result<(&Counter, Response), Refusal> {
        let header = Header::read(datagram).ok_or(Refusal::Unanswered)?;
        let error = |message: &'static str| {
            Refusal::Error(ErrorResponse {
                transaction_id: header.transaction_id,
                message: message.into(),
            })
        };
        match header.action {
            CONNECT => {}
            ANNOUNCE | SCRAPE if self.ids.is_valid(header.connection_id, client, now) => {}
            ANNOUNCE | SCRAPE => {
                let is_request = Request::parse_bytes(datagram, 1).is_ok();
                return Err(if self.bans.refuse(client, is_request, now) {
                    Refusal::Banned
                } else if datagram.len() >= ERROR_HEADER + BAD_CONNECTION_ID.len() {
                    // The error makes clients connect again, for example after a restart of the tracker.
                    error(BAD_CONNECTION_ID)
                } else {
                    Refusal::Unanswered
                });
            }
            // Error responses of other trackers are among these. If they were answered, one datagram with a forged
            // source could make two trackers answer each other forever.
            _ => return Err(Refusal::Unanswered),
        }
        match Request::parse_bytes(datagram, MAX_SCRAPED) {
            Ok(Request::Connect(request)) => {
                let response = Response::Connect(ConnectResponse {
                    transaction_id: request.transaction_id,
                    connection_id: ConnectionId::new(self.ids.issue(client, now)),
                });
                Ok((&self.counters.connect, response))
            }
            Ok(Request::Announce(request)) => match self.announce(&request, client, now, memory) {
                Ok(response) => Ok((&self.counters.announce, response)),
                Err(full) => Err(error(full.message())),
            },
            Ok(Request::Scrape(request)) => Ok((&self.counters.scrape, self.scrape(&request))),
            Err(_) if header.action == CONNECT => Err(Refusal::Unanswered),
            Err(RequestParseError::Sendable { err, .. }) => Err(error(err)),
            Err(RequestParseError::Unsendable { .. }) => Err(error(MALFORMED)),
        }
    }

    fn announce(
        &self,
        request: &AnnounceRequest,
        client: IpAddr,
        now: Instant,
        memory: &mut Memory,
    ) -> Result<Response, Full> {
        let announce = Announce {
            info_hash: request.info_hash.0,
            peer: SocketAddr::new(client, request.port.0.get()),
            peer_id: request.peer_id.0,
            is_seeder: request.bytes_left.0.get() == 0,
            event: match request.event.into() {
                AnnounceEvent::Started => Event::Started,
                AnnounceEvent::Stopped => Event::Stopped,
                AnnounceEvent::Completed => Event::Completed,
                AnnounceEvent::None => Event::None,
            },
            // BEP 15: -1 asks for the default.
            peers_wanted: usize::try_from(request.peers_wanted.0.get()).ok(),
        };
        self.swarm.announce(&announce, now, |stats, others| {
            let fixed = AnnounceResponseFixedData {
                transaction_id: request.transaction_id,
                announce_interval: AnnounceInterval::new(number(INTERVAL.as_secs())),
                leechers: NumberOfPeers::new(number(stats.leechers)),
                seeders: NumberOfPeers::new(number(stats.seeders)),
            };
            // The swarm picks only peers of the client's family, and the client expects them in that family's format.
            if client.is_ipv4() {
                let mut peers = mem::take(&mut memory.inet);
                peers.extend(others.filter_map(|peer| match peer.address {
                    SocketAddr::V4(peer) => Some(ResponsePeer {
                        ip_address: (*peer.ip()).into(),
                        port: Port(peer.port().into()),
                    }),
                    SocketAddr::V6(_) => None,
                }));
                Response::AnnounceIpv4(AnnounceResponse { fixed, peers })
            } else {
                let mut peers = mem::take(&mut memory.inet6);
                peers.extend(others.filter_map(|peer| match peer.address {
                    SocketAddr::V4(_) => None,
                    SocketAddr::V6(peer) => Some(ResponsePeer {
                        ip_address: (*peer.ip()).into(),
                        port: Port(peer.port().into()),
                    }),
                }));
                Response::AnnounceIpv6(AnnounceResponse { fixed, peers })
            }
        })
    }

    fn scrape(&self, request: &ScrapeRequest) -> Response {
        let torrent_stats = request.info_hashes.iter().map(|InfoHash(info_hash)| {
            let stats = self.swarm.scrape(info_hash);
            TorrentScrapeStatistics {
                seeders: NumberOfPeers::new(number(stats.seeders)),
                completed: NumberOfDownloads::new(number(stats.downloads)),
                leechers: NumberOfPeers::new(number(stats.leechers)),
            }
        });
        Response::Scrape(ScrapeResponse {
            transaction_id: request.transaction_id,
            torrent_stats: torrent_stats.collect(),
        })
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            answers: BytesMut::with_capacity(CHUNK),
            inet: Vec::new(),
            inet6: Vec::new(),
        }
    }

    fn write(&mut self, response: Response) -> Option<Bytes> {
        self.answers.reserve(MAX_ANSWER);
        response.write_bytes(&mut (&mut self.answers).writer()).ok()?;
        match response {
            Response::AnnounceIpv4(AnnounceResponse { mut peers, .. }) => {
                peers.clear();
                self.inet = peers;
            }
            Response::AnnounceIpv6(AnnounceResponse { mut peers, .. }) => {
                peers.clear();
                self.inet6 = peers;
            }
            _ => {}
        }
        Some(self.answers.split().freeze())
    }
}

impl Header {
    fn read(datagram: &[u8]) -> Option<Self> {
        let (connection_id, rest) = datagram.split_first_chunk()?;
        let (action, rest) = rest.split_first_chunk()?;
        let (transaction_id, _) = rest.split_first_chunk()?;
        Some(Self {
            connection_id: i64::from_be_bytes(*connection_id),
            action: i32::from_be_bytes(*action),
            transaction_id: TransactionId::new(i32::from_be_bytes(*transaction_id)),
        })
    }
}

fn number(n: impl TryInto<i32>) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aquatic_udp_protocol::{
        AnnounceActionPlaceholder, ConnectRequest, Ipv4AddrBytes, NumberOfBytes, PeerId, PeerKey,
    };

    use super::*;

    const IPV4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const IPV6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn tracker() -> UdpTracker {
        let bans = Bans::new(100, Duration::ZERO, Instant::now());
        UdpTracker::new(
            Arc::new(Swarm::new(usize::MAX, usize::MAX, usize::MAX)),
            Arc::new(bans),
        )
    }

    fn bytes(request: impl Into<Request>) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.into().write_bytes(&mut bytes).unwrap();
        bytes
    }

    fn announce(tracker: &UdpTracker, client: IpAddr, port: u16) -> AnnounceRequest {
        AnnounceRequest {
            connection_id: ConnectionId::new(tracker.ids.issue(client, Instant::now())),
            action_placeholder: AnnounceActionPlaceholder::default(),
            transaction_id: TransactionId::new(7),
            info_hash: InfoHash([1; 20]),
            peer_id: PeerId([2; 20]),
            bytes_downloaded: NumberOfBytes::new(0),
            bytes_left: NumberOfBytes::new(1),
            bytes_uploaded: NumberOfBytes::new(0),
            event: AnnounceEvent::Started.into(),
            ip_address: Ipv4AddrBytes([0; 4]),
            key: PeerKey::new(0),
            peers_wanted: NumberOfPeers::new(-1),
            port: Port(port.into()),
        }
    }

    fn answer(tracker: &UdpTracker, client: IpAddr, datagram: &[u8]) -> Option<Response> {
        let reply = tracker.answer(datagram, client, Instant::now())?;
        Some(Response::parse_bytes(&reply, client.is_ipv4()).unwrap())
    }

    fn error(message: &'static str) -> Response {
        Response::Error(ErrorResponse {
            transaction_id: TransactionId::new(7),
            message: message.into(),
        })
    }

    #[test]
    fn a_connect_returns_an_id_that_an_announce_can_use() {
        let tracker = tracker();
        let connect = ConnectRequest {
            transaction_id: TransactionId::new(7),
        };
        let Some(Response::Connect(reply)) = answer(&tracker, IPV4, &bytes(connect)) else {
            panic!("not connected");
        };
        let mut request = announce(&tracker, IPV4, 1);
        request.connection_id = reply.connection_id;
        assert!(matches!(
            answer(&tracker, IPV4, &bytes(request)),
            Some(Response::AnnounceIpv4(_))
        ));
        assert_eq!(
            answer(&tracker, IPV6, &bytes(request)),
            Some(error(BAD_CONNECTION_ID))
        );
    }

    #[test]
    fn peers_have_the_format_of_the_clients_family() {
        let tracker = tracker();
        for client in [IPV4, IPV6] {
            answer(&tracker, client, &bytes(announce(&tracker, client, 1)));
            let request = bytes(announce(&tracker, client, 2));
            let reply = tracker.answer(&request, client, Instant::now()).unwrap();
            assert_eq!(reply.len(), 20 + if client.is_ipv4() { 6 } else { 18 });
            assert_eq!(reply[reply.len() - 2..], [0, 1]);
        }
    }

    #[test]
    fn bytes_after_an_announce_are_ignored() {
        let tracker = tracker();
        let mut request = bytes(announce(&tracker, IPV4, 1));
        request.extend([2, 1, b'/']);
        assert!(matches!(
            answer(&tracker, IPV4, &request),
            Some(Response::AnnounceIpv4(_))
        ));
    }

    #[test]
    fn a_scrape_answers_the_first_74_torrents() {
        let tracker = tracker();
        let header = announce(&tracker, IPV4, 1);
        let scrape = |count| ScrapeRequest {
            connection_id: header.connection_id,
            transaction_id: header.transaction_id,
            info_hashes: vec![InfoHash([1; 20]); count],
        };
        for (asked, answered) in [(1, 1), (74, 74), (75, 74), (3_000, 74)] {
            let Some(Response::Scrape(reply)) = answer(&tracker, IPV4, &bytes(scrape(asked))) else {
                panic!("no scrape response");
            };
            assert_eq!(reply.torrent_stats.len(), answered);
        }
        let mut odd = bytes(scrape(1));
        odd.pop();
        assert_eq!(
            answer(&tracker, IPV4, &odd),
            Some(error("Invalid info hash list"))
        );
    }

    #[test]
    fn a_truncated_announce_is_an_error() {
        let tracker = tracker();
        let request = bytes(announce(&tracker, IPV4, 1));
        for len in 0..request.len() {
            let expected = (len >= 16).then(|| error(MALFORMED));
            assert_eq!(answer(&tracker, IPV4, &request[..len]), expected, "{len}");
        }
    }

    #[test]
    fn without_a_valid_id_the_answer_is_not_longer_than_the_datagram() {
        let tracker = tracker();
        let mut request = bytes(announce(&tracker, IPV4, 1));
        request[0] ^= 1;
        for action in (-1..=3_i32).map(i32::to_be_bytes) {
            request[8..12].copy_from_slice(&action);
            for len in 0..=request.len() {
                let expected = matches!(action, [0, 0, 0, 1 | 2]) && len >= 30;
                let reply = tracker.answer(&request[..len], IPV4, Instant::now());
                assert_eq!(
                    reply.map(|reply| reply.len()),
                    expected.then_some(30),
                    "{action:?} {len}"
                );
            }
        }
    }

    #[test]
    fn two_trackers_do_not_answer_each_other_forever() {
        let tracker = tracker();
        let mut request = bytes(announce(&tracker, IPV4, 1));
        request[0] ^= 1;
        let reply = tracker.answer(&request, IPV4, Instant::now()).unwrap();
        assert_eq!(tracker.answer(&reply, IPV4, Instant::now()), None);
        let connect = bytes(ConnectRequest {
            transaction_id: TransactionId::new(7),
        });
        let reply = tracker.answer(&connect, IPV4, Instant::now()).unwrap();
        assert_eq!(tracker.answer(&reply, IPV4, Instant::now()), None);
    }

    #[test]
    fn a_ban_refuses_only_datagrams_without_a_valid_id() {
        let tracker = tracker();
        let good = bytes(announce(&tracker, IPV4, 1));
        let mut bad = good.clone();
        bad[0] ^= 1;
        for _ in 0..100 {
            assert_eq!(answer(&tracker, IPV4, &bad), Some(error(BAD_CONNECTION_ID)));
        }
        for _ in 0..900 {
            assert_eq!(answer(&tracker, IPV4, &bad), None);
            assert!(matches!(
                answer(&tracker, IPV4, &good),
                Some(Response::AnnounceIpv4(_))
            ));
        }
        let connect = bytes(ConnectRequest {
            transaction_id: TransactionId::new(7),
        });
        assert!(matches!(
            answer(&tracker, IPV4, &connect),
            Some(Response::Connect(_))
        ));
    }
}
