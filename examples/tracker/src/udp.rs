//! The tracker over UDP (BEP 15).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use aquatic_udp_protocol::{
    AnnounceEvent, AnnounceInterval, AnnounceRequest, AnnounceResponse, AnnounceResponseFixedData,
    ConnectResponse, ConnectionId, ErrorResponse, InfoHash, NumberOfDownloads, NumberOfPeers, Port, Request,
    RequestParseError, Response, ResponsePeer, ScrapeRequest, ScrapeResponse, TorrentScrapeStatistics,
    TransactionId,
};
use bytes::Bytes;
use metrics::counter;

use crate::{
    connection_id::{Bans, ConnectionIds},
    counters::{UDP_ACCEPTED, UDP_BANNED, UDP_ERRORS},
    swarm::{Announce, Event, Full, INTERVAL, Swarm},
};

/// BEP 15: this is how many torrents fit into one response. Further info hashes are ignored.
const MAX_SCRAPED: u8 = 74;
const BAD_CONNECTION_ID: &str = "connection ID mismatch";
const UNKNOWN_ACTION: &str = "unknown action";
const MALFORMED: &str = "malformed request";

/// The tracker behind one UDP socket.
pub(crate) struct UdpTracker {
    swarm: Arc<Swarm>,
    bans: Arc<Bans>,
    ids: ConnectionIds,
}

/// The first 16 bytes of every request.
struct Header {
    connection_id: i64,
    action: i32,
    transaction_id: TransactionId,
}

impl UdpTracker {
    pub(crate) fn new(swarm: Arc<Swarm>, bans: Arc<Bans>) -> Self {
        Self {
            swarm,
            bans,
            ids: ConnectionIds::new(Instant::now()),
        }
    }

    /// Answers a datagram from the canonical address `client`. Counts it once: as accepted, as an error or as banned.
    pub(crate) fn answer(&self, datagram: &[u8], client: IpAddr, now: Instant) -> Option<Bytes> {
        if self.bans.is_banned(client, now) {
            counter!(UDP_BANNED).increment(1);
            return None;
        }
        let Some(header) = Header::read(datagram) else {
            counter!(UDP_ERRORS).increment(1);
            return None;
        };
        let response = match self.respond(&header, datagram, client, now) {
            Ok((kind, response)) => {
                counter!(UDP_ACCEPTED, "request_kind" => kind).increment(1);
                response
            }
            Err(message) => {
                counter!(UDP_ERRORS).increment(1);
                if header.is_of_a_response() {
                    return None;
                }
                Response::Error(ErrorResponse {
                    transaction_id: header.transaction_id,
                    message: message.into(),
                })
            }
        };
        let mut bytes = Vec::new();
        response.write_bytes(&mut bytes).ok()?;
        Some(bytes.into())
    }

    fn respond(
        &self,
        header: &Header,
        datagram: &[u8],
        client: IpAddr,
        now: Instant,
    ) -> Result<(&'static str, Response), &'static str> {
        // First, so that error messages about the rest of a request go only to clients whose address is not forged.
        if matches!(header.action, 1 | 2) && !self.ids.is_valid(header.connection_id, client, now) {
            self.bans.bad_id(client, now);
            return Err(BAD_CONNECTION_ID);
        }
        if !matches!(header.action, 0..=2) {
            return Err(UNKNOWN_ACTION);
        }
        match Request::parse_bytes(datagram, MAX_SCRAPED) {
            Ok(Request::Connect(request)) => {
                let response = Response::Connect(ConnectResponse {
                    transaction_id: request.transaction_id,
                    connection_id: ConnectionId::new(self.ids.issue(client, now)),
                });
                Ok(("connect", response))
            }
            Ok(Request::Announce(request)) => match self.announce(&request, client, now) {
                Ok(response) => Ok(("announce", response)),
                Err(Full) => Err(Full::MESSAGE),
            },
            Ok(Request::Scrape(request)) => Ok(("scrape", self.scrape(&request))),
            Err(RequestParseError::Sendable { err, .. }) => Err(err),
            Err(RequestParseError::Unsendable { .. }) => Err(MALFORMED),
        }
    }

    fn announce(&self, request: &AnnounceRequest, client: IpAddr, now: Instant) -> Result<Response, Full> {
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
        let (stats, peers) = self.swarm.announce(&announce, now)?;
        let fixed = AnnounceResponseFixedData {
            transaction_id: request.transaction_id,
            announce_interval: AnnounceInterval::new(number(INTERVAL.as_secs())),
            leechers: NumberOfPeers::new(number(stats.leechers)),
            seeders: NumberOfPeers::new(number(stats.seeders)),
        };
        // The swarm returns only peers of the client's family, and the client expects them in that family's format.
        Ok(if client.is_ipv4() {
            let peers = peers.iter().filter_map(|(peer, _)| match peer {
                SocketAddr::V4(peer) => Some(ResponsePeer {
                    ip_address: (*peer.ip()).into(),
                    port: Port(peer.port().into()),
                }),
                SocketAddr::V6(_) => None,
            });
            let peers = peers.collect();
            Response::AnnounceIpv4(AnnounceResponse { fixed, peers })
        } else {
            let peers = peers.iter().filter_map(|(peer, _)| match peer {
                SocketAddr::V4(_) => None,
                SocketAddr::V6(peer) => Some(ResponsePeer {
                    ip_address: (*peer.ip()).into(),
                    port: Port(peer.port().into()),
                }),
            });
            let peers = peers.collect();
            Response::AnnounceIpv6(AnnounceResponse { fixed, peers })
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

    /// Whether the datagram looks like an error response. If those were answered, one datagram with a forged source
    /// could make two trackers answer each other forever.
    fn is_of_a_response(&self) -> bool {
        !matches!(self.action, 0..=2) && self.connection_id >> 32 == 3
    }
}

fn number(n: impl TryInto<i32>) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use aquatic_udp_protocol::{
        AnnounceActionPlaceholder, ConnectRequest, Ipv4AddrBytes, NumberOfBytes, PeerId, PeerKey,
    };

    use super::*;

    const IPV4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const IPV6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn tracker() -> UdpTracker {
        UdpTracker::new(Arc::new(Swarm::new()), Arc::default())
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
    fn truncated_datagrams_of_16_bytes_or_more_are_answered() {
        let tracker = tracker();
        let request = bytes(announce(&tracker, IPV4, 1));
        for len in 0..request.len() {
            let expected = (len >= 16).then(|| error(MALFORMED));
            assert_eq!(answer(&tracker, IPV4, &request[..len]), expected, "{len}");
        }
    }

    #[test]
    fn an_unknown_action_is_answered_with_its_transaction_id() {
        let mut datagram = [0; 16];
        (datagram[11], datagram[15]) = (9, 7);
        assert_eq!(answer(&tracker(), IPV4, &datagram), Some(error(UNKNOWN_ACTION)));
    }

    #[test]
    fn two_trackers_do_not_answer_each_other_forever() {
        let tracker = tracker();
        let mut datagram = tracker.answer(&[7; 64], IPV4, Instant::now());
        assert!(datagram.is_some());
        for _ in 0..2 {
            datagram = datagram.and_then(|datagram| tracker.answer(&datagram, IPV4, Instant::now()));
        }
        assert_eq!(datagram, None);
    }

    #[test]
    fn a_client_with_too_many_bad_ids_is_not_answered() {
        let tracker = tracker();
        let good = bytes(announce(&tracker, IPV4, 1));
        let mut bad = good.clone();
        bad[0] ^= 1;
        for _ in 0..=10 {
            assert_eq!(answer(&tracker, IPV4, &bad), Some(error(BAD_CONNECTION_ID)));
        }
        assert_eq!(answer(&tracker, IPV4, &good), None);
        assert!(answer(&tracker, IPV6, &bytes(announce(&tracker, IPV6, 1))).is_some());
    }
}
